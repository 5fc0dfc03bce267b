"""Results of the verbs, rendered as text or JSON from the same objects."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from .build import Commit
from .errors import OverlayError


class Answer(Protocol):
    """What a verb returns: the same facts as text and as JSON, and the exit code."""

    @property
    def code(self) -> int: ...

    def as_text(self) -> str: ...

    def as_json(self) -> str: ...


class Outcome(Enum):
    """What a verb found or did; the text is the headline."""

    APPLIED = "Applied to {workspace}"
    NOTHING_TO_DO = "Nothing to do in {workspace}"
    REVERTED = "{workspace} is back on {branch}"
    LOCKED = "Locked tree {tree}"
    WOULD_CLONE = "Everything fits; apply would clone upstream into {workspace}"
    WOULD_FETCH = "Everything fits; apply would fetch upstream's commit into {workspace}"
    WOULD_CHANGE = "Everything fits; apply would change {workspace}"
    CURRENT = "{workspace} is as this project says"
    OUTDATED = "{workspace} was made by an earlier state of this project, or edited since; run apply"
    NOT_APPLIED = "{workspace} is a plain clone, on {branch}"
    INTERRUPTED = "A run in {workspace} was interrupted; the next apply finishes or undoes it"
    AT_WORK = "A run is at work on {workspace}"
    ABSENT = "There is no workspace at {workspace} yet"


@dataclass(frozen=True)
class Report:
    """The facts of one run. Empty fields are unknown or do not apply."""

    verb: str
    outcome: Outcome
    workspace: str
    branch: str = ""
    tip: str = ""
    base: str = ""
    commits: tuple[Commit, ...] = ()
    tree: str = ""  # before this machine's configuration
    expected: str = ""  # by the lock
    settings: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    local_edits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    restore: tuple[str, ...] = ()  # commands that bring back what --force replaced

    @property
    def code(self) -> int:
        return 0

    @property
    def commands(self) -> dict[str, str]:
        if not self.base or self.branch != "overlay":
            return {}
        folder = shlex.quote(self.workspace)
        return {
            "log": f"git -C {folder} log --stat {self.base[:12]}..refs/heads/overlay",
            "revert": f"{how_to_call()} revert --workspace {folder}",
        }

    def as_json(self) -> str:
        facts = {**asdict(self), "outcome": self.outcome.name.lower(), "commands": self.commands}
        return json.dumps({"ok": True, "code": 0, **facts}, indent=2)

    def as_text(self) -> str:
        lines = [self.outcome.value.format(workspace=self.workspace, branch=self.branch, tree=self.tree)]
        lines += _block("upstream", [self.base])
        lines += _block("commits", [f"{commit.id[:12]} {commit.subject}" for commit in self.commits])
        lines += _block("tree", [self.tree and f"{self.tree} ({_verdict(self)})"])
        lines += _block("branch", [self.branch and f"{self.branch} at {self.tip[:12]}"])
        lines += _block("settings", [f"{name} = {value}" for name, value in self.settings.items()])
        lines += _block("changes", _first(self.changes))
        lines += _block("your edits", _first(self.local_edits))
        lines += _block("note", list(self.notes))
        lines += _block("get back", list(self.restore))
        for name, command in self.commands.items():
            lines += _block(name, [command])
        return "\n".join(lines)


def how_to_call() -> str:
    """`python apply.py`, with the whole path where the short one would not be found."""
    program = Path(__file__).resolve().parents[1] / "apply.py"
    here = os.path.exists("apply.py") and os.path.samefile("apply.py", program)
    return f"python {'apply.py' if here else shlex.quote(str(program))}"


def error_as_json(error: OverlayError, code: int) -> str:
    facts = {name: getattr(error, name) for name in ("what", "why", "fix", "restore")}
    facts["type"] = type(error).__name__
    misfits = [asdict(misfit) for misfit in getattr(error, "misfits", ())]
    return json.dumps({"ok": False, "code": code, "error": {**facts, "misfits": misfits}}, indent=2)


def _verdict(report: Report) -> str:
    return "as locked" if report.tree == report.expected else f"the lock says {report.expected or 'nothing yet'}"


def _block(name: str, rows: list[str]) -> list[str]:
    rows = [row for row in rows if row]
    return [f"  {name if number == 0 else '':<11}{row}" for number, row in enumerate(rows)]


def _first(rows: tuple[str, ...], limit: int = 10) -> list[str]:
    more = [f"and {len(rows) - limit} more; --json lists all"] if len(rows) > limit else []
    return [*rows[:limit], *more]
