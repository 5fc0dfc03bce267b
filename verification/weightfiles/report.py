"""What the weights doctor found, as a table and as JSON."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path

from verification.report import NOTHING_RAN, Outcome
from verification.weightfiles.files import SYNTHETIC, Finding


@dataclass(frozen=True)
class WeightsReport:
    place: str  # where the paths come from
    findings: tuple[Finding, ...]
    memory: str
    disk: str = ""
    pins: tuple[Path, ...] = ()  # files that keep sums from run to run
    troubles: tuple[str, ...] = ()  # what could not be fetched
    hint: str = ""  # what to run next

    @property
    def exit_code(self) -> int:
        """1 when a file is wrong, 5 when one is missing or could not be fetched, else 0."""
        outcomes = {found.outcome for found in self.findings}
        if Outcome.FAILED in outcomes:
            return 1
        return NOTHING_RAN if Outcome.NOT_RUN in outcomes or self.troubles else 0

    @property
    def verdict(self) -> str:
        count = {outcome: sum(found.outcome is outcome for found in self.findings) for outcome in Outcome}
        missing = sum(found.kind == "missing" and found.outcome is Outcome.NOT_RUN for found in self.findings)
        numbers = {"wrong": count[Outcome.FAILED], "missing": missing, "not checked": count[Outcome.NOT_RUN] - missing}
        parts = [f"{number} {what}" for what, number in numbers.items() if number]
        if parts:
            return f"{', '.join(parts)} of {len(self.findings)}."
        if any(found.kind == SYNTHETIC for found in self.findings):
            return "All there, and synthetic: nothing was compared with published files."
        return "Every file is there and the right one." if not self.troubles else "Not everything could be fetched."


def to_json(report: WeightsReport) -> str:
    content = {
        "place": report.place,
        "exit_code": report.exit_code,
        "verdict": report.verdict,
        "memory": report.memory,
        "disk": report.disk,
        "pins": [str(path) for path in report.pins],
        "troubles": list(report.troubles),
        "hint": report.hint,
        "files": [
            {
                "key": found.key,
                "path": str(found.path),
                "outcome": found.outcome.value,
                "kind": found.kind,
                "bytes": found.bytes,
                "sha256": found.sha256,
                "told_by": found.told_by,
                "what": found.what,
                "fix": found.fix,
            }
            for found in report.findings
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def to_table(report: WeightsReport, width: int = 120) -> str:
    rows = [("file", "result", "bytes", "sha256"), *(_row(found) for found in report.findings)]
    sizes = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for row, found in zip(rows, (None, *report.findings)):
        first = "  ".join((row[0].ljust(sizes[0]), row[1].ljust(sizes[1]), row[2].rjust(sizes[2]), row[3]))
        lines.append(first.rstrip())
        if found is None:
            lines.append("-" * min(max(len(line) for line in [*lines, "x" * sum(sizes)]) + 24, width))
        elif found.what:
            fix = f". {found.fix}" if found.fix and found.outcome is not Outcome.NOTE else ""
            lines += _wrapped(found.what + fix, width)
    above = [f"{name}  {text}" for name, text in (("files ", report.place), ("disk  ", report.disk)) if text]
    for number, sentence in enumerate(textwrap.wrap(report.memory, max(width - 8, 40))):
        above.append(f"{'memory' if number == 0 else '':6}  {sentence}")
    below = [f"Sums that nobody published are kept in {path}: a file that changes is refused." for path in report.pins]
    below += [line for trouble in report.troubles for line in ("", trouble)]
    return "\n".join([*above, "", *lines, *below, "", report.verdict, *([report.hint] if report.hint else [])])


def _row(found: Finding) -> tuple[str, str, str, str]:
    # One name may be several keys' (config.json): the folder tells them apart.
    name = f"{found.path.parent.name}/{found.path.name}"
    size = "" if found.bytes is None else f"{found.bytes:,}"
    digest = "  ".join(part for part in ((found.sha256 or "")[:12], found.told_by) if part)
    absent = found.outcome is Outcome.NOT_RUN and found.kind == "missing"
    return name, "missing" if absent else found.outcome.value, size, digest


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent="    ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
