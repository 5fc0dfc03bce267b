"""The int8 product on the CPU: the weights stay 8 bits wide in memory, and each is widened where it is used.

Measured on 2 cores of an AVX512 machine, (4096, 4096), one thread, one row of x: torch's own kernel for bfloat16 takes
0.4 of the time of a bfloat16 product, the blocks below 0.7 of that of a float32 product. For many rows both come near
the unquantised product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 2**20  # weights that are widened at a time: they stay in the processor's cache until they are multiplied
_PACKED_ROWS = 8  # beyond, torch's kernel is slower than the blocks: it computes row by row


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """As llama_ops.int8_linear: x (…, C), weight int8 (N, C), scale (N,), bias (N,) -> (…, N) in the dtype of x."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    if len(rows) <= _PACKED_ROWS and _has_kernel(rows, weight):
        y = torch._weight_int8pack_mm(rows, weight, scale.to(x.dtype))
    else:
        y = _in_blocks(rows, weight, scale)
    y = y.view(*x.shape[:-1], len(weight))
    return y if bias is None else y + bias


def _has_kernel(rows: Tensor, weight: Tensor) -> bool:
    """Whether torch's kernel may have these; it checks little itself, and a violation ends the process.

    It is there from torch 2.3 on; for other dtypes than bfloat16 it is up to ten times slower than the blocks. With
    AVX512 it reads 16 inputs at a time without looking where the row ends, x at addresses that are multiples of 32
    and weights at multiples of 16; on Arm it reads 4 scales at a time (aten/src/ATen/native/cpu/int8mm_kernel.cpp).
    """
    fits = weight.is_contiguous() and weight.shape[0] % 4 == 0 and weight.shape[1] % 16 == 0
    aligned = rows.data_ptr() % 32 == 0 and weight.data_ptr() % 16 == 0
    return rows.dtype == torch.bfloat16 and fits and aligned and hasattr(torch, "_weight_int8pack_mm")


def _in_blocks(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x (R, C) -> (R, N), some output columns at a time.

    The integers are exact in every float dtype, so they are multiplied as they are and the column is scaled after;
    in float16 such a sum could pass 65504, so there the weights are scaled first.
    """
    size = max(1, _BLOCK // max(1, weight.shape[1]))
    y = x.new_empty(len(x), len(weight))
    early = x.dtype == torch.float16
    for start in range(0, len(weight), size):
        part = slice(start, start + size)
        wide = (weight[part] * scale[part, None].float()).to(x.dtype) if early else weight[part].to(x.dtype)
        y[:, part] = F.linear(x, wide)
    return y if early else y.mul_(scale.to(x.dtype))
