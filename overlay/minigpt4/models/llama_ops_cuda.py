"""The int8 product on CUDA: Triton's kernels (llama_int8_triton.py) where Triton is there, else plain PyTorch."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .llama_int8 import dequantise


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """As llama_ops.int8_linear: x (…, C), weight int8 (N, C), scale (N,), bias (N,) -> (…, N) in the dtype of x."""
    rows = x.reshape(-1, x.shape[-1])
    kernels = triton_kernels() if x.dtype in (torch.float16, torch.bfloat16) else None
    if kernels is None or not 0 < len(rows) <= kernels.MOST_ROWS:
        return F.linear(x, dequantise(weight, scale, x.dtype), bias)
    y = kernels.linear(rows, weight, scale).view(*x.shape[:-1], len(weight))
    return y if bias is None else y + bias


@functools.cache
def triton_kernels() -> Any:
    """The module with the kernels, or None where Triton is missing: said once, for it costs most of the speed."""
    try:
        from . import llama_int8_triton
    except ImportError as error:
        logging.warning("int8 weights: no Triton (%s), so they are widened before each product, which is slow.", error)
        return None
    return llama_int8_triton
