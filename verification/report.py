"""What verify found, as frozen values, and the two ways to show it: a table and JSON."""

from __future__ import annotations

import enum
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOTHING_RAN = 5
FILES = ("tree", "pictures", "weights")  # parts of L0, whose lines compare files and not what a model computes


class Outcome(enum.Enum):
    PASSED = "ok"
    FAILED = "FAILED"
    NOTE = "note"  # worth knowing, not wrong
    NOT_RUN = "not run"  # something it needs is missing: never counted as good
    NOT_JUDGED = "not judged"  # ran, but synthetic weights give no meaning to judge


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    part: str  # "tree", "weights", "stages" or "answers"
    name: str
    outcome: Outcome
    measured: str
    allowed: str = ""
    shows: str = ""  # what this line is worth with the weights of this run, and what it does not show
    detail: str = ""  # what went wrong and what to do, for lines that are not ok
    code: int = 1  # the exit code when this line failed
    numbers: Mapping[str, Any] = field(default_factory=dict)  # the same facts for programs
    level: str = ""  # of the gate (configs/gate.yaml): "L0" to "L4"; see level_of for a line that says none


@dataclass(frozen=True)
class Report:
    subject: str  # what was verified: the workspace, or the overlay alone
    weights: str
    synthetic: bool
    device: str
    versions: Mapping[str, str]
    checks: tuple[Check, ...]
    hint: str = ""  # what to do next
    operations: str = ""  # which of the decoder's operations are fused on the device, and which had to be replaced
    pictures: tuple[Path, ...] = ()  # what the answers are about; only the HTML page opens them
    timings: Mapping[str, Any] = field(default_factory=dict)  # seconds measured on the way: gate/take.py
    replayed: bool = False  # judged from a bundle: nothing ran here, and tree, tensors and answers are not looked at

    @property
    def exit_code(self) -> int:
        """1 when a check failed (4 when only the lock differs), 5 when something could not run, else 0."""
        failed = {check.code for check in self.checks if check.outcome is Outcome.FAILED}
        if failed:
            return 1 if 1 in failed else min(failed)
        missing = any(check.outcome is Outcome.NOT_RUN for check in self.checks)
        return NOTHING_RAN if missing or not self.checks else 0

    @property
    def verdict(self) -> str:
        count = {outcome: sum(check.outcome is outcome for check in self.checks) for outcome in Outcome}
        parts = [f"{number} {outcome.value}" for outcome, number in count.items() if number]
        meaning = {
            0: self._agrees,
            1: "NOT verified.",
            4: "The tree is not the one of the lock; everything else agrees.",
            NOTHING_RAN: "Could not verify everything.",
        }
        return f"{', '.join(parts)}. {meaning[self.exit_code]}"

    @property
    def _agrees(self) -> str:
        if self.replayed:
            return f"The bundle agrees with its golden{', of synthetic weights' if self.synthetic else ''}."
        if self.synthetic:
            return "Verified with synthetic weights: code, files and stages agree; answers mean nothing."
        return "Verified."


def level_of(check: Check) -> str:
    """The level that the line belongs to; "" for what is part of none, as the answers."""
    return check.level or ("L0" if check.part in FILES else "")


def to_json(report: Report) -> str:
    content = {
        "subject": report.subject,
        "weights": report.weights,
        "synthetic": report.synthetic,
        "replayed": report.replayed,
        "device": report.device,
        "operations": report.operations,
        "versions": dict(report.versions),
        "exit_code": report.exit_code,
        "verdict": report.verdict,
        "hint": report.hint,
        "timings": dict(report.timings),
        "checks": [
            {
                "part": check.part,
                "level": level_of(check),
                "name": check.name,
                "outcome": check.outcome.value,
                "measured": check.measured,
                "allowed": check.allowed,
                "shows": check.shows,
                "detail": check.detail,
                "numbers": dict(check.numbers),
            }
            for check in report.checks
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def to_table(report: Report, width: int = 120) -> str:
    """The report for a terminal of `width` columns; the last column is wrapped, so nothing is cut off."""
    head = ("check", "result", "measured", "allowed", "what this line shows")
    rows = [(c.name, c.outcome.value, c.measured, c.allowed, c.shows) for c in report.checks]
    sizes = [max(len(row[column]) for row in (head, *rows)) for column in range(4)]
    left = sum(sizes) + 2 * len(sizes)
    last = max(width - left, 30)
    lines = [
        f"subject  {report.subject}",
        f"weights  {report.weights}",
        f"device   {report.device}   " + "  ".join(f"{name} {version}" for name, version in report.versions.items()),
        *([f"decoder  {report.operations}"] if report.operations else []),
        "",
        _row(head, sizes, last),
        "-" * (left + last),
    ]
    part = ""
    for check, row in zip(report.checks, rows):
        if part and check.part != part:
            lines.append("")
        part = check.part
        lines.append(_row(row, sizes, last))
        lines += textwrap.wrap(check.detail, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([*lines, "", report.verdict, *([report.hint] if report.hint else [])])


def _row(cells: tuple[str, ...], sizes: list[int], last: int) -> str:
    start = "  ".join(cell.ljust(size) for cell, size in zip(cells, sizes)) + "  "
    wrapped = textwrap.wrap(cells[4], last) or [""]
    return "\n".join((start if not number else " " * len(start)) + line for number, line in enumerate(wrapped)).rstrip()
