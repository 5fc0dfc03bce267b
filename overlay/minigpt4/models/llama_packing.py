"""Weights on a processor, in the order in which its kernels read them: the decoder's and the image encoder's.

Given a plain weight, F.linear puts every block of it in that order again at each call, and with one token per call
that is much of the time. Packed once, bfloat16 gives the same numbers. benchmarks/decode.py sets both side by side:
Hugging Face's weights are plain.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def pack(weight: Tensor, float32: bool = False) -> Tensor:
    """weight (N, C), bfloat16 on the CPU -> the same numbers as an opaque tensor that `linear` takes.

    float32: pack that dtype too. Its products come from another library then and may differ in the last bits; with
        hundreds of tokens it can be twice as fast, with one it is not.
    One packing serves every number of tokens. Of the result (is_mkldnn), shape, dtype, device and nn.Parameter work;
    slices, .to() and copy.deepcopy do not, and `unpack` gives a plain copy. A weight that this processor or this
    PyTorch cannot pack comes back as it is.
    """
    wanted = (torch.bfloat16, torch.float32) if float32 else (torch.bfloat16,)
    if weight.device.type != "cpu" or weight.dtype not in wanted or not _can_pack(weight.dtype):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 1)


def unpack(weight: Tensor) -> Tensor:
    """The plain (N, C) tensor behind `pack`: a copy. A plain one comes back as it is."""
    return weight.to_dense() if weight.is_mkldnn else weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """F.linear for x (…, C) and weight (N, C), plain or packed -> (…, N); with `gelu`, F.gelu (the exact one) of it.

    An NPU takes the tanh form whatever is asked for (op-plugin, torch_npu-npu_gelu.md). With random weights that moves
    the encoder's features by 1e-4, a quarter of what float16 does (tests/npu_sim/simulated/test_image_half.py).
    """
    if weight.is_mkldnn:
        if gelu:  # computed before the sums are rounded to x's dtype
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


@functools.cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Whether packing `dtype` works and gives F.linear's numbers here: tried once, on a small product."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(rows, 64, generator=generator).to(dtype) for rows in (96, 3))
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
        bound = 0.02 if dtype == torch.bfloat16 else 1e-4
        same = packed.is_mkldnn and torch.equal(packed.to_dense(), weight)
        for gelu in (False, True):
            found, expected = linear(x, packed, None, gelu), linear(x, weight, None, gelu)
            same = same and torch.allclose(found.float(), expected.float(), bound, bound)
        return same
    except (AttributeError, RuntimeError):  # no such operation in this build, or none for this processor
        return False
