"""The decoder's operations on an Ascend 910B or A3, through torch_npu's fused kernels.

Only operations whose schema is the same from torch_npu 2.1.0.post17 to 2.14.0 as far as they are called here. The
cache keeps torch_npu's BNSD layout: (batch, key/value heads, slots, head_dim). Nobody who wrote this had an NPU:
README.md says what was checked instead, and the port checks each operation on the user's device (ops_check.py).

Masks are the other way round than in PyTorch: True hides. Inputs are made contiguous, which the attention kernels
ask for without checking.
"""

from __future__ import annotations

import math

import torch
import torch_npu
from torch import Tensor

from .llama_ops import REFERENCE, Ops


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch_npu.npu_rms_norm(x, weight, eps)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    normed, _, total = torch_npu.npu_add_rms_norm(x, residual, weight, eps)
    return normed, total


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return (
        torch_npu.npu_rotary_mul(q.contiguous(), cos, sin),
        torch_npu.npu_rotary_mul(k.contiguous(), cos, sin),
    )


def write_kv(cache: Tensor, new: Tensor, slots: Tensor) -> None:
    """Sequences and heads are one dimension here, so that one start position serves them all."""
    _, _, size, width = cache.shape
    rows = new.contiguous().view(1, -1, new.shape[2], width)
    torch_npu.scatter_update_(cache.view(1, -1, size, width), slots[:1], rows, 2)


_CAUSAL: dict[torch.device, Tensor] = {}


def mask(padding: Tensor | None, slots: Tensor, length: int, capacity: int) -> Tensor | None:
    """None for one token without padding; the kernel's own causal mask (2048, 2048), aligned to the last key; or a
    full mask (B, 1, T, capacity). True hides."""
    if padding is None:
        return None if len(slots) == 1 else _causal(slots.device)
    every = torch.arange(capacity, device=slots.device)
    visible = (every <= slots[:, None]) & padding[:, None, None, :] | (every == slots[:, None])
    return visible.logical_not().contiguous()


def _causal(device: torch.device) -> Tensor:
    if device not in _CAUSAL:
        _CAUSAL[device] = torch.ones(2048, 2048, dtype=torch.bool, device=device).triu(1)
    return _CAUSAL[device]


def attention(q: Tensor, k: Tensor, v: Tensor, length: int, mask: Tensor | None) -> Tensor:
    heads, head_dim = q.shape[1], q.shape[3]
    return torch_npu.npu_fused_infer_attention_score(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        atten_mask=mask,
        actual_seq_lengths_kv=[length] * len(q),
        num_heads=heads,
        num_key_value_heads=k.shape[1],
        scale=1.0 / math.sqrt(head_dim),
        input_layout="BNSD",
        sparse_mode=3 if mask is not None and mask.dim() == 2 else 0,  # 3: causal, aligned to the last key
    )[0]


def swiglu(gate_up: Tensor) -> Tensor:
    return torch_npu.npu_swiglu(gate_up.contiguous(), -1)


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = x.flatten(0, -2)
    y = torch_npu.npu_weight_quant_batchmatmul(rows, weight.t(), scale.to(x.dtype), bias=bias)
    return y.view(*x.shape[:-1], -1)


NPU = REFERENCE._replace(
    int8_linear=int8_linear,
    rms_norm=rms_norm,
    add_rms_norm=add_rms_norm,
    rope=rope,
    write_kv=write_kv,
    mask=mask,
    attention=attention,
    swiglu=swiglu,
)
