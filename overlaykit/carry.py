"""Carry a plan out: save, swap; and recover first. Whatever happens, the user is told where --force put their work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Callable

from .backup import Backup, how_to_restore, save
from .build import Built
from .errors import OverlayError
from .gitrepo import GitFailed
from .journal import Journal
from .plan import Plan, Request, how_to_keep, own_commits
from .project import Project
from .recover import recover
from .survey import Index, Survey
from .swap import Rewrite, swap
from .workspace import BASE, BRANCH, RESULT, TIP, State, Workspace


def recover_first(workspace: Workspace, say: Callable[[str], None]) -> tuple[str, ...]:
    """Said at once, for what follows may fail."""
    journal = workspace.journal()
    if journal is None:
        return ()
    restore = how_to_restore(workspace.repo, journal.backups)
    try:
        outcome = recover(workspace.repo, journal, workspace.private)
    except OverlayError as error:
        error.restore = restore
        raise
    notes = (
        f"an earlier run was interrupted: it was {outcome.value}",
        *(f"what --force replaced then: {command}" for command in restore),
    )
    for note in notes:
        say(note)
    return notes


def carry_out(
    plan: Plan, workspace: Workspace, project: Project, state: State, scratch: Path, request: Request, lock: IO[bytes]
) -> tuple[str, ...]:
    """Carry a plan out. Returns the commands that bring back what --force replaced."""
    found, head = plan.survey, state.head
    assert head.commit is not None
    saved = None
    restore: tuple[str, ...] = ()
    drops_commits = own_commits(workspace.repo, state, plan.target)
    if found.obstacles or drops_commits:
        parents = tuple(dict.fromkeys(commit for commit in (head.commit, state.branch) if commit))
        saved = save(workspace.repo, parents, found, plan.index, scratch)
        restore = how_to_restore(workspace.repo, saved.refs)
        if drops_commits:
            restore += (how_to_keep(workspace, state.branch or ""),)
    previous = None if head.branch == BRANCH else head.branch or head.commit
    kept = tuple(change.path for change in found.kept)
    backups = saved.refs if saved else ()
    journal = Journal(
        head.commit, plan.target, BRANCH, refs_of(plan.built), previous, kept, backups, project.fingerprint
    )
    exchange(workspace, journal, found, plan.index, plan.writes, saved, restore, request.say, lock)
    return restore


def exchange(
    workspace: Workspace,
    journal: Journal,
    found: Survey,
    index: Index,
    writes: Mapping[str, Rewrite],
    saved: Backup | None,
    restore: tuple[str, ...],
    say: Callable[[str], None],
    lock: IO[bytes],
) -> None:
    """Swap; whatever happens then, the user has been told where --force put their work."""
    for command in restore:
        say(f"Saved; to get it back: {command}")
    try:
        swap(workspace.repo, journal, found, index, writes, saved.files if saved else {}, workspace.private, lock)
    except OverlayError as error:
        error.restore = restore
        raise
    except OSError as error:  # a full disk, missing permissions
        raise GitFailed(f"{error.filename or 'The system'}: {error.strerror}", restore=restore) from error


def refs_of(built: Built) -> dict[str, str]:
    return {BASE: built.base, RESULT: built.overlay.id, TIP: built.config.id}
