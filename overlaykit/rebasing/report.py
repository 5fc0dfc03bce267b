"""What rebase and check --against found, as text and JSON from the same facts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from ..colour import paint
from ..explaining.conflict import Conflict
from ..explaining.culprits import Culprit
from ..explaining.drift import Drift
from ..explaining.fate import Fate
from ..ports.problems import PortProblem
from .moves import Move


class RebaseOutcome(Enum):
    """How a rebase, or the question whether it would work, ended; the text is the headline."""

    DONE = "The patches are on {shown} now"
    NOTHING_TO_DO = "The patches are on {shown} already"
    CONFLICT = "A patch does not fit {shown}; nothing of yours was touched"
    REVIEW = "Every patch fits {shown}, but read this first; nothing of yours was touched"
    UNFIT = "The patches fit {shown}, but what overlay/ or configs/ need is not there; nothing of yours was touched"
    ABORTED = "The rebase was given up; patches/ and the workspace are as before"
    FITS = "The patches would fit {shown}"
    FITS_NOT = "The patches would not fit {shown} as they are"


_BAD = (RebaseOutcome.CONFLICT, RebaseOutcome.REVIEW, RebaseOutcome.UNFIT, RebaseOutcome.FITS_NOT)
_COLOURS = {Fate.SAME: "green", Fate.MOVED: "green", Fate.CONTEXT: "green", Fate.LANDED: "cyan", Fate.CHANGED: "yellow"}


@dataclass(frozen=True)
class RebaseReport:
    """The facts of one step. Empty fields are unknown or do not apply."""

    verb: str
    outcome: RebaseOutcome
    workspace: str
    shown: str = ""  # the new base, as it was asked for
    old: str = ""
    new: str = ""
    moves: tuple[Move, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    ports: tuple[PortProblem, ...] = ()
    tree: str = ""  # the new lock
    range_diff: str = ""
    worktree: str = ""
    next: tuple[str, ...] = ()  # what to type
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # check only: patches that were left out for they conflict

    @property
    def code(self) -> int:
        return int(self.outcome in _BAD)

    @property
    def drift(self) -> tuple[Drift, ...]:
        return tuple(drift for move in self.moves for drift in move.drift)

    def as_json(self) -> str:
        facts = {
            **{name: getattr(self, name) for name in ("verb", "workspace", "shown", "old", "new", "tree", "worktree")},
            **{name: plain(getattr(self, name)) for name in ("conflicts", "ports", "next", "notes", "range_diff")},
            "outcome": self.outcome.name.lower(),
            "patches": [_move_as_json(move, self.skipped) for move in self.moves],
        }
        return json.dumps({"ok": self.code == 0, "code": self.code, **facts}, indent=2)

    def as_text(self) -> str:
        headline = self.outcome.value.format(shown=self.shown)
        lines = [paint(headline, "red" if self.code else "green")]
        lines += [f"  {'upstream':<11}{self.old[:12]} -> {self.new[:12]}"] if self.old else []
        lines += [row for move in self.moves for row in _move_as_text(move, self.skipped)]
        for conflict in self.conflicts:
            lines += ["", *str(conflict).split("\n")]
        for drift in self.drift if self.code else ():  # what was accepted was shown before
            lines += ["", *str(drift).split("\n")]
        for port in self.ports:
            lines += ["", paint(f"{port.where}: {port.kind.value}", "yellow"), f"  {port.what}", *_who(port.culprits)]
            lines += [f"  {port.hint}"] if port.hint else []
        lines += ["", "patch by patch (git range-diff):", self.range_diff.rstrip("\n")] if self.range_diff else []
        lines += [f"  {'tree':<11}{self.tree} (the new lock)"] if self.tree else []
        lines += [f"  {'note':<11}{note}" for note in self.notes]
        lines += ["", *self.next] if self.next else []
        return "\n".join(lines)


def plain(value: Any) -> Any:
    """Dataclasses, enums and tuples as JSON knows them."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return plain({name: getattr(value, name) for name in (item.name for item in fields(value))})


def _move_as_json(move: Move, skipped: Sequence[str]) -> dict[str, Any]:
    return {
        "patch": move.name,
        "now": move.after.name if move.after else None,
        "subject": move.subject,
        "fate": "conflict" if move.name in skipped else move.fate.name.lower(),
        "by_hand": move.by_hand,
        "lost": move.lost,
        "drift": plain(move.drift),
        "upstream": plain(move.upstream),
    }


def _move_as_text(move: Move, skipped: Sequence[str]) -> list[str]:
    if move.name in skipped:
        return [f"  {paint('conflict'.ljust(22), 'red')}{move.name}"]
    word, colour = move.fate.value, _COLOURS[move.fate]
    if move.before is None:
        word = "added"
    elif move.fate is Fate.LANDED and move.by_hand:
        word = "dropped"
    elif move.by_hand:
        word = "resolved"
    elif move.lost:
        word, colour = "gone, and not landed", "red"
    if move.drift:
        word, colour = f"{word}, drifted", "yellow"
    renamed = f" -> {move.after.name}" if move.after and move.after.name != move.name else ""
    return [f"  {paint(word.ljust(22), colour)}{move.name}{renamed}", *_who(move.upstream, " " * 24)]


def _who(culprits: Sequence[Culprit], indent: str = "  ") -> list[str]:
    more = [f"{indent}and {len(culprits) - 5} more"] if len(culprits) > 5 else []
    return [*(f"{indent}{culprit}" for culprit in culprits[:5]), *more]
