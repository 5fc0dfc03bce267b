"""The seconds of each stage, beside the least that the roofline of the device allows for the same work."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from verification.page.charts import WIDTH
from verification.page.text import duration

TOP, ROW = 8, 56  # of the chart: where it begins, and the height of a stage's row
INSET = 4  # left and right of the bars
ABOVE = 1.15  # a stage faster than the yardsticks by more than their jitter cannot be (overlay: perf/rows.py MARGIN)


@dataclass(frozen=True)
class Stage:
    """seconds: median of `calls`. allowed: what the roofline allows, None without work or peaks. y, width: its bar."""

    name: str
    seconds: float
    fastest: float
    slowest: float
    calls: int
    units: int
    unit: str
    allowed: float | None
    bound: str  # what the roofline is made of here: "arithmetic" or "memory"
    y: float = 0.0
    width: float = 0.0
    allowed_width: float = 0.0

    @property
    def share(self) -> str:
        """Of the measured time, how much the roofline explains."""
        return "" if self.allowed is None else f"{100 * self.allowed / self.seconds:.0f} %"

    @property
    def impossible(self) -> bool:
        return self.allowed is not None and self.allowed > ABOVE * self.fastest

    @property
    def label(self) -> str:
        return f"{duration(self.seconds)} for {self.units} {self.unit}{'s' if self.units != 1 else ''}"

    @property
    def each(self) -> str:
        """Of one picture or token."""
        return duration(self.seconds / self.units)


@dataclass(frozen=True)
class Timings:
    stages: tuple[Stage, ...]
    measured: str  # how the peaks came about
    flops: float = 0.0
    bandwidth: float = 0.0
    height: float = 0.0
    summary: str = ""

    @property
    def peaks(self) -> str:
        return f"{self.flops / 1e12:.3g} TFLOP/s and {self.bandwidth / 1e9:.3g} GB/s" if self.flops else ""


def read_timings(content: Mapping[str, Any]) -> Timings:
    """content: Report.timings. Stages without a timing are left out."""
    peaks = content.get("peaks") or {}
    found = [stage for entry in content.get("stages", ()) for stage in _stage(entry, peaks)]
    longest = max((max(stage.seconds, stage.allowed or 0.0) for stage in found), default=0.0) or 1.0
    scale = (WIDTH - 2 * INSET) / longest
    placed = tuple(
        replace(
            stage,
            y=TOP + number * ROW,
            width=max(stage.seconds * scale, 1.0),
            allowed_width=(stage.allowed or 0.0) * scale,
        )
        for number, stage in enumerate(found)
    )
    said = [
        f"{s.name}: {s.label}" + (f", {s.share} of it explained by the roofline" if s.share else "") for s in placed
    ]
    return Timings(
        placed,
        str(peaks.get("measured", "")),
        float(peaks.get("flops", 0.0)),
        float(peaks.get("bandwidth", 0.0)),
        TOP + len(placed) * ROW,
        ". ".join(said),
    )


def _stage(entry: Mapping[str, Any], peaks: Mapping[str, Any]) -> list[Stage]:
    """Of the calls that did as much as the first one, for which the work was counted."""
    units = entry["units"]
    seconds = [value for value, size in zip(entry["seconds"], units) if size == units[0]]
    if not seconds or min(seconds) <= 0:
        return []
    needs = {
        "arithmetic": (entry.get("flop") or 0.0) / peaks["flops"] if peaks.get("flops") else 0.0,
        "memory": (entry.get("bytes") or 0.0) / peaks["bandwidth"] if peaks.get("bandwidth") else 0.0,
    }
    bound = max(needs, key=lambda kind: needs[kind])
    allowed = needs[bound] or None
    unit = "token" if entry["name"] in ("prefill", "decode") else "picture"
    median = statistics.median(seconds)
    calls = (median, min(seconds), max(seconds), len(seconds))
    return [Stage(entry["name"], *calls, int(units[0]), unit, allowed, bound if allowed else "")]
