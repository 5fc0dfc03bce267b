"""Weights in 8 bits: one int8 per weight and one scale per output row.

Symmetric absmax quantisation of the weights alone (Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339, section 2.1,
row-wise): activations stay in the dtype of the model, so that their outliers, for which LLM.int8() splits its
products, lose nothing here. Weight (N, C) is about int8 (N, C) * scale (N,): a row's largest weight becomes 127, and
no weight is off by more than half a scale.

A search of each row for the scale of least squared error, which clips the largest weights, was tried and left out: at
8 bits the error hardly changed, and loading took many times as long.
"""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT = 127  # -128 has no partner on the other side
_BLOCK = 2**18  # weights at a time: their float32 copy (1 MB) stays in a processor's cache


class NotFinite(ValueError):
    """A weight that is NaN or infinite: nothing can be said about the others of its row."""


@torch.no_grad()
def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (N, C) of any float dtype -> int8 (N, C), float32 scale (N,). Raises NotFinite."""
    integers = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    quantise_into(weight, integers, scale)
    return integers, scale


@torch.no_grad()
def quantise_into(weight: Tensor, integers: Tensor, scale: Tensor) -> None:
    """`quantise` into tensors that are there: integers int8 (N, C) and scale (N,), on any device.

    The weights go to that device block by block, so beside them no second copy is ever made. Raises NotFinite.
    """
    rows = max(1, _BLOCK // max(1, weight.shape[1]))
    for start in range(0, len(weight), rows):
        block = weight[start : start + rows].to(integers.device)  # before it grows to float32
        block = block.to(torch.float32, copy=True)
        block_scale = _scale(block)
        scale[start : start + rows] = block_scale
        # No clamp: the scale is rounded up, so the quotient is at most 127.
        integers[start : start + rows] = block.div_(block_scale[:, None]).round_()
    if not bool(scale.isfinite().all()):
        row = int(scale.isfinite().logical_not().nonzero()[0])
        raise NotFinite(f"row {row} holds NaN or infinity.")


def _scale(block: Tensor) -> Tensor:
    """float32 (R, C) -> (R,): the largest magnitude of each row / 127; 1 for a row of zeros, inf or NaN as it is.

    Rounded up to the next bfloat16, at most 0.8 % more. Kernels want the scale in the dtype of the activations; such
    a number is the same in float32, bfloat16 and, above 1e-5, float16, so every device runs the same weights.
    """
    largest = torch.maximum(block.amax(1), block.amin(1).neg_())  # NaN goes through both
    scale = (largest / LIMIT).clamp_(min=2 * torch.finfo(torch.float32).tiny)
    # bfloat16 keeps 8 bits: half a step of its rounding is 2^-8 of a number at most
    rounded = (scale * (1 + 2**-8)).to(torch.bfloat16).float()
    return torch.where(largest == 0, torch.ones_like(rounded), rounded)


def dequantise(integers: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 (N, C) and scale (N,) -> the weights (N, C) that they stand for, rounded to dtype.

    The product is taken in float32: the integers alone, times activations, can pass float16's 65504.
    """
    return (integers * scale.float()[:, None]).to(dtype)
