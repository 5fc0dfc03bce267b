"""The table of operations that the decoder is made of, one table per kind of device.

This is the only place where the decoder may differ between npu, cuda and cpu. An entry of a table is a plain
function on tensors; `REFERENCE` says in a few lines of PyTorch what each one must compute, and every faster entry
is measured against it. To speed up a device, replace entries: `REFERENCE._replace(rms_norm=…)`.

Shapes: B batch, T new tokens, S tokens so far (old and new), H heads, K key/value heads, D head_dim, C hidden size.
"""

from __future__ import annotations

import math
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Ops(NamedTuple):
    """One implementation of each operation; the signatures are those of the functions below."""

    linear: Callable[..., Tensor]
    rms_norm: Callable[..., Tensor]
    rope: Callable[..., tuple]
    write_kv: Callable[..., None]
    attention: Callable[..., Tensor]
    swiglu: Callable[..., Tensor]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467).

    The mean of squares is taken in float32: in float16 Vicuna's largest activations overflow when squared.
    """
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


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


def attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D).

    visible: (B, 1, T, S) bool, True where a query may look; None: no padding, and the T queries are all S tokens in
    causal order, or the last one alone. The softmax runs in float32, and q is scaled before the product, which
    could overflow float16 otherwise.
    """
    k, v = _share_heads(k, v, q.shape[1])
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
    if visible is None and q.shape[2] > 1:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    return scores.float().softmax(dim=-1).to(q.dtype) @ v


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """`attention` through PyTorch's fused kernels."""
    k, v = _share_heads(k, v, q.shape[1])
    causal = visible is None and q.shape[2] > 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=causal)


def _share_heads(k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Grouped-query attention: each key/value head serves heads / K query heads that follow one another."""
    groups = heads // k.shape[1]
    if groups == 1:
        return k, v
    return k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020, arXiv 2002.05202)."""
    return F.silu(gate) * up


REFERENCE = Ops(F.linear, rms_norm, rope, write_kv, attention, swiglu)
SDPA = REFERENCE._replace(attention=sdpa_attention)

_TABLES = {"cpu": SDPA, "cuda": SDPA}


def ops_for(device_type: str) -> Ops:
    """The table of a device type ("cpu", "cuda", "npu", …); a type without one of its own gets REFERENCE."""
    return _TABLES.get(device_type, REFERENCE)
