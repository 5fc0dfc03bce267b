"""bfloat16 weights on a processor, in the order in which its kernels read them.

Given a plain weight, F.linear puts every block of it in that order again at each call, and with one token per call
that is much of the time. Packed once, the numbers are the same. benchmarks/decode.py sets both side by side: Hugging
Face's weights are plain.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def pack(weight: Tensor) -> Tensor:
    """weight (N, C), bfloat16 on the CPU -> the same numbers as an opaque tensor that `linear` takes.

    One packing serves every number of tokens. Of the result (is_mkldnn), shape, dtype, device and nn.Parameter work;
    slices, .to() and copy.deepcopy do not, and `unpack` gives a plain copy. A weight that this processor or this
    PyTorch cannot pack comes back as it is.
    """
    if weight.device.type != "cpu" or not _can_pack(weight.dtype):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 1)


def unpack(weight: Tensor) -> Tensor:
    """The plain (N, C) tensor behind `pack`: a copy. A plain one comes back as it is."""
    return weight.to_dense() if weight.is_mkldnn else weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear for x (…, C) and weight (N, C), plain or packed -> (…, N)."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


@functools.cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Whether packing `dtype` works and gives F.linear's numbers here: tried once, on a small product.

    float32 is left out: one token takes F.linear no longer, and the last bits would differ from Hugging Face's.
    """
    if dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(rows, 64, generator=generator).to(dtype) for rows in (96, 3))
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
        found, expected = linear(x, packed).float(), F.linear(x, weight).float()
        return (
            packed.is_mkldnn and torch.equal(packed.to_dense(), weight) and torch.allclose(found, expected, 0.02, 0.02)
        )
    except (AttributeError, RuntimeError):  # no such operation in this build, or none for this processor
        return False
