"""Where the lines and bars of the charts stand. The templates draw; nothing here knows of SVG.

All charts are WIDTH wide and drawn as wide as a phone shows them, so that their letters stay as large as the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from verification.page.text import compact, power
from verification.report import Check

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 330, 36, 152  # of the drawn area
FLOOR, ROOF = -9, 2  # decades of KL that are drawn: below is the rounding of float32, above nothing can be read

Value = Optional[float]


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    range: str
    count: int
    label: str


@dataclass(frozen=True)
class Histogram:
    """Relative errors of single tokens by decade. limit: what the whole tensor is held to, where it was found."""

    name: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    limit: Tick | None
    total: int
    summary: str


@dataclass(frozen=True)
class Curve:
    name: str  # "mean" or "max"
    path: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class KL:
    """KL divergence at each generated position, over the pictures; drawn on a logarithmic scale."""

    name: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    limit: Tick | None  # of the mean over a whole text, where the stage is held to one
    positions: int
    summary: str


def histograms(checks: Sequence[Check]) -> tuple[Histogram, ...]:
    """Of every stage that has per-token errors."""
    drawn = (
        histogram(check.name, check.numbers["histogram"], limit_of(check))
        for check in checks
        if "histogram" in check.numbers
    )
    return tuple(chart for chart in drawn if chart.total)


def limit_of(check: Check, word: str = "error <= ") -> Value:
    """What the stage is allowed, as its line says it: "error <= 1e-05", or "KL 0.00035, p99 0.01"."""
    found = re.search(rf"{word}([\d.]+(?:e[+-]?\d+)?)", check.allowed)
    return float(found[1]) if found else None


def histogram(name: str, content: Any, limit: Value) -> Histogram:
    """content: {"exponents": n + 1 ascending edges (log10), "counts": n counts}."""
    edges, counts = list(content["exponents"]), [int(count) for count in content["counts"]]
    wide = (RIGHT - LEFT) / max(len(counts), 1)
    most = max(counts, default=0) or 1
    bars = []
    for number, count in enumerate(counts):
        tall = max((BOTTOM - TOP) * count / most, 2) if count else 0.0  # one token among thousands is seen too
        span = _span(edges, number)
        bars.append(Bar(LEFT + number * wide + 1.5, BOTTOM - tall, wide - 3, tall, span, count, compact(count)))
    every = math.ceil(len(edges) / 11)
    ticks = [Tick(LEFT + number * wide, power(edge)) for number, edge in enumerate(edges) if number % every == 0]
    mark = None
    if limit and edges and edges[0] <= math.log10(limit) <= edges[-1]:
        share = (math.log10(limit) - edges[0]) / (edges[-1] - edges[0])
        mark = Tick(LEFT + share * (RIGHT - LEFT), f"{limit:g}")
    total = sum(counts)
    over = sum(count for count, edge in zip(counts, edges) if limit and edge >= math.log10(limit) - 1e-9)
    summary = f"{total:,} tokens"
    if total:
        commonest = bars[counts.index(max(counts))]
        summary += f", {commonest.count / total:.0%} of them {commonest.range}"
    if limit:
        summary += f"; {f'{over:,}' if over else 'none'} in the decades above the limit"
    return Histogram(name, tuple(bars), tuple(ticks), mark, total, f"{summary}.")


def _span(edges: Sequence[int], number: int) -> str:
    """The first and the last bin also hold what lies beyond the scale, as a token that is identical."""
    if number == 0:
        return f"below {power(edges[1])}"
    low = power(edges[number])
    return f"{low} and more" if number == len(edges) - 2 else f"{low} to {power(edges[number + 1])}"


def kl_charts(checks: Sequence[Check]) -> tuple[KL, ...]:
    """Of every stage that has KL by position."""
    drawn = (
        kl_chart(check.name, check.numbers["kl_positions"], limit_of(check, "KL "))
        for check in checks
        if "kl_positions" in check.numbers
    )
    return tuple(chart for chart in drawn if chart.positions)


def kl_chart(name: str, content: Any, limit: Value = None) -> KL:
    """content: {"mean": [nats of each position], "max": [...]}; None and NaN leave a gap."""
    series = {key: [_finite(value) for value in content[key]] for key in ("mean", "max")}
    positions = max(map(len, series.values()))
    seen = [max(value, 10.0**FLOOR) for values in series.values() for value in values if value is not None]
    low = max(math.floor(math.log10(min(seen, default=1e-6))), FLOOR)
    seen += [limit] if limit else []
    high = min(max(math.ceil(math.log10(max(seen, default=1e-6))), low + 2), ROOF)
    low = min(low, high - 2)

    def across(position: int) -> float:
        return LEFT + (RIGHT - LEFT) * (position / (positions - 1) if positions > 1 else 0.5)

    def down(exponent: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (min(max(exponent, low), high) - low) / (high - low)

    curves = []
    for key, values in series.items():
        places = [
            None if v is None else (across(i), down(math.log10(max(v, 10.0**FLOOR)))) for i, v in enumerate(values)
        ]
        curves.append(Curve(key, _path(places), tuple(values)))
    step = max(1, math.ceil((high - low) / 6))
    y_ticks = tuple(Tick(down(exponent), power(exponent)) for exponent in range(low, high + 1, step))
    x_ticks = tuple(Tick(across(position - 1), str(position)) for position in _positions(positions))
    mark = Tick(down(math.log10(limit)), f"{limit:g}") if limit else None
    summary = _kl_summary(series, positions) + (f" The mean of a text may be {limit:g}." if limit else "")
    return KL(name, tuple(curves), x_ticks, y_ticks, mark, positions, summary)


def _finite(value: Any) -> Value:
    return float(value) if value is not None and math.isfinite(value) else None


def _positions(count: int) -> list[int]:
    """About five of 1 to `count`, round ones."""
    step = next(
        size for size in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, count) if count <= 5 * size or size == count
    )
    return sorted({1, *range(step, count + 1, step)} - ({1} if count > 2 and step == 2 else set()))


def _path(places: Sequence[tuple[float, float] | None]) -> str:
    """An SVG path through the places; None begins a new stroke, and a stroke of one place is a dot."""
    words, pen_down = [], False
    for number, place in enumerate(places):
        if place is None:
            pen_down = False
            continue
        words.append(f"{'L' if pen_down else 'M'}{place[0]:.1f} {place[1]:.1f}")
        if not pen_down and (number + 1 == len(places) or places[number + 1] is None):
            words.append("h0.01")
        pen_down = True
    return "".join(words)


def _kl_summary(series: dict[str, list[Value]], positions: int) -> str:
    known = [(value, place + 1) for place, value in enumerate(series["max"]) if value is not None]
    means = [value for value in series["mean"] if value is not None]
    if not known or not means:
        return f"No finite KL at any of {positions} positions."
    worst, where = max(known)
    mean = sum(means) / len(means)
    return f"{positions} positions; mean KL {mean:.1e} nats, worst {worst:.1e} at position {where}."
