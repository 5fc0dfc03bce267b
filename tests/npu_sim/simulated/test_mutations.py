"""Faults planted into the NPU table: each must change the decoder's logits, or break a rule of a 910B.

This proves that test_decoder.py would see them; it says nothing about faults in a device's own kernels.
"""

from __future__ import annotations

import math
from typing import Any, Callable

import pytest
import torch
import torch_npu
from models import TOLERANCE, difference
from port.models import llama_ops_npu
from port.models.llama_ops_npu import NPU
from port.models.ops_check import NPU_DTYPES, check
from simulator.attention_rules import Forbidden
from torch import Tensor


def fused_attention(**changes: Any) -> Callable[..., Tensor]:
    """The table's attention with other arguments; a value of None leaves the argument out."""

    def attention(q: Tensor, k: Tensor, v: Tensor, length: int, mask: Tensor | None) -> Tensor:
        causal = mask is not None and mask.dim() == 2
        arguments = {
            "atten_mask": mask,
            "actual_seq_lengths_kv": [length] * len(q),
            "num_heads": q.shape[1],
            "num_key_value_heads": k.shape[1],
            "scale": 1.0 / math.sqrt(q.shape[3]),
            "input_layout": "BNSD",
            "sparse_mode": 3 if causal else 0,
        }
        for name, value in changes.items():
            arguments[name] = value(arguments[name]) if callable(value) else value
        arguments = {name: value for name, value in arguments.items() if value is not None or name == "atten_mask"}
        q = arguments.pop("query", q)
        return torch_npu.npu_fused_infer_attention_score(q.contiguous(), k, v, **arguments)[0]

    return attention


def flipped_mask(*arguments: Any) -> Tensor | None:
    mask = llama_ops_npu.mask(*arguments)
    return None if mask is None else mask.logical_not()


def flipped_padding(padding: Tensor | None, slots: Tensor, length: int, capacity: int) -> Tensor | None:
    mask = llama_ops_npu.mask(padding, slots, length, capacity)
    return mask if padding is None else mask.logical_not().contiguous()


def short_mask(padding: Tensor | None, slots: Tensor, length: int, capacity: int) -> Tensor | None:
    return llama_ops_npu.mask(padding, slots, length, capacity)[..., :-1].contiguous()


def neighbours(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """GPT-J's layout: element 2i is paired with element 2i + 1."""

    def turn(x: Tensor) -> Tensor:
        pairs = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        turned = torch_npu.npu_rotary_mul(pairs.contiguous(), cos, sin)
        return turned.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)

    return turn(q), turn(k)


def rope_bsnd(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    def turn(x: Tensor) -> Tensor:
        return torch_npu.npu_rotary_mul(x.transpose(1, 2).contiguous(), cos, sin).transpose(1, 2)

    return turn(q), turn(k)


def swapped_sin(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return llama_ops_npu.rope(q, k, sin, cos)


def only_q(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return llama_ops_npu.rope(q, k, cos, sin)[0], k.contiguous()


def uncopied_rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return torch_npu.npu_rotary_mul(q, cos, sin), torch_npu.npu_rotary_mul(k, cos, sin)


def shifted(by: int) -> Callable[..., None]:
    return lambda cache, new, slots: llama_ops_npu.write_kv(cache, new, slots + by)


def first_slot(cache: Tensor, new: Tensor, slots: Tensor) -> None:
    llama_ops_npu.write_kv(cache, new, slots * 0)


def add_without_sum(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return llama_ops_npu.add_rms_norm(x, residual, weight, eps)[0], residual


def swapped_gate(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, -1)
    return torch_npu.npu_swiglu(torch.cat((up, gate), -1), -1)


def strided_gate(gate_up: Tensor) -> Tensor:
    return torch_npu.npu_swiglu(gate_up.transpose(-1, -2).contiguous().transpose(-1, -2), -1)


def no_scale(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    return llama_ops_npu.int8_linear(x, weight, torch.full_like(scale, float(scale.mean())), bias)


def float_scale(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return torch_npu.npu_weight_quant_batchmatmul(rows, weight.t(), scale.float()).view(*x.shape[:-1], -1)


def rms_eps(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch_npu.npu_rms_norm(x, weight)[0]  # the operation's own 1e-6


def add_eps(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    normed, _, total = torch_npu.npu_add_rms_norm(x, residual, weight)
    return normed, total


PADDED = {"padding": 4}
FAULTS: dict[str, tuple[dict[str, Callable], dict[str, Any]]] = {
    "mask: causal, polarity": ({"mask": flipped_mask}, {}),
    "mask: padding, polarity": ({"mask": flipped_padding}, PADDED),
    "mask: not as wide as the keys": ({"mask": short_mask}, PADDED),
    "mask: none": ({"mask": lambda *_: None}, {}),
    "mask: none with padding": ({"mask": lambda *_: None}, PADDED),
    "attention: scale left out": ({"attention": fused_attention(scale=None)}, {}),
    "attention: scale twice": ({"attention": fused_attention(scale=lambda scale: scale * scale)}, {}),
    "attention: scale of hidden size": ({"attention": fused_attention(scale=32**-0.5)}, {}),
    "attention: layout left out": ({"attention": fused_attention(input_layout=None)}, {}),
    "attention: layout BSND": ({"attention": fused_attention(input_layout="BSND")}, {}),
    "attention: key heads left out": ({"attention": fused_attention(num_key_value_heads=None)}, {}),
    "attention: heads left out": ({"attention": fused_attention(num_heads=None)}, {}),
    "attention: aligned to the first key": (
        {"attention": fused_attention(sparse_mode=lambda m: m and 2)},
        {"chunk": 3},
    ),
    "attention: mode left out": ({"attention": fused_attention(sparse_mode=None)}, {}),
    "attention: one key too few": (
        {"attention": fused_attention(actual_seq_lengths_kv=lambda n: [max(1, i - 1) for i in n])},
        {},
    ),
    "attention: one key too many": (
        {"attention": fused_attention(actual_seq_lengths_kv=lambda n: [i + 1 for i in n])},
        {},
    ),
    "attention: lengths left out": ({"attention": fused_attention(actual_seq_lengths_kv=None)}, {}),
    "rope: pairs of neighbours": ({"rope": neighbours}, {}),
    "rope: tokens before heads": ({"rope": rope_bsnd}, {}),
    "rope: sine and cosine": ({"rope": swapped_sin}, {}),
    "rope: keys left out": ({"rope": only_q}, {}),
    "rope: strided": ({"rope": uncopied_rope}, {}),
    "write_kv: one slot later": ({"write_kv": shifted(1)}, {}),
    "write_kv: one slot earlier": ({"write_kv": shifted(-1)}, {}),
    "write_kv: always the first slot": ({"write_kv": first_slot}, {}),
    "rms_norm: eps of the operation": ({"rms_norm": rms_eps}, {}),
    "add_rms_norm: sum": ({"add_rms_norm": add_without_sum}, {}),
    "swiglu: gate and up": ({"swiglu": swapped_gate}, {}),
    "swiglu: strided": ({"swiglu": strided_gate}, {}),
    "int8: one scale for all": ({"int8_linear": no_scale}, {"int8": True}),
    "int8: scale in float32": ({"int8_linear": float_scale}, {"int8": True}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught(name: str) -> None:
    changes, call = FAULTS[name]
    try:
        found = difference(NPU._replace(**changes), **call)
    except (Forbidden, FloatingPointError):
        return
    assert found > 2 * TOLERANCE


def test_an_eps_too_small_for_logits_is_caught_by_the_self_check() -> None:
    """Behind the first layer activations are so large that eps hardly matters: only the operation itself shows it."""
    findings = check(NPU._replace(add_rms_norm=add_eps), torch.device("npu:0"), NPU_DTYPES)
    assert [finding.op for finding in findings if finding.bad] == ["add_rms_norm"]


def test_the_same_machinery_without_a_fault_finds_nothing() -> None:
    assert difference(NPU._replace(attention=fused_attention())) < TOLERANCE
    assert difference(NPU._replace(attention=fused_attention()), **PADDED) < TOLERANCE
