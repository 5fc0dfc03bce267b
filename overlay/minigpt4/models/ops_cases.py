"""What a device's operations are tried on: small inputs in which every usual mistake shows.

A case computes one operation twice, with the table under test in the dtype of the run and with REFERENCE in float32,
on the same device and from the same numbers, and yields what belongs together. Vicuna's widths where width matters
(32 heads of 128), few tokens otherwise: all cases take a second or two.

Inputs are drawn on the CPU with a fixed seed: every device and every release gets the same numbers, and the caller's
random state stays untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .llama_ops import REFERENCE, Ops, rope_angles

HEADS, HEAD_DIM, CAPACITY = 32, 128, 1024


class Pair(NamedTuple):
    """One comparison: what the table gave, what float32 says, and how it came about."""

    name: str
    got: Tensor
    want: Tensor
    exact: bool = False  # moved, not computed: must be equal to the last bit


class Draw:
    """Random tensors of one dtype on one device. The numbers are those of that dtype, so float32 starts from them."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=self.generator) * scale).to(self.dtype).to(self.device)

    def integers(self, *shape: int) -> Tensor:
        return torch.randint(-127, 128, shape, generator=self.generator, dtype=torch.int8).to(self.device)


def norm_cases(ops: Ops, draw: Draw) -> Iterator[Pair]:
    """Ordinary rows, rows so small that eps decides, and rows whose squares overflow float16."""
    weight = draw(512, scale=0.1) + 1
    for eps in (1e-6, 1e-5):
        for size in (1.0, 1e-3, 300.0):
            x = draw(2, 5, 512, scale=size)
            want = REFERENCE.rms_norm(x.float(), weight.float(), eps)
            yield Pair(f"rows of size {size:g}, eps {eps:g}", ops.rms_norm(x, weight, eps), want)
    x = draw(1, 1, 512)
    yield Pair("one row", ops.rms_norm(x, weight, 1e-5), REFERENCE.rms_norm(x.float(), weight.float(), 1e-5))


def add_norm_cases(ops: Ops, draw: Draw) -> Iterator[Pair]:
    weight = draw(512, scale=0.1) + 1
    for tokens, size, eps in ((1, 1.0, 1e-6), (5, 1e-3, 1e-5), (5, 1e-3, 1e-6)):
        x, residual = draw(2, tokens, 512, scale=size), draw(2, tokens, 512, scale=size)
        normed, total = ops.add_rms_norm(x, residual, weight, eps)
        wants = REFERENCE.add_rms_norm(x.float(), residual.float(), weight.float(), eps)
        yield Pair(f"{tokens} tokens of size {size:g}, eps {eps:g}", normed, wants[0])
        yield Pair(f"{tokens} tokens of size {size:g}, the sum", total, wants[1])


def rope_cases(ops: Ops, draw: Draw) -> Iterator[Pair]:
    """Views as the decoder passes them, one position for all rows or one per row, positions beyond float16's grid."""
    for batch, tokens, start, kv_heads in ((1, 1, 2049, 32), (1, 7, 0, 32), (3, 5, 100, 8), (3, 1, 3000, 8)):
        starts = torch.arange(batch, device=draw.device)[:, None] if batch > 1 else 0
        positions = torch.arange(start, start + tokens, device=draw.device)[None] - starts
        cos, sin = rope_angles(positions, HEAD_DIM, 10000.0, draw.dtype)
        q = draw(batch, tokens, HEADS, HEAD_DIM).transpose(1, 2)
        k = draw(batch, tokens, kv_heads, HEAD_DIM).transpose(1, 2)
        wants = REFERENCE.rope(q.float(), k.float(), cos.float(), sin.float())
        for side, got, want in zip("qk", ops.rope(q, k, cos, sin), wants):
            yield Pair(f"{side}, batch {batch}, positions from {start}", got, want)


def write_cases(ops: Ops, draw: Draw) -> Iterator[Pair]:
    """The whole cache is compared: what was written, and what must stay."""
    for batch, kv_heads, start, tokens in ((1, 4, 0, 1), (1, 4, 63, 1), (3, 2, 7, 1), (1, 4, 0, 9), (3, 2, 33, 5)):
        cache, new = draw(batch, kv_heads, 64, HEAD_DIM), draw(batch, tokens, kv_heads, HEAD_DIM).transpose(1, 2)
        slots = torch.arange(start, start + tokens, device=draw.device)
        want = cache.clone()
        REFERENCE.write_kv(want, new, slots)
        ops.write_kv(cache, new, slots)
        yield Pair(f"batch {batch}, {tokens} tokens at slot {start} of 64", cache, want, exact=True)


def attention_cases(ops: Ops, draw: Draw) -> Iterator[Pair]:
    """Prompt, prompt in chunks, and one token at several lengths; heads of their own or shared."""
    for kv_heads, past, tokens, capacity in (
        (32, 0, 7, 7),  # without a cache: keys are the new tokens, as views
        (32, 0, 40, 64),
        (8, 0, 17, CAPACITY),
        (32, 33, 20, 128),  # a chunk behind earlier tokens
        (8, 600, 9, CAPACITY),
        (32, 0, 1, 64),  # one token, its only key itself: a key too few or too many is the whole answer
        (8, 1, 1, 64),
        (8, 64, 1, CAPACITY),
        (32, 599, 1, CAPACITY),
    ):
        name = f"{tokens} tokens behind {past}, capacity {capacity}, {kv_heads} of {HEADS} heads"
        yield _attend(name, ops, draw, (1, HEADS, kv_heads), past, tokens, capacity)
    yield _attend("2100 tokens, 1 head", ops, draw, (1, 1, 1), 0, 2100, 2100)  # the NPU's causal mask has 2048 rows
    for past, tokens in ((20, 1), (5, 12)):  # a length for each sequence, in both branches of the NPU's kernel
        yield _attend(f"batch 3, {tokens} tokens behind {past}", ops, draw, (3, HEADS, 8), past, tokens, 64)


def padded_cases(ops: Ops, draw: Draw) -> Iterator[Pair]:
    """Batches with padding on the left, in short and in long caches."""
    for pads, past, tokens, capacity in (
        ((0, 3, 9), 0, 20, 64),
        ((0, 3, 9), 20, 1, 64),
        ((0, 5), 40, 12, 128),
        ((9,), 20, 1, 64),
        ((0, 5, 650), 699, 1, CAPACITY),  # hidden keys beyond 512 (vllm-ascend issue 15503)
    ):
        name = f"{tokens} tokens behind {past}, padding {', '.join(map(str, pads))}, capacity {capacity}"
        yield _attend(name, ops, draw, (len(pads), HEADS, 8), past, tokens, capacity, pads)


def _attend(
    name: str,
    ops: Ops,
    draw: Draw,
    heads: tuple[int, int, int],
    past: int,
    tokens: int,
    capacity: int,
    pads: tuple[int, ...] | None = None,
) -> Pair:
    """heads: batch, query heads, key/value heads. Slots that nobody may look at hold large keys and values."""
    batch, query_heads, kv_heads = heads
    length = past + tokens
    q = draw(batch, tokens, query_heads, HEAD_DIM).transpose(1, 2)
    k = draw(batch, capacity, kv_heads, HEAD_DIM).transpose(1, 2)
    v = draw(batch, capacity, kv_heads, HEAD_DIM).transpose(1, 2)
    if capacity > tokens:  # a cache, which is contiguous
        k, v = k.contiguous(), v.contiguous()
    padding = None
    if pads is not None:
        padding = torch.arange(capacity, device=draw.device) >= torch.tensor(pads, device=draw.device)[:, None]
    for tensor, factor in ((k, 3), (v, 20)):
        tensor[:, :, length:] *= factor
        for row, hidden in enumerate(pads or ()):
            tensor[row, :, :hidden] *= factor
    slots = torch.arange(past, length, device=draw.device)
    got = ops.attention(q, k, v, length, ops.mask(padding, slots, length, capacity))
    mask = REFERENCE.mask(padding, slots, length, capacity)
    want = REFERENCE.attention(q.float(), k.float(), v.float(), length, mask)
    if pads is not None:  # what padding itself computes is never read, and may differ
        real = padding[:, past:length][:, None, :, None]
        got, want = got * real, want * real
    return Pair(name, got, want)


def swiglu_cases(ops: Ops, draw: Draw) -> Iterator[Pair]:
    for batch, tokens, width in ((1, 1, 11008), (2, 5, 344)):
        x = draw(batch, tokens, 2 * width, scale=2.0)
        yield Pair(f"{batch} x {tokens} x {width}", ops.swiglu(x), REFERENCE.swiglu(x.float()))


def int8_cases(ops: Ops, draw: Draw) -> Iterator[Pair]:
    """One row, several, a batch; with a bias and without; scales that differ by row."""
    for shape, outputs, biased in (((1, 1), 384, False), ((1, 40), 384, False), ((3, 5), 64, True), ((1, 1), 64, True)):
        x, weight = draw(*shape, 512), draw.integers(outputs, 512)
        scale = (draw(outputs, scale=0.3).float().abs() + 0.5).to(draw.dtype).float() / 1024
        bias = draw(outputs) if biased else None
        want = REFERENCE.int8_linear(x.float(), weight, scale, None if bias is None else bias.float())
        name = f"{shape[0] * shape[1]} rows, {outputs} outputs{', bias' if biased else ''}"
        yield Pair(name, ops.int8_linear(x, weight, scale, bias), want)


def linear_cases(ops: Ops, draw: Draw) -> Iterator[Pair]:
    for shape in ((1, 1, 512), (2, 5, 512)):
        x, weight = draw(*shape), draw(384, 512, scale=512**-0.5)
        yield Pair(f"{shape[1]} tokens", ops.linear(x, weight, None), REFERENCE.linear(x.float(), weight.float()))


CASES: dict[str, Callable[[Ops, Draw], Iterator[Pair]]] = {
    "linear": linear_cases,
    "int8_linear": int8_cases,
    "rms_norm": norm_cases,
    "add_rms_norm": add_norm_cases,
    "rope": rope_cases,
    "write_kv": write_cases,
    "attention": attention_cases,
    "attention with padding": padded_cases,
    "swiglu": swiglu_cases,
}
