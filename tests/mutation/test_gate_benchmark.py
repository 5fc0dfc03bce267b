"""benchmarks/gate.py counts false alarms and margins from verify.py's own lines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))

from benchmarks import gate


def line(name: str, outcome: str = "ok", part: str = "stages", allowed: str = "", **numbers: Any) -> dict[str, Any]:
    measured = "" if outcome == "not run" else "error 1e-6"
    return {
        "part": part, "name": name, "outcome": outcome, "measured": measured, "allowed": allowed, "detail": "",
        "numbers": numbers,
    }  # fmt: skip


def run(*lines: dict[str, Any], code: int = 0) -> gate.Result:
    return gate.Result("float32 0", code, {"checks": list(lines)}, 1.0, "")


@pytest.mark.parametrize("outcome", ["FAILED", "not run"])
def test_a_line_that_is_not_right_is_an_alarm(outcome: str) -> None:
    (alarm,) = gate.alarms(run(line("encoder"), line("decode", outcome), line("office", "not judged", "answers")))
    assert alarm.startswith(f"decode {outcome}")


def test_a_tree_that_was_edited_is_none() -> None:
    assert not gate.alarms(run(line("lock", "FAILED", "tree"), line("encoder"), code=4))


def test_a_run_without_report_is_one() -> None:
    (alarm,) = gate.alarms(gate.Result("float32 0", 70, {}, 1.0, "Traceback\nValueError: x\n"))
    assert "70" in alarm
    assert "ValueError: x" in alarm


def test_the_row_has_one_count_for_each_seed() -> None:
    row = gate.alarm_row("x", [run(line("encoder")), run(line("encoder", "FAILED"), line("decode", "FAILED"))])
    assert row["values"] == [0, 2]
    assert len(row["said"]) == 2


def test_margins_are_the_worst_picture_of_each_seed() -> None:
    limit = "error <= 1e-05"
    runs = [
        run(line("encoder", allowed=limit, values={"a": 1e-7, "b": 3e-7}), line("greedy ids", values={"a": 0.0})),
        run(line("encoder", allowed=limit, values={"a": 5e-7, "b": 2e-7})),
    ]
    (row,) = gate.margins("float32", runs)
    assert (row["values"], row["goal"]) == ([3e-7, 5e-7], "<= 1e-05")
    assert "encoder" in row["what"]


def test_in_half_precision_the_margin_is_the_three_party_ratio() -> None:
    allowed = "error <= 0.01, 1.5 x"
    half = run(line("encoder", allowed=allowed, values={"a": 1e-3}, ratio=1.1), line("prompt", allowed="error <= 1e-3"))
    (row,) = gate.margins("float16", [half])
    assert (row["values"], row["goal"]) == ([1.1], "<= 1.5")
