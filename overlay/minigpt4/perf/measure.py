"""Clocks and yardsticks: how long a generation takes, and what the device under it can do at best.

The device is waited for before every reading of the clock. Peaks are measured with plain PyTorch operations of the
size that the model works on, so that a small model that lives in a cache is compared with that cache.
"""

from __future__ import annotations

import functools
import statistics
import time
from typing import Any, Callable

import torch
from torch import Tensor

from ..models.device import synchronize
from ..models.llama_linear import linears
from ..models.llama_packing import linear, pack
from .rows import Peaks, Timing, Work

_MOST = {"cpu": 256 << 20}  # bytes of a copied buffer: far above any cache, and quick
_MOST_ELSEWHERE = 1 << 30
_PRODUCT = {"cpu": 2048}  # side of the matrices
_PRODUCT_ELSEWHERE = 8192


def read_clock(device: torch.device) -> float:
    """Seconds, once the device has finished what was sent to it."""
    synchronize(device)
    return time.perf_counter()


class TokenClock:
    """A stopping criterion that never stops: it notes when tokens are there, the first or every one."""

    def __init__(self, device: torch.device, every: bool = True) -> None:
        self.device = device
        self.every = every
        self.start = read_clock(device)
        self.marks: list[float] = []

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> bool:
        if self.every or not self.marks:
            self.marks.append(read_clock(self.device))
        return False

    def stop(self) -> Timing:
        """Read the clock a last time."""
        end = read_clock(self.device)
        seen = [mark - self.start for mark in self.marks]
        return Timing(first=seen[0], response=end - self.start, tokens=tuple(seen) if self.every else ())


def prompt(model: Any, batch: int, tokens: int) -> Tensor:
    """Ids (batch, tokens) of a prompt without padding, the same in every run; speed does not depend on which."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, model.config.vocab_size, (batch, tokens), generator=generator)
    return ids.to(model.device)


@torch.no_grad()
def time_generation(model: Any, ids: Tensor, output: int, every: bool = False) -> Timing:
    """One greedy generation of exactly `output` tokens, as a caller of generate sees it.

    every: wait for the device after each token too, which costs time: for details, not for the figures.
    """
    clock = TokenClock(model.device, every)
    result = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=output,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,  # whatever generation_config.json says
        eos_token_id=None,
        stopping_criteria=[clock],
    )
    timing = clock.stop()
    if result.shape != (len(ids), ids.shape[1] + output):
        raise RuntimeError(f"generate gave {tuple(result.shape)} for {tuple(ids.shape)} and {output} new tokens.")
    return timing


def work_of(model: Any) -> Work:
    """Count what `model` reads and computes."""
    config = model.config
    head = model.lm_head.weight
    table = model.model.embed_tokens.weight
    if table.shape[1] != config.hidden_size:
        raise RuntimeError(f"The hidden width is {table.shape[1]}, not {config.hidden_size} as config.json says.")
    parts = [*model.parameters(), *model.buffers()]
    weights = sum(part.numel() * part.element_size() for part in parts if part is not table or part is head)
    kv = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * table.element_size()
    matrices = sum(module.weight.numel() for _, module in linears(model) if module is not model.lm_head)
    attention = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return Work(weights, kv, matrices, head.numel(), attention)


def seconds_of(call: Callable[[], Any], device: torch.device, repetitions: int = 7) -> list[float]:
    """Seconds of each of several calls, after two that do not count."""
    for _ in range(2):
        call()
    taken = []
    for _ in range(repetitions):
        start = read_clock(device)
        call()
        taken.append(read_clock(device) - start)
    return taken


@torch.no_grad()
def measure_peaks(device: torch.device, dtype: torch.dtype, working_set: int) -> Peaks:
    """What the device can do now. working_set: bytes that the model reads again and again."""
    size = min(working_set, _MOST.get(device.type, _MOST_ELSEWHERE))
    source = torch.ones(max(1, size // 4), device=device)
    target = torch.empty_like(source)
    copies = seconds_of(lambda: target.copy_(source), device)
    reads = seconds_of(lambda: source.sum(), device)
    copy = 2 * source.nbytes / statistics.median(copies)
    ceiling = max(2 * source.nbytes / min(copies), source.nbytes / min(reads))
    return Peaks(copy, ceiling, matmul_peak(device, dtype))


@torch.no_grad()
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the best of several large products; on a CPU with the weight plain and packed."""
    side = _PRODUCT.get(device.type, _PRODUCT_ELSEWHERE)
    x = torch.randn(side, side, device=device, dtype=dtype)
    plain = torch.randn_like(x)
    packed = pack(plain, float32=True)
    weights = (plain,) if packed is plain else (plain, packed)
    times = [seconds_of(functools.partial(linear, x, weight), device, repetitions=3) for weight in weights]
    return 2 * side**3 / min(map(min, times))
