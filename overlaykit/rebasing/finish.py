"""The end of a rebase: what has to be read, the new project at one stroke, the workspace swapped; or all undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from ..carry import carry_out
from ..errors import FixTheCommand, SaveYourWork
from ..explaining.culprits import renamed_to
from ..exporting.newproject import Contents, NewProject, new_project
from ..gitrepo import Repo
from ..install import install, undo_install
from ..plan import Request, make_plan
from ..ports.ports import check_ports
from ..ports.problems import PortKind, PortProblem
from ..project import read_project
from ..report import how_to_call
from ..workspace import Workspace
from .advice import after_changes, after_reading, how_to
from .job import Job
from .moves import Move, compare_moves, patch_files
from .replay import Replay, remove_worktree
from .report import RebaseOutcome, RebaseReport
from .state import RebaseState, read_state, remove_state, worktree_of
from .strange import refuse_unstaged

_TO_READ = (PortKind.IMPORT_GONE, PortKind.SIGNATURE, PortKind.TAKEN)  # the others make the build fail


def conclude(job: Job, state: RebaseState, replay: Replay) -> RebaseReport:
    """All patches fit. What changed its meaning, and is everything there that the overlay needs?"""
    refuse_unstaged(replay)
    job.request.say("Comparing what the patches, overlay/ and configs/ need with the new upstream")
    course, project, folder = state.course, job.project, job.workspace.folder
    with job.workspace.scratch() as scratch:
        (scratch / "clean").mkdir()
        look, result = f"git -C {quote(str(folder))}", replay.result()
        moves = compare_moves(replay.repo, course, project.series, result, state.stopped, scratch / "clean", look)
        tip = replay.repo.line("rev-parse", "HEAD")
        ports = check_ports(job.repo, course.tip, tip, project.overlay, project.rules, course.old, course.new)
        if any(port.kind not in _TO_READ for port in ports):
            return job.report(RebaseOutcome.UNFIT, state, moves=moves, ports=ports, next=after_changes(folder))
        to_read = _digests(moves, ports)
        if to_read and not (job.request.accept_drift and set(to_read) <= set(state.seen)):
            job.write(state, seen=to_read)
            return job.report(RebaseOutcome.REVIEW, state, moves=moves, ports=ports, next=after_reading(replay, folder))
        return _install(job, state, replay, moves, scratch)


def _digests(moves: Sequence[Move], ports: Sequence[PortProblem]) -> tuple[str, ...]:
    """What has to be read before the rebase may end."""
    drift = [f"{item.patch} {item.path} {item.symbol} {item.digest}" for move in moves for item in move.drift]
    lost = [f"{move.name} is gone" for move in moves if move.lost]
    return (*drift, *lost, *(f"{port.where} {port.what}" for port in ports if port.kind in _TO_READ))


def _install(job: Job, state: RebaseState, replay: Replay, moves: tuple[Move, ...], scratch: Path) -> RebaseReport:
    """Write, read back, build, compare; then patches/ and the lock at once, then the workspace."""
    course, repo = state.course, job.repo
    (scratch / "written").mkdir()
    renames = renamed_to(repo, course.old, course.new)
    raw = patch_files(repo, moves, job.request.accept_drift, renames, scratch / "written")
    job.request.say("Writing the patches and building them again")
    renamed = {move.name: move.after.name if move.after else None for move in moves if move.before}
    made = new_project(repo, job.project, raw, renamed, {}, course.new, scratch)
    replay.require_same(made.built.patches[-1].id if made.built.patches else made.built.base)
    _refuse_obstacles(job, made, scratch)
    state = job.write(state, before=_stored(repo, made.replaced), after=_stored(repo, made.files))
    install(job.project.root, made.files, made.seen)
    ranges = (f"{course.start}..{course.tip}", f"{course.onto}..{replay.repo.line('rev-parse', 'HEAD')}")
    shown = repo.line("range-diff", "--no-color", "--creation-factor=999", *ranges)
    done = swap_in(replace(job, project=read_project(job.request.project)), state)
    return replace(done, moves=moves, range_diff=shown)


def _refuse_obstacles(job: Job, made: NewProject, scratch: Path) -> None:
    """Raise SaveYourWork before anything is installed, when the swap that follows would have to refuse."""
    found = job.workspace.state()
    if found.applied:
        (scratch / "plan").mkdir()
        make_plan(job.workspace, made.project, job.request, found, job.repo, scratch / "plan")


def swap_in(job: Job, state: RebaseState) -> RebaseReport:
    """patches/ and the lock are new: bring the workspace up to date and forget the rebase."""
    found = job.workspace.state()
    restore: tuple[str, ...] = ()
    if found.applied:
        with job.workspace.scratch() as scratch:
            plan = make_plan(job.workspace, job.project, job.request, found, job.repo, scratch)
            if not plan.changes_nothing(found):
                restore = carry_out(plan, job.workspace, job.project, found, scratch, job.request, job.lock)
    remove_worktree(job.repo, job.folder)
    remove_state(job.workspace.private)
    kept = tuple(f"what --force replaced: {command}" for command in restore)
    notes = kept if found.applied else (*kept, "the workspace is not applied, so it was left as it is")
    lint = how_to("lint", job.workspace.folder)
    next_steps = (lint, "# then look at the difference, run the tests, and commit")
    return job.report(RebaseOutcome.DONE, state, tree=job.project.upstream.result, notes=notes, next=next_steps)


def give_up(request: Request, workspace: Workspace) -> RebaseReport:
    """Everything as it was before the rebase began; also after a kill, and with a state that cannot be read."""
    root, private = request.project.resolve(), workspace.private
    undone = undo_install(root)
    try:
        state = read_state(private)
    except SaveYourWork:
        state = None
    begun = (private / "rebase.json").exists() or worktree_of(private).exists()
    if not undone and not begun:
        raise FixTheCommand("No rebase is going on.", "There is nothing to give up.")
    notes: tuple[str, ...] = ()
    if state and state.before and read_project(root).upstream.commit == state.course.new:
        # Refused where a file is not what was installed: then the project went on, and this would undo that too.
        install(root, _contents(workspace.repo, state.before), _contents(workspace.repo, state.after))
        again = how_to("apply", workspace.folder)
        notes = (f"the workspace may have been brought up to date already: {again}",)
    remove_worktree(workspace.repo, worktree_of(private))
    remove_state(private)
    return RebaseReport("rebase", RebaseOutcome.ABORTED, str(workspace.folder), notes=notes)


def _stored(repo: Repo, files: Contents) -> dict[str, str | None]:
    return {path: repo.write_blob(data) if data is not None else None for path, data in files.items()}


def _contents(repo: Repo, stored: Mapping[str, str | None]) -> dict[str, bytes | None]:
    blobs = repo.read_blobs(blob for blob in stored.values() if blob)
    lost = [path for path, blob in stored.items() if blob and blob not in blobs]
    if lost:  # git keeps them two weeks
        fix = f"Take patches/ and configs/ back from this project's history, then: {how_to_call()} apply"
        raise SaveYourWork(f"The former contents of {lost[0]} are not there any more.", fix=fix)
    return {path: blobs[blob] if blob else None for path, blob in stored.items()}
