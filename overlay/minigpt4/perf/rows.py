"""What a performance row says: the work behind a timing, its share of the device's peaks, and whether it is possible.

Only arithmetic, without torch. Sizes in bytes, times in seconds; a row shows them in GB (10^9) and milliseconds.
The counts are those of a Llama: of Vicuna-7B, 13.215 GB of float16 weights are read for each token, 0.5 MiB of keys
and values for each token of context, and a prompt of 256 tokens takes 3.33 TFLOP.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

# What measured peaks may be off by. Reading alone is a little faster than copying, and clocks jitter.
MARGIN = 1.15

# The first seven are the headings of the original port's table, spelling included; the others say how they came about.
SEED_COLUMNS = (
    "batch_size",
    "input_length",
    "output_length",
    "reponse_time(ms)",
    "首token耗时（ms）",
    "非首token平均耗时（ms）",
    "E2E吞吐（token/s）",
)


@dataclasses.dataclass(frozen=True)
class Work:
    """What one decoder must read and compute, however it is written.

    weights: bytes read per decoded token, all but the embedding table. kv: bytes of keys and values per token of
    context. matrices, head: weights (numbers, not bytes) of the layers' matrices and of lm_head. attention: layers x
    query heads x head_dim.
    """

    weights: int
    kv: int
    matrices: int
    head: int
    attention: int

    def step_bytes(self, batch: int, context: float) -> float:
        """Bytes that one decode step of `batch` sequences of `context` tokens reads."""
        return self.weights + batch * context * self.kv

    def prefill_flop(self, batch: int, tokens: int) -> float:
        """Operations for prompts of `tokens`; attention looks back only, and lm_head sees the last token alone."""
        return batch * (2 * self.matrices * tokens + 2 * tokens**2 * self.attention + 2 * self.head)


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Of the device, measured in the same run. copy: bytes read and written per second. ceiling: the fastest copy or
    read seen, which no row may pass. matmul: operations per second of one large product in the model's dtype."""

    copy: float
    ceiling: float
    matmul: float

    @classmethod
    def of(cls, seen: Sequence[Peaks]) -> Peaks:
        """Of several measurements: the typical copy, and the best of what nothing may pass."""
        copy = statistics.median(peaks.copy for peaks in seen)
        return cls(copy, max(peaks.ceiling for peaks in seen), max(peaks.matmul for peaks in seen))


@dataclasses.dataclass(frozen=True)
class Timing:
    """One generation, in seconds from its start: until the first token was there, and until all were."""

    first: float
    response: float
    tokens: Sequence[float] = ()  # when each token was there, if every one was waited for

    def following(self, output: int) -> float:
        """Mean seconds of each token after the first."""
        return (self.response - self.first) / (output - 1)


@dataclasses.dataclass(frozen=True)
class Row:
    """Repetitions of one batch and length, and the peaks measured beside them."""

    batch: int
    input: int
    output: int
    timings: Sequence[Timing]
    work: Work
    peaks: Peaks
    facts: dict[str, Any]  # device, dtype, hidden_size, …: the same for all rows of a run

    @property
    def response(self) -> float:
        return statistics.median(timing.response for timing in self.timings)

    @property
    def first(self) -> float:
        return statistics.median(timing.first for timing in self.timings)

    @property
    def following(self) -> float:
        return statistics.median(timing.following(self.output) for timing in self.timings)

    @property
    def decode_rate(self) -> float:
        """Bytes per second that the mean step reads."""
        return self.work.step_bytes(self.batch, self.input + self.output / 2) / self.following

    @property
    def prefill_rate(self) -> float:
        """Operations per second until the first token."""
        return self.work.prefill_flop(self.batch, self.input) / self.first

    def impossible(self) -> list[str]:
        """Why this row cannot be true; empty when it can. The fastest repetition counts."""
        first = min(timing.first for timing in self.timings)
        following = min(timing.following(self.output) for timing in self.timings)
        if first <= 0 or following <= 0:
            return ["the clock did not move: was the device waited for?"]
        read = self.work.step_bytes(self.batch, self.input + self.output / 2) / following
        flop = self.work.prefill_flop(self.batch, self.input) / first
        limit, fastest = self.peaks.ceiling, self.peaks.matmul
        found = []
        if read > limit * MARGIN:
            found.append(f"decoding would read {read / 1e9:.4g} GB/s; {limit / 1e9:.4g} were measured on this device")
        if self.work.weights / first > limit * MARGIN:
            found.append(
                f"the first token came after {first * 1e3:.4g} ms; reading the weights once takes "
                f"{self.work.weights / limit * 1e3:.4g}"
            )
        if flop > fastest * MARGIN:
            found.append(
                f"the prompt would take {flop / 1e12:.4g} TFLOP/s; {fastest / 1e12:.4g} were measured on this device"
            )
        return found

    def cells(self) -> dict[str, Any]:
        """The row as columns: the original port's seven, then what they rest on."""
        values = (self.batch, self.input, self.output, self.response * 1e3, self.first * 1e3, self.following * 1e3)
        rate = self.batch * self.output / self.response
        cells: dict[str, Any] = dict(zip(SEED_COLUMNS, (*values, rate)))
        cells.update(self.facts, repetitions=len(self.timings))
        spreads = {
            "response": [timing.response for timing in self.timings],
            "first": [timing.first for timing in self.timings],
            "next": [timing.following(self.output) for timing in self.timings],
        }
        for name, seconds in spreads.items():
            cells[f"{name}_min(ms)"], cells[f"{name}_max(ms)"] = min(seconds) * 1e3, max(seconds) * 1e3
        cells["copy(GB/s)"] = self.peaks.copy / 1e9
        cells["decode(GB/s)"] = self.decode_rate / 1e9
        cells["decode(% of copy)"] = 100 * self.decode_rate / self.peaks.copy
        cells["matmul(TFLOP/s)"] = self.peaks.matmul / 1e12
        cells["prefill(TFLOP/s)"] = self.prefill_rate / 1e12
        cells["prefill(% of matmul)"] = 100 * self.prefill_rate / self.peaks.matmul
        cells["impossible"] = "; ".join(self.impossible())
        return cells
