"""The processor's own products and attention: int8 weights and a bfloat16 cache stay narrow in memory.

Each is widened where it is used, a block at a time that stays in the processor's cache.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 2**21  # weights that are widened at a time: they stay in the processor's cache until they are multiplied
# Beyond, torch's kernel is slower than the blocks: it computes 4 rows at a time (tried with avx512_bf16 on matrices of
# the 7B shape: faster with 8 rows, level with 12, slower with 16)
_PACKED_ROWS = 12
_WIDE = 2**19  # numbers of the cache that each thread widens at a time


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
    wide = x.new_empty(min(size, len(weight)), weight.shape[1])  # once: fresh memory costs more than the product of few
    early = x.dtype == torch.float16
    for start in range(0, len(weight), size):
        part = slice(start, start + size)
        block = wide[: len(weight) - start]
        block.copy_(weight[part] * scale[part, None].float() if early else weight[part])
        y[:, part] = F.linear(x, block)
    return y if early else y.mul_(scale.to(x.dtype))


def one_query(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """llama_ops.attention for one token: q (B, H, 1, D), k and v (B, K, S, D), mask (B or 1, 1, 1, S) bool or None.

    Scores, softmax and sums are float32, as in PyTorch's fused kernels, which take longer for one query in bfloat16
    (2.13, avx512_bf16): they put keys and values in another order first.
    """
    batch, heads, _, size = q.shape
    kept, length = k.shape[1:3]
    queries = (q.float() / math.sqrt(size)).view(batch * kept, heads // kept, size)
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    if mask is not None:
        mask = mask.expand(batch, kept, 1, length).flatten(0, 1)
    y = torch.empty_like(queries)
    count = max(1, _WIDE * torch.get_num_threads() // max(1, length * size))
    wide = torch.empty(min(count, len(k)), length, size)
    for start in range(0, len(k), count):
        part = slice(start, start + count)
        block = wide[: len(k) - start]
        scores = queries[part] @ block.copy_(k[part]).transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill_(~mask[part], float("-inf"))
        torch.bmm(scores.softmax(dim=-1), block.copy_(v[part]), out=y[part])
    return y.view(q.shape).to(q.dtype)
