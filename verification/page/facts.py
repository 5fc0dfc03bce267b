"""What the page says, worked out of a Report once, so that HTML and Markdown tell the same.

Templates and markdown.py only arrange what stands here; nothing is judged here that the report has not judged.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from verification.answers import BLANK
from verification.page import charts, thumbnails, timing
from verification.report import NOTHING_RAN, Check, Outcome, Report, level_of

LEVELS = {
    "L0": ("Files", "The tree, the pictures and the weights, every tensor in its place"),
    "L1": ("Pixels", "The picture as the model gets it"),
    "L2": ("Image half", "Encoder, Q-Former and projection against the fp32 reference"),
    "L3": ("Next token", "The language model's numbers at every position"),
    "L4": ("Text", "The same words, and again the same words"),
}
PARTS = {
    "stages": "Stage by stage",
    "answers": "The answers",
}
HEADLINES = {
    0: ("passed", "Verified"),
    1: ("failed", "Not verified"),
    4: ("failed", "Another tree than the lock's"),
    NOTHING_RAN: ("partial", "Not everything ran"),
}
_WORST = (Outcome.FAILED, Outcome.NOT_RUN, Outcome.PASSED, Outcome.NOT_JUDGED, Outcome.NOTE)


@dataclass(frozen=True)
class Group:
    """A level, or what is part of none. outcome: the worst of its lines; None without a line."""

    key: str  # "L0" to "L4", or the part
    title: str
    meaning: str
    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Outcome | None:
        found = {check.outcome for check in self.checks}
        return next((outcome for outcome in _WORST if outcome in found), None)

    @property
    def count(self) -> str:
        """How many lines ended how: "10 ok, 1 note"."""
        found = ((outcome.value, sum(check.outcome is outcome for check in self.checks)) for outcome in _WORST)
        return ", ".join(f"{number} {name}" for name, number in found if number) or "no line"


@dataclass(frozen=True)
class Card:
    """A picture, and what was said about it."""

    picture: thumbnails.Picture
    answers: tuple[Check, ...]


@dataclass(frozen=True)
class Values:
    """What each stage measured on each picture; None where it measured nothing or no finite number."""

    stages: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]  # (picture, value of each stage)


@dataclass(frozen=True)
class Facts:
    report: Report
    command: str  # that makes this report again
    date: str
    state: str  # "passed", "failed" or "partial"
    headline: str
    caveats: tuple[tuple[str, str], ...]  # (what this run is, what that means)
    levels: tuple[Group, ...]  # all five, or none where nothing was checked
    groups: tuple[Group, ...]  # every line but the answers, in tables
    failed: tuple[Check, ...]
    not_run: tuple[Check, ...]
    cards: tuple[Card, ...]
    others: tuple[thumbnails.Picture, ...]  # pictures without an answer
    histograms: tuple[charts.Histogram, ...]
    kl: tuple[charts.KL, ...]
    values: Values
    timings: timing.Timings
    hashes: tuple[tuple[str, str], ...]


def gather(report: Report, command: str, date: str) -> Facts:
    checks = report.checks
    state, headline = HEADLINES[report.exit_code]
    if state == "passed" and report.replayed:
        headline = "The bundle agrees with its golden"
    elif state == "passed" and report.synthetic:
        headline += " on synthetic weights"
    pictures = thumbnails.read_pictures(report.pictures)
    said = [check for check in checks if "answer" in check.numbers]
    cards = _cards(said, pictures)
    asked = {card.picture.name for card in cards}
    rest = [check for check in checks if "answer" not in check.numbers]
    return Facts(
        report,
        command,
        date,
        state,
        headline,
        caveats=_caveats(report),
        levels=_levels(checks),
        groups=_groups(rest),
        failed=tuple(check for check in checks if check.outcome is Outcome.FAILED),
        not_run=tuple(check for check in checks if check.outcome is Outcome.NOT_RUN),
        cards=cards,
        others=tuple(picture for name, picture in pictures.items() if name not in asked),
        histograms=charts.histograms(checks),
        kl=charts.kl_charts(checks),
        values=_values([check for check in checks if check.numbers.get("values")]),
        timings=timing.read_timings({**report.timings, "peaks": {}} if report.synthetic else report.timings),
        hashes=_hashes(checks, pictures),
    )


def _caveats(report: Report) -> tuple[tuple[str, str], ...]:
    """What a reader must know before the verdict means anything."""
    found = []
    if report.replayed:
        means = "The numbers are those that a bundle says a device computed; nothing ran here, and nothing proves them."
        found.append(("Judged from a bundle", means))
    if report.synthetic:
        means = "Random numbers in the real formats: code, files and stages are compared, the answers are noise."
        found.append(("SYNTHETIC weights", f"{means} Nothing is shown about the real model."))
    if (
        report.device.startswith("npu") and "simulator.npu_kernels" in sys.modules
    ):  # tests/npu_sim: torch_npu cannot tell
        found.append(("SIMULATED NPU", "Arguments and control flow are shown, neither an NPU's numbers nor its speed."))
    elif report.device.startswith("cpu"):
        found.append(("Ran on a CPU", "Nothing is shown about an accelerator's arithmetic or speed."))
    return tuple(found)


def _levels(checks: Sequence[Check]) -> tuple[Group, ...]:
    if not checks:
        return ()
    return tuple(
        Group(key, title, meaning, tuple(check for check in checks if level_of(check) == key))
        for key, (title, meaning) in LEVELS.items()
    )


def _groups(checks: Sequence[Check]) -> tuple[Group, ...]:
    """The lines in the order of the report's parts; inside a part by level, lowest first."""
    found: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        level = level_of(check)
        key = ("", level) if level in LEVELS else (check.part, "")
        found.setdefault(key, []).append(check)
    groups = []
    for (part, level), lines in sorted(found.items(), key=lambda item: item[0][1] or "~"):
        title, meaning = LEVELS.get(level, (PARTS.get(part, part.capitalize()), ""))
        groups.append(Group(level or part, title, meaning, tuple(lines)))
    return tuple(groups)


def _cards(answers: Sequence[Check], pictures: Mapping[str, thumbnails.Picture]) -> tuple[Card, ...]:
    found: dict[str, list[Check]] = {}
    for check in answers:
        found.setdefault(str(check.numbers.get("picture") or check.name), []).append(check)
    return tuple(Card(pictures.get(name) or _absent(name), tuple(lines)) for name, lines in found.items())


def _absent(name: str) -> thumbnails.Picture:
    """What was asked about and is no file: the control, or a file that the report does not name."""
    why = "Grey all over: the control." if name == BLANK else "No picture: the report names no file of this name."
    return thumbnails.Picture(name, problem=why)


def _values(checks: Sequence[Check]) -> Values:
    pictures = dict.fromkeys(picture for check in checks for picture in check.numbers["values"])
    rows = ((picture, tuple(check.numbers["values"].get(picture) for check in checks)) for picture in pictures)
    return Values(tuple(check.name for check in checks), tuple(rows))


def problem_of(check: Check) -> str:
    """What is wrong; of an answer without the question and the answer, which stand in its card."""
    if "answer" not in check.numbers:
        return check.detail
    return check.detail.split(f"{check.numbers.get('question')} -> ")[0].strip()


def _hashes(checks: Sequence[Check], pictures: Mapping[str, thumbnails.Picture]) -> tuple[tuple[str, str], ...]:
    """Every sha256 that the lines carry, and those of the pictures."""
    found = {
        (check.name if key == "sha256" else f"{check.name}: {key}"): value
        for check in checks
        for key, value in check.numbers.items()
        if "sha256" in key and isinstance(value, str)
    }
    found.update({name: picture.sha256 for name, picture in pictures.items() if picture.sha256})
    return tuple(found.items())
