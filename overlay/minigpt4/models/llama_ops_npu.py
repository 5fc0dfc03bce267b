"""The decoder's operations on an Ascend 910B or A3, through torch_npu's fused kernels, in float16 or bfloat16.

Only operations whose schema is the same from torch_npu 2.1.0.post17 to 2.14.0 as far as they are called here, and
which torch_npu hands to aclnn kernels: a graph of the decode step can hold no others. The cache keeps the layout BNSD:
(batch, key/value heads, slots, head_dim). Nobody who wrote this had an NPU: README.md says what was checked instead,
and the port checks each operation on the user's device (ops_check.py).

Each function names its page in op-plugin's documentation and what that page asks of this call. The pages are
https://gitcode.com/Ascend/op-plugin/blob/master/docs/zh/custom_APIs/torch_npu/torch_npu-NAME.md, read at commit
517f2e7d (2026-08-21); those of npu_rms_norm and npu_swiglu have "(beta)" in full-width brackets before the name.
The symbols are those of llama_ops.py.
"""

from __future__ import annotations

import math

import torch
import torch_npu
from torch import Tensor

from .llama_ops import REFERENCE, Ops


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """npu_rms_norm(self, gamma, epsilon) -> (y, rstd).

    x of 2 to 8 dimensions, may be non-contiguous; gamma float32 or of x's dtype, the shape of x's last dimensions.
    """
    return torch_npu.npu_rms_norm(x, weight, eps)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """npu_add_rms_norm(x1, x2, gamma, epsilon) -> (y, rstd, x1 + x2).

    May be non-contiguous, not empty. gamma must have x's dtype here, float32 will not do.
    """
    normed, _, total = torch_npu.npu_add_rms_norm(x, residual, weight, eps)
    return normed, total


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """npu_rotary_mul(input, r1, r2, rotary_mode="half"): input * r1 + rotate_half(input) * r2.

    For input BNSD r1 and r2 are 11SD, B1SD or BNSD: the shapes of rope_angles. D even and below 896, B and N below
    1000, r1 and r2 between -1 and 1. The mode is left at its default, "half" in every release. The page is silent
    about non-contiguous inputs, so they are made contiguous; for one token of one sequence that copies nothing.
    """
    return (
        torch_npu.npu_rotary_mul(q.contiguous(), cos, sin),
        torch_npu.npu_rotary_mul(k.contiguous(), cos, sin),
    )


def write_kv(cache: Tensor, new: Tensor, slots: Tensor) -> None:
    """scatter_update_(data, indices, updates, axis), for slots that follow one another.

    What the indices mean is on the page of the kernel behind it (https://www.hiascend.com/document/detail/zh/
    CANNCommunityEdition/81RC1alpha001/apiref/aolapi/context/aclnnInplaceScatterUpdate.md, the same in 8.5): data
    (a, b, c, d), updates (a, b, e, d), indices (a,) and axis 2 give data[i, j, indices[i] + k, l] =
    updates[i, j, k, l], so an index is the *first* slot of a batch row. Sequences and heads are one dimension here:
    a = 1, and the one start serves them all. Indices int32 or int64; both ranks equal; nothing checks the bounds.
    """
    _, _, size, width = cache.shape
    rows = new.contiguous().view(1, -1, new.shape[2], width)
    torch_npu.scatter_update_(cache.view(1, -1, size, width), slots[:1], rows, 2)


_CAUSAL: dict[torch.device, Tensor] = {}


def mask(padding: Tensor | None, slots: Tensor, length: int, capacity: int) -> Tensor | None:
    """The mask for `attention` below, True where a query may NOT look; bool, contiguous.

    None for one new token without padding; (2048, 2048), the kernel's compressed causal mask, for more; with padding
    (B, 1, T, capacity): the last width is that of the key tensor, not of its valid part.
    """
    if padding is None:
        return None if len(slots) == 1 else _causal(slots.device)
    every = torch.arange(capacity, device=slots.device)
    causal = every <= slots[:, None]
    # A padding token looks at itself: no row is hidden altogether, which the kernel would compute imprecisely.
    visible = (causal & padding[:, None, None, :]) | (every == slots[:, None])
    return visible.logical_not().contiguous()


def _causal(device: torch.device) -> Tensor:
    if device not in _CAUSAL:
        _CAUSAL[device] = torch.ones(2048, 2048, dtype=torch.bool, device=device).triu(1)
    return _CAUSAL[device]


def attention(q: Tensor, k: Tensor, v: Tensor, length: int, mask: Tensor | None) -> Tensor:
    """npu_fused_infer_attention_score(query, key, value, *, …) -> (out, lse), on whole cache tensors.

    One query token takes the kernel's decode branch, more its prefill branch. What the page asks:
    - query, key, value and mask contiguous (nothing checks it); key and value of one shape; float16 or bfloat16;
    - scale: the default is 1.0; input_layout: the default is BSH;
    - num_key_value_heads divides num_heads, at most 64 to 1; heads <= 256, D <= 512 and a multiple of 8;
    - actual_seq_lengths_kv: a host list, one entry per sequence, at most the slots of key: the rest is not read;
    - sparse_mode 0: the whole mask (B, 1, T, slots of key). 3: causal, the last query aligned with the last valid
      key, so a chunk behind earlier tokens needs nothing else; its mask must be (2048, 2048), True above the
      diagonal. With one query token the mode is ignored;
    - at most 262144 slots for one query token. inner_precise stays 0, high precision.
    The page's third example passes a mask with True *below* the diagonal; that True hides is said by the page of
    npu_fusion_attention, and vllm-ascend's attention_mask.py does so with this kernel.
    Reported: a (1, 1, 1, S) mask not obeyed beyond key 512 (github.com/vllm-project/vllm-ascend/issues/15503, paged
    keys, decode). The self-check covers such a mask, and only passes with padding fall back if it fails.
    """
    heads, head_dim = q.shape[1], q.shape[3]
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise TypeError(f"The NPU's attention takes float16 and bfloat16, not {q.dtype}: load the model in one.")
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
        sparse_mode=3 if mask is not None and mask.dim() == 2 else 0,
    )[0]


def swiglu(gate_up: Tensor) -> Tensor:
    """npu_swiglu(self, dim): silu(first half) * second half. Must be contiguous and not empty."""
    return torch_npu.npu_swiglu(gate_up.contiguous(), -1)


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """npu_weight_quant_batchmatmul(x, weight, antiquant_scale, …): x @ (weight * antiquant_scale) + bias.

    x (M, K) of two dimensions (vllm-ascend issue 3210) and M up to 2^31 - 1; weight (K, N) int8 in format ND, where a
    transposed view is allowed and, with one scale per column, recommended; K and N up to 65535 (Vicuna-7B: 32000).
    antiquant_scale (N,) in x's dtype. bias (N,), contiguous: float16 for float16, but float32 for bfloat16 (also
    vllm-ascend issue 7039). FRACTAL_NZ weights are for compiled graphs alone. inner_precise stays 0, high precision.
    """
    if bias is not None:
        bias = bias.to(torch.float32 if x.dtype is torch.bfloat16 else x.dtype)
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    y = torch_npu.npu_weight_quant_batchmatmul(rows, weight.t(), scale.to(x.dtype), bias=bias)
    return y.view(*x.shape[:-1], -1)


# `linear` stays PyTorch's: torch_npu hands F.linear to aclnn's matrix product, and there is no fused one to choose.
NPU: Ops = REFERENCE._replace(
    int8_linear=int8_linear,
    rms_norm=rms_norm,
    add_rms_norm=add_rms_norm,
    rope=rope,
    write_kv=write_kv,
    mask=mask,
    attention=attention,
    swiglu=swiglu,
)
