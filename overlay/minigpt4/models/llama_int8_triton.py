"""The int8 product on CUDA as Triton kernels: weights are read once, 8 bits wide, and widened in registers.

Import this only where Triton is installed; llama_ops_cuda.py falls back without it. Both kernels sum in float32 and
scale the sum, so float16 activations cannot overflow before they are scaled. Block sizes are reasoned, not tuned:
nobody who wrote this had a GPU (README.md says what was checked).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_ROWS = 64  # of x; beyond, the product is bound by arithmetic, and cuBLAS over widened weights is faster


def linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x float16 or bfloat16 (R, C), R <= MOST_ROWS; weight int8 (N, C); scale float (N,) -> (R, N) like x."""
    x = x.contiguous()
    rows, inputs, outputs = len(x), weight.shape[1], len(weight)
    y = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    if rows == 1:
        # 4 rows of weights per program: a 4096 x 4096 matrix gives 1024 of them, several for each of 132 SMs
        one_row[(triton.cdiv(outputs, 4),)](x, weight, scale, y, outputs, inputs, 4, 1024, num_warps=4)
    else:
        tile = max(16, triton.next_power_of_2(rows))
        some_rows[(triton.cdiv(outputs, 32),)](
            x, weight, scale, y, rows, outputs, inputs, tile, 32, 128, num_warps=4, num_stages=4
        )
    return y


@triton.jit
def one_row(x, weight, scale, y, outputs, inputs, TALL: tl.constexpr, WIDE: tl.constexpr):
    """y (outputs,) = weight (outputs, inputs) @ x (inputs,) * scale; a program has TALL outputs, WIDE inputs a time."""
    n = tl.program_id(0) * TALL + tl.arange(0, TALL)
    total = tl.zeros((TALL, WIDE), dtype=tl.float32)
    for start in range(0, inputs, WIDE):
        k = start + tl.arange(0, WIDE)
        inside = (n < outputs)[:, None] & (k < inputs)[None, :]
        w = tl.load(weight + n[:, None] * inputs + k[None, :], mask=inside, other=0)
        total += w.to(tl.float32) * tl.load(x + k, mask=k < inputs, other=0.0).to(tl.float32)[None, :]
    s = tl.load(scale + n, mask=n < outputs, other=0.0)
    tl.store(y + n, (tl.sum(total, 1) * s).to(y.dtype.element_ty), mask=n < outputs)


@triton.jit
def some_rows(x, weight, scale, y, rows, outputs, inputs, ROWS: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr):
    """y (rows, outputs) = x (rows, inputs) @ weight.T * scale on the tensor cores; ROWS >= rows, a power of two."""
    m = tl.arange(0, ROWS)
    n = tl.program_id(0) * TALL + tl.arange(0, TALL)
    total = tl.zeros((TALL, ROWS), dtype=tl.float32)
    for start in range(0, inputs, WIDE):
        k = start + tl.arange(0, WIDE)
        inside = (n < outputs)[:, None] & (k < inputs)[None, :]
        w = tl.load(weight + n[:, None] * inputs + k[None, :], mask=inside, other=0)
        inside = (k < inputs)[:, None] & (m < rows)[None, :]
        some = tl.load(x + m[None, :] * inputs + k[:, None], mask=inside, other=0.0)
        total = tl.dot(w.to(some.dtype), some, total)  # the integers are exact in float16 and bfloat16
    s = tl.load(scale + n, mask=n < outputs, other=0.0)
    inside = (n < outputs)[:, None] & (m < rows)[None, :]
    tl.store(y + m[None, :] * outputs + n[:, None], (total * s[:, None]).to(y.dtype.element_ty), mask=inside)
