"""Bars and curves stand where their numbers are, and odd numbers break no drawing."""

from __future__ import annotations

import math
import re
from typing import Any

import page_reports
import pytest

from verification.page import charts
from verification.page.timing import read_timings
from verification.report import Check, Outcome


def test_a_bar_is_as_tall_as_its_count_and_the_rare_token_is_seen() -> None:
    chart = charts.histogram("encoder", page_reports.LIMITED, 1e-5)
    tall = {bar.range: bar.height for bar in chart.bars}
    assert tall["10⁻⁶ to 10⁻⁵"] == charts.BOTTOM - charts.TOP
    assert tall["10⁻⁵ to 10⁻⁴"] == pytest.approx((charts.BOTTOM - charts.TOP) * 95 / 1800)
    assert tall["10⁻⁴ to 10⁻³"] == 2
    assert tall["10⁻³ to 10⁻²"] == 0
    assert chart.total == sum(page_reports.LIMITED["counts"])
    assert chart.summary == "2,248 tokens, 80% of them 10⁻⁶ to 10⁻⁵; 96 in the decades above the limit."


def test_the_ends_of_the_scale_hold_what_lies_beyond_it() -> None:
    spans = [bar.range for bar in charts.histogram("encoder", page_reports.LIMITED, None).bars]
    assert (spans[0], spans[1], spans[-1]) == ("below 10⁻⁸", "10⁻⁸ to 10⁻⁷", "10⁰ and more")
    summary = charts.histogram("prompt", page_reports.IDENTICAL, 1e-5).summary
    assert summary == "720 tokens, 100% of them below 10⁻⁸; none in the decades above the limit."


def test_the_limit_stands_between_the_decades_that_it_lies_between() -> None:
    for limit, share in ((1e-9, 0.0), (1e-4, 0.5), (5e-5, 0.46990), (10.0, 1.0)):
        mark = charts.histogram("encoder", page_reports.LIMITED, limit).limit
        assert mark is not None
        assert mark.at == pytest.approx(charts.LEFT + share * (charts.RIGHT - charts.LEFT), abs=0.01)
    assert charts.histogram("encoder", page_reports.LIMITED, 1e-12).limit is None
    assert charts.histogram("encoder", page_reports.LIMITED, None).limit is None


@pytest.mark.parametrize(
    ("allowed", "word", "limit"),
    [
        ("error <= 1e-05", "error <= ", 1e-5),
        ("error <= 0.01, 1.5 x", "error <= ", 0.01),
        ("KL 0.00035, p99 0.01, flip 0.2", "KL ", 0.00035),
        ("identical", "error <= ", None),
    ],
)
def test_the_limit_is_read_from_the_line(allowed: str, word: str, limit: float | None) -> None:
    check = Check("stages", "encoder", Outcome.PASSED, "", allowed)
    assert charts.limit_of(check, word) == limit


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_a_curve_goes_up_with_kl_and_from_left_to_right() -> None:
    chart = charts.kl_chart("decode", {"mean": [1e-8, 1e-7, 1e-6], "max": [1e-6, 1e-5, 1e-4]}, 1e-5)
    mean, worst = (places(curve.path) for curve in chart.curves)
    assert [x for x, _ in mean] == [charts.LEFT, (charts.LEFT + charts.RIGHT) / 2, charts.RIGHT]
    assert [y for _, y in mean] == sorted((y for _, y in mean), reverse=True)
    assert mean[2][1] == worst[0][1]
    assert chart.limit is not None
    assert chart.limit.at == pytest.approx(worst[1][1], abs=0.1)
    assert "worst 1.0e-04 at position 3" in chart.summary
    assert [tick.label for tick in chart.x_ticks] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "values",
    [[0.0] * 5, [None] * 5, [math.nan, 1e-5, math.inf, 1e-4, None], [1e-300, 5.0], [1e-5], [1e3] * 3],
)
def test_odd_numbers_stay_inside_the_drawing(values: list[Any]) -> None:
    chart = charts.kl_chart("decode", {"mean": values, "max": values})
    for curve in chart.curves:
        for x, y in places(curve.path):
            assert charts.LEFT <= x <= charts.RIGHT
            assert charts.TOP <= y <= charts.BOTTOM
        finite = [value for value in values if value is not None and math.isfinite(value)]
        assert len(places(curve.path)) == len(finite)
    assert len(chart.y_ticks) >= 2


def test_nothing_measured_is_no_chart() -> None:
    blank = Check("stages", "encoder", Outcome.FAILED, "error", numbers={
        "histogram": {"exponents": [-9, -8], "counts": [0]}, "kl_positions": {"mean": [], "max": []},
    })  # fmt: skip
    assert charts.histograms([blank, Check("stages", "prompt", Outcome.NOT_RUN, "")]) == ()
    assert charts.kl_charts([blank]) == ()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 24, 64, 300, 5000])
def test_the_positions_along_the_axis_are_few_and_rising(count: int) -> None:
    content = {"mean": [1e-5] * count, "max": [1e-5] * count}
    at = [tick.at for tick in charts.kl_chart("decode", content).x_ticks]
    assert at == sorted(set(at))
    assert 1 <= len(at) <= 6


def test_the_roofline_is_the_slower_of_arithmetic_and_memory() -> None:
    pictures, prefill, decode, unknown = read_timings(page_reports.TIMINGS).stages
    assert (pictures.seconds, pictures.fastest, pictures.slowest, pictures.calls) == (1.52, 1.5, 1.6, 3)
    assert (pictures.bound, pictures.share) == ("arithmetic", "58 %")
    assert pictures.allowed == pytest.approx(5.3e11 / 6e11)
    assert (decode.bound, decode.share) == ("memory", "37 %")
    assert (decode.label, decode.each) == ("9.1 s for 64 tokens", "142 ms")
    assert (pictures.label, unknown.label) == ("1.52 s for 7 pictures", "20 ms for 1 picture")
    assert (unknown.allowed, unknown.share, unknown.bound) == (None, "", "")
    assert decode.width == max(stage.width for stage in (pictures, prefill, decode, unknown))


def test_without_peaks_there_are_times_alone_and_the_impossible_is_marked() -> None:
    found = read_timings({**page_reports.TIMINGS, "peaks": {}})
    assert found.peaks == ""
    assert {stage.share for stage in found.stages} == {""}
    fast = {"name": "decode", "seconds": [0.1], "units": [8], "flop": None, "bytes": 18e9}
    assert read_timings({**page_reports.TIMINGS, "stages": [fast]}).stages[0].impossible
    assert read_timings({}).stages == ()
    assert read_timings({"stages": [{**fast, "seconds": [0.0]}]}).stages == ()
