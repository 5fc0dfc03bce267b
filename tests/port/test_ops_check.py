"""The NPU's operations, and the check of them on the user's device, with torch_npu stood in for on the CPU.

What is shown: that the calls keep to the documentation, and that the check finds what is wrong and replaces it. Not
shown: anything that a real kernel computes.
"""

from __future__ import annotations

import functools

import pytest
import torch
from npu_stand_in import CPU, HALF, bad, mask_not_read_beyond_512
from port.models import llama_ops
from port.models.llama_ops import REFERENCE
from port.models.ops_compare import CRASHED, DIFFERS, OK, PLAIN, RAISED, DeviceLost, Finding, check, repair

BOTH = ("attention", "attention with padding")


def outcomes(findings):
    return {finding.op: finding.outcome for finding in findings}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_npu_calls_keep_to_the_documentation_and_compute_the_same(npu_table, dtype):
    found = outcomes(check(npu_table, CPU, (dtype,)))
    assert found.pop("linear") == PLAIN
    assert set(found.values()) == {OK}, found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_reference_in_lower_precision_passes_with_room(dtype):
    """Half of what is allowed is left to kernels which order their sums in another way."""
    copy = llama_ops.Ops(*[functools.partial(op) for op in REFERENCE])
    findings = check(copy, CPU, (dtype,))
    assert set(outcomes(findings).values()) == {OK}
    assert max(finding.share for finding in findings) < 0.5


def test_random_numbers_of_the_caller_stay(npu_table):
    before = torch.random.get_rng_state()
    check(npu_table, CPU, HALF)
    assert torch.equal(before, torch.random.get_rng_state())


KERNEL_MISTAKES = {
    "eps": ("npu_rms_norm", lambda good, x, g, eps: good(x, g), {"rms_norm"}),
    "eps after the root": (
        "npu_add_rms_norm",
        lambda good, a, b, g, eps: good(a, b, g, eps * eps),
        {"add_rms_norm"},
    ),
    "squares overflow": (
        "npu_rms_norm",
        lambda good, x, g, eps: ((x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()) * g, None),
        {"rms_norm"},
    ),
    "sum not returned": (
        "npu_add_rms_norm",
        lambda good, a, b, g, eps: (*good(a, b, g, eps)[:2], b),
        {"add_rms_norm"},
    ),
    "neighbours are paired": (
        "npu_rotary_mul",
        lambda good, x, cos, sin: (
            good(x.unflatten(-1, (-1, 2)).mT.flatten(-2).contiguous(), cos, sin).unflatten(-1, (2, -1)).mT.flatten(-2)
        ),
        {"rope"},
    ),
    "the other way round": ("npu_rotary_mul", lambda good, x, cos, sin: good(x, cos, -sin), {"rope"}),
    "first row's angles": (
        "npu_rotary_mul",
        lambda good, x, cos, sin: good(x, cos[:1].contiguous(), sin[:1].contiguous()),
        {"rope"},
    ),
    "one slot late": (
        "scatter_update_",
        lambda good, data, at, new, axis: good(data, (at + 1).clamp(max=data.shape[axis] - new.shape[axis]), new, axis),
        {"write_kv"},
    ),
    "first token only": (
        "scatter_update_",
        lambda good, data, at, new, axis: good(data, at, new[:, :, :1].contiguous(), axis),
        {"write_kv"},
    ),
    "gate and up swapped": (
        "npu_swiglu",
        lambda good, x, dim: good(torch.cat(x.chunk(2, dim)[::-1], dim), dim),
        {"swiglu"},
    ),
    "one key too few": (
        "npu_fused_infer_attention_score",
        lambda good, *a, actual_seq_lengths_kv, **k: good(
            *a, actual_seq_lengths_kv=[max(n - 1, 1) for n in actual_seq_lengths_kv], **k
        ),
        {"attention", "attention with padding"},
    ),
    "one key too many": (
        "npu_fused_infer_attention_score",
        lambda good, q, key, value, actual_seq_lengths_kv, **k: good(
            q, key, value, actual_seq_lengths_kv=[min(n + 1, key.shape[2]) for n in actual_seq_lengths_kv], **k
        ),
        {"attention"},  # with padding the mask covers every slot
    ),
    "another scale": (
        "npu_fused_infer_attention_score",
        lambda good, *a, scale, **k: good(*a, scale=scale * 2**0.5, **k),
        {"attention", "attention with padding"},
    ),
    "causal from the first key": (
        "npu_fused_infer_attention_score",
        lambda good, q, key, value, sparse_mode, **k: (
            good(q, key, value, sparse_mode=sparse_mode, **k)
            if sparse_mode != 3
            else good(q, key, value, sparse_mode=3, **{**k, "actual_seq_lengths_kv": [q.shape[2]] * len(q)})
        ),
        {"attention"},
    ),
    "mask not read beyond 512": (
        "npu_fused_infer_attention_score",
        mask_not_read_beyond_512,
        {"attention with padding"},
    ),
    "scale forgotten": (
        "npu_weight_quant_batchmatmul",
        lambda good, x, w, scale, bias: good(x, w, torch.full_like(scale, 1 / 1024), bias=bias),
        {"int8_linear"},
    ),
    "bias forgotten": (
        "npu_weight_quant_batchmatmul",
        lambda good, x, w, scale, bias: good(x, w, scale),
        {"int8_linear"},
    ),
    "NaN": ("npu_swiglu", lambda good, x, dim: good(x, dim) * float("nan"), {"swiglu"}),
    "one NaN": (
        "npu_fused_infer_attention_score",
        lambda good, *a, **k: (good(*a, **k)[0].index_fill(-1, torch.tensor(3), float("nan")), None),
        {"attention", "attention with padding"},
    ),
    "another dtype": ("npu_swiglu", lambda good, x, dim: good(x, dim).float(), {"swiglu"}),
    "another shape": ("npu_swiglu", lambda good, x, dim: good(x, dim)[..., :1], {"swiglu"}),
}


@pytest.mark.parametrize("mistake", list(KERNEL_MISTAKES))
def test_a_wrong_kernel_is_found_and_nothing_else(mistake, plant, npu_table):
    name, change, caught = KERNEL_MISTAKES[mistake]
    plant(name, change)
    findings = check(npu_table, CPU, HALF)
    assert bad(findings) == caught, [finding for finding in findings if finding.bad]


def polarity(table):
    def mask(*args):
        made = table.mask(*args)
        return None if made is None else ~made if made.dim() == 4 else made.T.contiguous()

    return table._replace(mask=mask)


def off_by_one(table):
    return table._replace(write_kv=lambda cache, new, slots: table.write_kv(cache, new, (slots - 1).clamp(min=0)))


def swapped(table):
    return table._replace(attention=lambda q, k, v, length, mask: table.attention(q, v, k, length, mask))


def none_visible(table):
    return table._replace(mask=lambda padding, slots, length, capacity: table.mask(None, slots, length, capacity))


@pytest.mark.parametrize(
    ("mistake", "caught"),
    [
        (polarity, {"attention", "attention with padding"}),
        (off_by_one, {"write_kv"}),
        (swapped, {"attention", "attention with padding"}),
        (none_visible, {"attention with padding"}),
    ],
)
def test_a_wrong_call_is_found(mistake, caught, npu_table):
    assert bad(check(mistake(npu_table), CPU, HALF)) == caught


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_found_is_replaced_and_the_repaired_table_passes(dtype, plant, npu_table):
    for name in ("npu_rms_norm", "scatter_update_", "npu_fused_infer_attention_score"):
        plant(name, lambda good, *args, **kwargs: [][0])
    findings = check(npu_table, CPU, (dtype,))
    assert bad(findings) == {"rms_norm", "write_kv", "attention", "attention with padding"}
    assert {finding.outcome for finding in findings if finding.bad} == {RAISED}
    assert "IndexError: list index out of range" in {finding.detail for finding in findings}
    table = repair(npu_table, findings)
    assert table.rms_norm is REFERENCE.rms_norm
    assert table.write_kv is REFERENCE.write_kv
    assert (table.attention, table.mask) == (REFERENCE.attention, REFERENCE.mask)
    assert table.rope is npu_table.rope
    assert not bad(check(table, CPU, (dtype,)))


def test_a_mask_that_is_not_obeyed_costs_only_the_passes_with_padding(monkeypatch, torch_npu, plant, npu_table):
    plant("npu_fused_infer_attention_score", mask_not_read_beyond_512)
    table = repair(npu_table, check(npu_table, CPU, HALF))
    assert not bad(check(table, CPU, HALF))
    calls = []
    monkeypatch.setattr(
        torch_npu, "npu_fused_infer_attention_score", lambda q, *args, **kwargs: calls.append(1) or (q, None)
    )
    q, cache, slots = torch.ones(1, 4, 1, 128).half(), torch.ones(1, 4, 64, 128).half(), torch.tensor([9])
    table.attention(q, cache, cache, 10, table.mask(None, slots, 10, 64))
    assert calls == [1]
    table.attention(q, cache, cache, 10, table.mask(torch.ones(1, 64, dtype=torch.bool), slots, 10, 64))
    assert calls == [1]


def test_float32_is_refused_where_no_kernel_takes_it(npu_table):
    q, cache = torch.ones(1, 4, 1, 128), torch.ones(1, 4, 64, 128)
    with pytest.raises(TypeError, match=r"float16 and bfloat16, not torch\.float32"):
        npu_table.attention(q, cache, cache, 10, None)


def test_a_device_that_an_operation_broke_is_not_asked_on(plant, npu_table, monkeypatch):
    """After a fault in a kernel all calls fail: what the check would say about other operations would be wrong."""
    broken = []

    def fault(good, *args):
        broken.append(1)
        raise RuntimeError("507015: aicore exception")

    def ones(*args, device=None, good=torch.ones, **kwargs):
        if broken:
            raise RuntimeError("507035: the context is dead")
        return good(*args, device=device, **kwargs)

    plant("npu_add_rms_norm", fault)
    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(DeviceLost, match=r"cpu stopped working .* tried add_rms_norm \(RuntimeError: 507015: aicore"):
        check(npu_table, CPU, HALF)


def test_what_ended_an_earlier_run_is_not_tried(plant, npu_table):
    tried = []
    plant("npu_fused_infer_attention_score", lambda good, *args, **kwargs: tried.append(1) or good(*args, **kwargs))
    findings = check(npu_table, CPU, HALF, crashed={"attention", "rope"})
    assert tried == []
    assert {finding.op for finding in findings if finding.outcome == CRASHED} == {*BOTH, "rope"} == bad(findings)
    assert repair(npu_table, findings).attention is REFERENCE.attention
    assert Finding("rope", CRASHED).reason == "ended an earlier run"


def test_outcomes_are_what_they_say():
    assert Finding("rope", DIFFERS, "", 0.314, 0.1).reason == "differs by 0.31"
    assert Finding("rope", RAISED, "RuntimeError: x").reason == "raised RuntimeError: x"
