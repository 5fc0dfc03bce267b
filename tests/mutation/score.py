"""What became of each planted fault, and the table docs/mutation.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faults import Fault
from forks import TIMED_OUT, Result


@dataclass(frozen=True)
class Verdict:
    """wrong: "" when the fault did what the list says, else what is to be told."""

    fault: Fault
    line: Mapping[str, Any] | None  # the first failing line of the report
    others: tuple[str, ...]  # the names of the failing lines after it
    wrong: str
    seconds: float


def judge(fault: Fault, result: Result) -> Verdict:
    """Caught and located: exit code 1, and the first line that says FAILED is the expected one."""
    lines = failing(result.report)
    first, others = (lines[0] if lines else None), tuple(dict.fromkeys(line["name"] for line in lines[1:]))
    return Verdict(fault, first, others, _wrong(fault, result, first), result.seconds)


def failing(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The lines that say FAILED. Not of the tree: that a file was edited is not what is asked here."""
    return [line for line in report.get("checks", ()) if line["outcome"] == "FAILED" and line["part"] != "tree"]


def _wrong(fault: Fault, result: Result, first: Mapping[str, Any] | None) -> str:
    if result.code == TIMED_OUT:
        return "verify.py did not end in time"
    if not result.report:
        return f"verify.py exited with {result.code} and gave no report: {last_line(result.errors)}"
    if fault.survives:
        if first is not None:
            return f"it is said to survive, and {first['name']} caught it: the list is stale"
        stopped = [line["name"] for line in result.report["checks"] if line["outcome"] == "not run"]
        return f"it is said to survive, but {stopped[0]} was not run" if stopped else ""
    if first is None:
        return "nothing says FAILED"
    if first["name"] != fault.caught_by:
        return f"the first line that says FAILED is {first['name']}, expected {fault.caught_by}"
    if fault.says not in first["detail"]:
        return f"{first['name']} does not say {fault.says!r} but {first['detail']!r}"
    return "" if result.code == 1 else f"{first['name']} says FAILED and the exit code is {result.code}"


def page(verdicts: Sequence[Verdict], where: Mapping[str, str], half: Mapping[str, str]) -> str:
    """docs/mutation.md. where: date, device, versions. half: fault -> what a float16 run of the port says."""
    caught = [verdict for verdict in verdicts if verdict.fault.caught_by]
    located = [verdict for verdict in caught if not verdict.wrong]
    unseen = [verdict for verdict in verdicts if verdict.fault.survives]
    facts = ", ".join(f"{name} {value}" if name != "device" else value for name, value in where.items())
    parts = [
        "# What verify.py catches\n",
        "Written by `make mutation` (tests/mutation/run.py); do not edit. Each row is a fault that was planted in a",
        "fresh copy of the patched upstream or of its weights, and the first line of `verify.py` that said FAILED.",
        "Located means: that line is the stage, or the check of the files, which has the fault.\n",
        f"**{len(located)} of {len(caught)} planted faults caught and located**; {len(unseen)} more are known to pass.",
        f"{facts}. Synthetic weights, three pictures, float32.\n",
        *_half_summary(caught, half),
        "\n## Caught\n",
        "| Fault | Kind | Planted in | Caught by | Measured | Allowed | Located | In float16 |",
        "|---|---|---|---|---|---|---|---|",
        *(_caught_row(verdict, half.get(verdict.fault.name, "")) for verdict in caught),
        "\n## What the gate cannot see\n",
        "These faults were planted too, and nothing said FAILED:\n",
        "| Fault | Kind | Planted in | Why it passes |",
        "|---|---|---|---|",
        *(_row((v.fault.name, v.fault.kind, f"`{v.fault.place}`", v.fault.survives)) for v in unseen),
    ]
    return "\n".join(parts) + "\n"


def _caught_row(verdict: Verdict, half: str) -> str:
    line = verdict.line or {"name": "nothing", "measured": "", "allowed": ""}
    fault = verdict.fault
    located = f"**no**: {verdict.wrong}" if verdict.wrong else "yes"
    names = line["name"] + (f", then {', '.join(verdict.others)}" if verdict.others else "")
    return _row((fault.name, fault.kind, f"`{fault.place}`", names, line["measured"], line["allowed"], located, half))


def _half_summary(caught: Sequence[Verdict], half: Mapping[str, str]) -> list[str]:
    """How much of it is left where rounding hides what float32 shows."""
    if not half:
        return []
    unseen = [verdict.fault.name for verdict in caught if half.get(verdict.fault.name) == UNSEEN]
    summary = (
        "With the port in float16, as on an accelerator, the limits leave room for rounding: "
        f"{len(caught) - len(unseen)} of {len(caught)} are caught (last column)."
    )
    return [summary, f"Not seen there: {', '.join(unseen)}." if unseen else ""]


UNSEEN = "not seen"


def half_word(result: Result) -> str:
    """What the last column of the table says: the first failing line of a run in float16."""
    lines = failing(result.report)
    if not result.report:
        return f"exit code {result.code}"
    return lines[0]["name"] if lines else UNSEEN


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def last_line(text: str) -> str:
    """Of what a process wrote to standard error: the exception."""
    return (text.strip().splitlines() or ["nothing"])[-1][:300]
