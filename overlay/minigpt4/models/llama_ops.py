"""The table of operations that the decoder is made of, one table per kind of device.

This is the only place where the decoder may differ between npu, cuda and cpu. An entry of a table is a plain
function on tensors; `REFERENCE` says in a few lines of PyTorch what each one must compute, and every faster entry
is measured against it. To speed up a device, replace entries: `REFERENCE._replace(rms_norm=…)`. The NPU's entries
are in llama_ops_npu.py.

Shapes: B batch, T new tokens, S slots of the cache, H heads, K key/value heads, D head_dim, C hidden size.
"""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import llama_ops_cpu, llama_ops_cuda, llama_packing
from .llama_int8 import dequantise


class Ops(NamedTuple):
    """One implementation of each operation; the signatures are those of the functions below."""

    linear: Callable[..., Tensor]
    int8_linear: Callable[..., Tensor]
    rms_norm: Callable[..., Tensor]
    add_rms_norm: Callable[..., tuple]
    rope: Callable[..., tuple]
    write_kv: Callable[..., None]
    mask: Callable[..., Any]
    attention: Callable[..., Tensor]
    swiglu: Callable[..., Tensor]


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, C) @ (weight (N, C) int8 * scale (N,)).T + bias -> (…, N), in the dtype of x.

    The weights are widened and scaled first: a sum of float16 activations times integers up to 127 can pass 65504.
    """
    return F.linear(x, dequantise(weight, scale, x.dtype), bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467).

    The mean of squares is taken in float32: in float16 Vicuna's largest activations overflow when squared.
    """
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """-> rms_norm(x + residual), and x + residual itself, which the next residual goes on from."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def rope_angles(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin for `rope`: positions (B, T) or (1, T) integers -> two tensors of `dtype`, (B or 1, 1, T, D).

    Angles are computed in float32: float16 cannot tell positions above 2048 apart.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angles = positions[:, None, :, None].float() * (1.0 / theta**exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate q (B, H, T, D) and k (B, K, T, D) by their positions (Su et al. 2021, arXiv 2104.09864).

    Hugging Face's layout: element i is paired with element i + D/2, not with its neighbour.
    """
    return q * cos + _rotate_half(q) * sin, k * cos + _rotate_half(k) * sin


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def write_kv(cache: Tensor, new: Tensor, slots: Tensor) -> None:
    """Put new (B, K, T, D) into cache (B, K, capacity, D) at slots (T,), in place."""
    cache.index_copy_(2, slots, new)


def mask(padding: Tensor | None, slots: Tensor, length: int, capacity: int) -> Tensor | None:
    """Who may look at whom in one pass, in the form that `attention` of the same table wants: made once, not per layer.

    padding (B, capacity) bool, False for a slot that holds padding, or None: there is none, and the T new tokens are
    the last of `length` in causal order. slots (T,): where the new tokens stand. Returns (B, 1, T, length) bool, True
    where a query may look, or None where the causal order alone says it.
    """
    if padding is None and len(slots) in (1, length):
        return None
    every = torch.arange(length, device=slots.device)
    causal = every <= slots[:, None]
    if padding is None:
        return causal[None, None]
    # A padding token looks at itself: with nothing to look at, its softmax would be NaN and spread from there.
    return (causal & padding[:, None, None, :length]) | (every == slots[:, None])


def attention(q: Tensor, k: Tensor, v: Tensor, length: int, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for q (B, H, T, D) over the first `length` slots of k and v (B, K, S, D).

    mask: what `mask` of this table gave. Returns (B, H, T, D). The softmax runs in float32, and q is scaled before
    the product, which could overflow float16 otherwise.
    """
    k, v = _share_heads(k[:, :, :length], v[:, :, :length], q.shape[1])
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
    if mask is None and q.shape[2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.float().softmax(dim=-1).to(q.dtype) @ v


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, length: int, mask: Tensor | None) -> Tensor:
    """`attention` through PyTorch's fused kernels."""
    if q.shape[2] == 1 and q.shape[1] != k.shape[1]:
        # One token: heads that share keys stand where tokens would, and the cache is not copied for each of them.
        grouped = q.squeeze(2).unflatten(1, (k.shape[1], -1))
        y = F.scaled_dot_product_attention(grouped, k[:, :, :length], v[:, :, :length], attn_mask=mask)
        return y.flatten(1, 2).unsqueeze(2)
    k, v = _share_heads(k[:, :, :length], v[:, :, :length], q.shape[1])
    causal = mask is None and q.shape[2] > 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def cpu_attention(q: Tensor, k: Tensor, v: Tensor, length: int, mask: Tensor | None) -> Tensor:
    """`sdpa_attention`, where one bfloat16 query per sequence has a way of its own."""
    if q.shape[2] == 1 and q.dtype == torch.bfloat16:
        return llama_ops_cpu.one_query(q, k[:, :, :length], v[:, :, :length], mask)
    return sdpa_attention(q, k, v, length, mask)


def _share_heads(k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Grouped-query attention: each key/value head serves heads / K query heads that follow one another."""
    groups = heads // k.shape[1]
    if groups == 1:
        return k, v
    return k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gate_up (…, 2 I), gate first -> (…, I) (Shazeer 2020, arXiv 2002.05202)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


REFERENCE = Ops(F.linear, int8_linear, rms_norm, add_rms_norm, rope, write_kv, mask, attention, swiglu)
SDPA = REFERENCE._replace(attention=sdpa_attention)

_TABLES = {
    "cpu": SDPA._replace(linear=llama_packing.linear, int8_linear=llama_ops_cpu.int8_linear, attention=cpu_attention),
    "cuda": SDPA._replace(int8_linear=llama_ops_cuda.int8_linear),
}


def ops_for(device: torch.device) -> Ops:
    """The table of a device; a type without one of its own gets REFERENCE. An NPU's is checked first (ops_check.py)."""
    if device.type == "npu":
        from .ops_check import npu_ops  # which needs REFERENCE from here, and torch_npu

        return npu_ops(device)
    return _TABLES.get(device.type, REFERENCE)
