"""Every rule of a 910B that the simulator knows, with a call that breaks it and the sentence that this gives."""

from __future__ import annotations

from typing import Any, Callable

import pytest
import torch
from samples import BATCH, CAUSAL, SLOTS, run, samples, whole_mask
from simulator.attention_rules import Forbidden

Change = Callable[[dict[str, Any]], Any]


def strided(name: str) -> Change:
    """The same numbers in the same shape, with other strides."""
    return lambda call: {name: call[name].transpose(-1, -2).contiguous().transpose(-1, -2)}


def cast(name: str, dtype: torch.dtype) -> Change:
    return lambda call: {name: call[name].to(dtype)}


def cut(name: str, dim: int, size: int) -> Change:
    return lambda call: {name: call[name].narrow(dim, 0, size).contiguous()}


def given(**changes: Any) -> Change:
    def change(_: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.to("npu:0") if isinstance(value, torch.Tensor) else value for name, value in changes.items()
        }

    return change


def sized(heads: int, key_heads: int, slots: int, width: int, batch: int = BATCH) -> Change:
    """An attention of one query token in these sizes."""

    def change(_: dict[str, Any]) -> dict[str, Any]:
        keys = torch.zeros(batch, key_heads, slots, width, dtype=torch.float16, device="npu:0")
        query = torch.zeros(batch, heads, 1, width, dtype=torch.float16, device="npu:0")
        return {"query": query, "key": keys, "value": keys, "num_heads": heads, "num_key_value_heads": key_heads}

    return change


def turned(*shape: int) -> Change:
    """A rotation of an input in this shape."""
    zeros = torch.zeros(shape, dtype=torch.float16)
    return given(input=zeros, r1=zeros[:1, :1], r2=zeros[:1, :1])


F32, F64 = torch.float32, torch.float64
WRONG: list[tuple[str, Change, str]] = [
    ("rms_norm", cast("input", F64), "input must be float16"),
    ("rms_norm", cut("input", 0, 0), "not be empty"),
    ("rms_norm", lambda call: {"input": call["input"][0, 0]}, "2 to 8 dimensions"),
    ("rms_norm", cast("gamma", torch.bfloat16), "gamma must be float32 or"),
    ("rms_norm", cut("gamma", 0, 16), "gamma must have the shape"),
    ("add_rms_norm", cast("gamma", F32), "gamma must have x1's dtype"),
    ("add_rms_norm", cut("x2", 0, 1), "one shape and one dtype"),
    ("add_rms_norm", cast("x2", F32), "one shape and one dtype"),
    ("add_rms_norm", cut("gamma", 0, 16), "gamma must have the shape"),
    ("add_rms_norm", lambda call: {"x1": call["x1"][:0], "x2": call["x2"][:0]}, "not be empty"),
    ("rotary_mul", strided("input"), "input must be contiguous"),
    ("rotary_mul", strided("r1"), "r1 must be contiguous"),
    ("rotary_mul", cut("r1", 2, 4), "r1 and r2 must have one shape"),
    ("rotary_mul", cast("r1", F32), "input's dtype"),
    ("rotary_mul", lambda call: {"r1": call["r1"][0], "r2": call["r2"][0]}, "four dimensions"),
    ("rotary_mul", lambda call: {"input": call["input"].transpose(1, 2).contiguous()}, "r1 must be 11SD"),
    ("rotary_mul", lambda call: {"input": call["input"][..., :15].contiguous()}, "D must be even"),
    ("rotary_mul", lambda call: {"r1": call["r1"] * 2}, "between -1 and 1"),
    ("rotary_mul", turned(1000, 1, 5, 16), "below 1000"),
    ("rotary_mul", turned(1, 1000, 1001, 2), "below 1000"),
    ("rotary_mul", turned(1, 1, 5, 896), "below 896"),
    ("rotary_mul", cast("input", F64), "float16, bfloat16 or float32"),
    ("swiglu", strided("input"), "input must be contiguous"),
    ("swiglu", cut("input", 2, 31), "must be even"),
    ("swiglu", cut("input", 0, 0), "not be empty"),
    ("swiglu", cast("input", F64), "float16, bfloat16 or float32"),
    ("scatter_update", lambda call: {"indices": call["indices"] + 3}, r"indices \[7\] write outside data"),
    ("scatter_update", lambda call: {"indices": call["indices"] - 5}, r"indices \[-1\] write outside data"),
    ("scatter_update", lambda call: {"updates": call["updates"][0]}, "one rank, not 4 and 3"),
    ("scatter_update", cast("updates", F32), "one dtype"),
    ("scatter_update", cast("indices", F32), "int32 or int64"),
    ("scatter_update", given(indices=torch.tensor([1, 2])), "one index per row"),
    ("scatter_update", given(indices=torch.zeros(1, 1, 1, dtype=torch.long)), "one or two dimensions"),
    ("scatter_update", cut("updates", 1, 5), "along the axis alone"),
    ("scatter_update", strided("updates"), "updates must be contiguous"),
    ("scatter_update", strided("input"), "data must be contiguous"),
    ("scatter_update", lambda call: {"updates": call["updates"].repeat(1, 1, 4, 1)}, "longer than data"),
    ("int8", lambda call: {"x": call["x"][None]}, "two dimensions"),
    ("int8", cast("x", F32), "x must be float16 or bfloat16"),
    ("int8", cast("antiquant_scale", F32), "antiquant_scale must be"),
    ("int8", cut("antiquant_scale", 0, 4), "antiquant_scale must be"),
    ("int8", lambda call: {"weight": call["weight"].t()}, "share K"),
    ("int8", strided("x"), "x must be contiguous"),
    (
        "int8",
        lambda call: {"weight": call["weight"].t()[:, ::2].t(), "x": call["x"][:, :16].contiguous()},
        "transposed",
    ),
    ("int8", given(weight=torch.zeros(32, 70000, dtype=torch.int8)), "at most 65535"),
    ("int8", given(bias=torch.zeros(8)), "bias must be torch.float16"),
    ("int8", given(bias=torch.zeros(4, dtype=torch.float16)), r"bias must be \(8,\)"),
    ("int8", cut("x", 0, 0), "M must be from 1"),
    ("int8", given(antiquant_offset=torch.zeros(8)), "antiquant_offset must be"),
    ("int8", lambda call: {"bias": call["antiquant_scale"].repeat_interleave(2)[::2]}, "bias must be contiguous"),
    ("int8", given(inner_precise=2), "inner_precise"),
    ("prefill", strided("query"), "query must be contiguous"),
    ("decode", strided("key"), "key must be contiguous"),
    ("prefill", strided("value"), "value must be contiguous"),
    ("decode", cast("query", F32), "query must be float16"),
    ("decode", cast("value", torch.bfloat16), "query's dtype"),
    ("decode", cut("value", 2, SLOTS - 1), "one shape"),
    ("decode", given(scale=1.0), "scale was left at 1.0"),
    ("prefill", lambda call: {key: call[key] for key in call if key != "scale"} | {"scale": 1.0}, "scale was left"),
    ("decode", sized(300, 300, 8, 16), "at most 256 heads"),
    ("decode", sized(128, 1, 8, 16), "64 to one key head"),
    ("decode", sized(4, 4, 8, 520), "at most 512 and 16-byte aligned"),
    ("decode", sized(4, 4, 8, 4), "at most 512 and 16-byte aligned"),
    ("decode", sized(1, 1, 262145, 8), "at most 262144 key slots"),
    ("decode", lambda call: {name: call[name][:1] for name in ("key", "value")}, "do not fit"),
    ("decode", given(num_heads=3), "must divide|do not fit"),
    ("decode", given(num_heads=2, num_key_value_heads=2), "do not fit input_layout BNSD"),
    ("prefill", given(num_key_value_heads=0), "do not fit input_layout BNSD"),
    ("prefill", given(input_layout="BSND"), "do not fit input_layout BSND"),
    ("prefill", given(input_layout="BSH"), "takes 3 dimensions"),
    ("decode", given(inner_precise=2), "inner_precise"),
    ("prefill", given(inner_precise=4), "inner_precise"),
    ("decode", sized(4, 4, 40, 16, batch=3), "one entry per sequence: 2 for 3"),
    ("decode", given(actual_seq_lengths_kv=[30, SLOTS + 1]), f"between 1 and {SLOTS}"),
    ("decode", given(actual_seq_lengths_kv=[0, 30]), f"between 1 and {SLOTS}"),
    ("prefill", given(actual_seq_lengths=[6, 5]), "between 1 and 5"),
    ("prefill", given(sparse_mode=5), "sparse_mode must be 0 to 4"),
    ("prefill", given(atten_mask=None), "needs the mask"),
    ("prefill", given(atten_mask=None, sparse_mode=1), "needs the whole mask"),
    ("prefill", given(atten_mask=CAUSAL[:5, :5]), r"needs a \(2048, 2048\) bool mask"),
    ("prefill", given(atten_mask=CAUSAL.to(torch.int8)), r"needs a \(2048, 2048\) bool mask"),
    ("prefill", given(atten_mask=~CAUSAL), "True above the diagonal"),
    ("prefill", given(atten_mask=CAUSAL.triu(2)), "True above the diagonal"),
    ("prefill", given(sparse_mode=0), "the whole key tensor wide"),
    ("prefill, whole mask", given(sparse_mode=2), r"needs a \(2048, 2048\) bool mask"),
    ("prefill, whole mask", cast("atten_mask", torch.float16), "bool, int8 or uint8"),
    ("prefill, whole mask", cut("atten_mask", 3, 30), "the whole key tensor wide"),
    ("prefill, whole mask", strided("atten_mask"), "atten_mask must be contiguous"),
    ("prefill, whole mask", lambda call: {"atten_mask": torch.ones_like(call["atten_mask"])}, "sees no key"),
    ("decode", given(atten_mask=CAUSAL, sparse_mode=3), "the whole key tensor wide"),
    ("decode, mask", cut("atten_mask", 3, 30), "the whole key tensor wide"),
    ("decode", given(atten_mask=torch.zeros(1, 1, 1, SLOTS, dtype=torch.bool)), "the whole key tensor wide"),
    ("encoder", cast("query", F64), "query must be float16"),
    ("encoder", cast("key", F32), "one dtype"),
    ("encoder", cut("value", 2, 4), "must be BNSD"),
    ("encoder", given(head_num=3), "head_num heads"),
    ("encoder", cut("query", 1, 3), "head_num heads"),
    ("encoder", lambda _: dict.fromkeys(("query", "key", "value"), torch.zeros(1, 4, 2, 769).to("npu:0")), "768"),
    (
        "encoder",
        lambda _: {**dict.fromkeys(("query", "key", "value"), torch.zeros(1, 257, 2, 8).to("npu:0")), "head_num": 257},
        "256 heads",
    ),
    ("encoder", cut("query", 0, 1), "one B"),
    ("encoder", cut("query", 3, 80), "one D"),
]
UNSIMULATED: list[tuple[str, Change, str]] = [
    ("decode", given(input_layout="TND"), "input_layout TND"),
    ("decode", given(block_size=128), "block_size"),
    ("decode", lambda call: {"antiquant_scale": call["key"]}, "antiquant_scale"),
    ("prefill", given(sparse_mode=4), "sparse_mode 4"),
    ("prefill", given(inner_precise=3), "inner_precise 1 or 3"),
    ("decode", given(inner_precise=1), "inner_precise 1 or 3"),
    ("int8", given(inner_precise=1), "inner_precise 1"),
    ("prefill", given(next_tokens=0), "next_tokens"),
    ("rotary_mul", given(rotary_mode="interleave"), "rotary_mode"),
    ("scatter_update", given(axis=1), "axis"),
    ("int8", given(antiquant_group_size=32), "antiquant_group_size"),
    ("encoder", given(atten_mask=CAUSAL[:5, :5]), "atten_mask"),
    ("encoder", given(keep_prob=0.9), "dropout"),
    ("encoder", given(input_layout="BSND"), "layout"),
]


@pytest.mark.parametrize("name", samples())
def test_right_calls_pass(name: str) -> None:
    run(*samples()[name])


@pytest.mark.parametrize(("name", "change", "sentence"), WRONG)
def test_a_call_that_breaks_a_rule_raises_a_sentence(name: str, change: Change, sentence: str) -> None:
    op, arguments = samples()[name]
    with pytest.raises(Forbidden, match=sentence) as problem:
        run(op, {**arguments, **change(arguments)})
    assert str(problem.value).startswith(f"{op}: ")


@pytest.mark.parametrize(("name", "change", "sentence"), UNSIMULATED)
def test_what_the_simulator_cannot_compute_is_said(name: str, change: Change, sentence: str) -> None:
    op, arguments = samples()[name]
    with pytest.raises(NotImplementedError, match=f"{sentence}.*not simulated"):
        run(op, {**arguments, **change(arguments)})


def test_a_length_for_all_sequences_passes_and_more_than_enough_too() -> None:
    op, arguments = samples()["decode"]
    run(op, {**arguments, "actual_seq_lengths_kv": [30]})
    expected = run(op, arguments)[0].cpu()
    assert torch.equal(run(op, {**arguments, "actual_seq_lengths_kv": [30, 25, 7]})[0].cpu(), expected)


def test_a_mask_of_two_dimensions_has_a_row_per_sequence_for_one_token() -> None:
    op, arguments = samples()["decode"]
    mask = torch.arange(SLOTS).repeat(BATCH, 1) < torch.tensor([[3], [9]])
    flat, deep = (run(op, {**arguments, "atten_mask": m.to("npu:0")})[0].cpu() for m in (mask, mask[:, None, None]))
    assert torch.equal(flat, deep)
    assert not torch.equal(flat, run(op, arguments)[0].cpu())


def test_integer_masks_pass() -> None:
    op, arguments = samples()["prefill, whole mask"]
    one, other = (run(op, {**arguments, "atten_mask": whole_mask(5, dtype)})[0] for dtype in (torch.bool, torch.uint8))
    assert torch.equal(one.cpu(), other.cpu())
