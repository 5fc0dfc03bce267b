"""One call of rebase: what its steps work with, and how they report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from ..gitrepo import Repo
from ..plan import Request
from ..project import Project
from ..workspace import Workspace
from .report import RebaseOutcome, RebaseReport
from .state import RebaseState, worktree_of


@dataclass(frozen=True)
class Job:
    """A step takes it and ends with a report or an error, and leaves a state that the next call can read."""

    request: Request
    project: Project
    workspace: Workspace
    lock: IO[bytes]
    notes: tuple[str, ...]

    @property
    def repo(self) -> Repo:
        return self.workspace.repo

    @property
    def folder(self) -> Path:
        """Of the rebase's own worktree."""
        return worktree_of(self.workspace.private)

    def write(self, state: RebaseState, **changes: Any) -> RebaseState:
        """`state` with these changes, as it is on disk now."""
        changed = replace(state, **changes)
        changed.write(self.workspace.private)
        return changed

    def report(self, outcome: RebaseOutcome, state: RebaseState, **facts: Any) -> RebaseReport:
        return RebaseReport(
            "rebase",
            outcome,
            str(self.workspace.folder),
            shown=state.shown,
            old=state.course.old,
            new=state.course.new,
            worktree="" if outcome is RebaseOutcome.DONE else str(self.folder),
            **{**facts, "notes": (*self.notes, *facts.get("notes", ()))},
        )
