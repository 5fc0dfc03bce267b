"""apply.py rebase: the patches onto a newer upstream. The story, from start to swap; each step can be killed.

Between runs a rebase is .git/overlay/rebase.json and a linked worktree (rebasestate). A run that was killed while
git was at work starts the replay anew and stages again what the user had resolved, so no half-done step is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ..carry import carry_out, recover_first
from ..errors import FixTheCommand, SaveYourWork
from ..explaining.conflict import Conflict, explain_conflicts
from ..explaining.culprits import renamed_to
from ..exporting.newproject import NewProject, new_project
from ..gitrepo import Repo
from ..install import finish_install, install, undo_install
from ..plan import Request, build_project, compare_with_lock, has_pin, make_plan, refuse_other_projects
from ..ports.ports import check_ports
from ..ports.problems import PortKind, PortProblem
from ..project import Project, read_project
from ..report import how_to_call
from ..sources import addresses, clone, fetch
from ..workspace import Workspace, open_workspace
from .advice import after_changes, after_reading, how_to, how_to_abort, what_to_type
from .moves import Move, compare_moves, patch_files
from .onto import find_onto
from .replay import Replay, make_worktree, open_worktree, plan_course, remove_worktree
from .report import RebaseOutcome, RebaseReport
from .state import RebaseState, digest_of, read_state, remove_state, worktree_of

_TO_READ = (PortKind.IMPORT_GONE, PortKind.SIGNATURE)  # the others make the build fail


def rebase(request: Request) -> RebaseReport:
    """Start, go on or give up. Raises OverlayError; the report's code is 1 where something is left to do."""
    _refuse_nonsense(request)
    workspace = open_workspace(request.workspace)
    if workspace is None:
        if request.proceed or request.abort:
            raise FixTheCommand(f"There is no workspace at {request.workspace}.", fix="Name it with --workspace.")
        project = read_project(request.project)
        clone(project.upstream, addresses(project.upstream, request.upstream), request.workspace.resolve(), request.say)
        workspace = open_workspace(request.workspace)
        assert workspace is not None
    with workspace.locked(request.say) as lock:
        if request.abort:
            return _abort(request, workspace)
        finish_install(request.project.resolve())
        notes = recover_first(workspace, request.say)
        workspace.refuse_unfinished()
        run = Run(request, read_project(request.project), workspace, lock, notes)
        state = read_state(workspace.private)
        if state and run.project.upstream.commit == state.course.new:
            return run.swap_in(state)
        if state is None:
            return run.begin()
        return run.resume(state)


def _refuse_nonsense(request: Request) -> None:
    if request.abort and (request.proceed or request.onto or request.accept_drift):
        raise FixTheCommand("--abort stands alone.")
    if request.proceed and request.onto:
        raise FixTheCommand("--continue goes on with the rebase that was begun; --onto starts one.")
    if request.accept_drift and not request.proceed:
        why = "Drift is accepted after it was shown, never beforehand."
        raise FixTheCommand("--accept-drift goes with --continue.", why)


@dataclass(frozen=True)
class Run:
    """One call of rebase. Every method ends with a report or an error, and leaves a state that the next can read."""

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
        return worktree_of(self.workspace.private)

    def begin(self) -> RebaseReport:
        """Find the new base, make sure that nothing would be forgotten, and start."""
        if self.request.proceed:
            raise FixTheCommand("No rebase is going on.", fix=f"Start one: {how_to_call()} rebase")
        project, repo, say = self.project, self.repo, self.request.say
        tried = addresses(project.upstream, self.request.upstream)
        if not has_pin(repo, project):
            fetch(repo, project.upstream, tried, self.lock, say)
        found = self.workspace.state()
        refuse_other_projects(self.workspace, project, found)
        if found.applied and found.branch != found.tip:
            what = f"Branch overlay in {self.workspace.folder} has commits of yours."
            raise SaveYourWork(
                what, "The rebase would leave them behind.", f"First: {how_to('export', self.workspace.folder)}"
            )
        new, shown = find_onto(repo, project, self.request.onto, tried, self.lock, say)
        if new == project.upstream.commit:
            return self._report(RebaseOutcome.NOTHING_TO_DO, None, shown=shown)
        with self.workspace.scratch() as scratch:
            (scratch / "now").mkdir()
            compare_with_lock(project, build_project(repo, project, {}, scratch / "now"))
            course = plan_course(repo, project.upstream.commit, new, project.series, scratch)
        names = tuple(patch.name for patch in project.series)
        state = RebaseState(course, names, shown, digest_of(project))
        return self._start(state)

    def resume(self, state: RebaseState) -> RebaseReport:
        """Go on with a rebase, or say again where it stands."""
        if digest_of(self.project) != state.sources:
            what = "patches/ or the pin changed since this rebase began."
            raise SaveYourWork(
                what, "What was resolved was resolved for the patches of then.", how_to_abort(self.workspace.folder)
            )
        if self.request.onto:
            what = f"A rebase onto {state.shown} is going on."
            raise FixTheCommand(what, fix=f"--continue it, or: {how_to_abort(self.workspace.folder)}")
        linked = open_worktree(self.folder)
        if state.running or linked is None:
            self.request.say("An earlier run was interrupted: replaying again, with what you resolved.")
            return self._start(state)
        replay = Replay(linked, state.course)
        if not replay.at_work:
            return self._conclude(state, replay)
        if not self.request.proceed or replay.unmerged:
            return self._stop(state, replay)
        replay.refuse_unstaged()
        state = replace(state, resolutions=(*state.resolutions, replay.resolution()), running=True)
        state.write(self.workspace.private)
        replay.proceed()
        return self._advance(state, replay)

    def _start(self, state: RebaseState) -> RebaseReport:
        state = replace(state, running=True)
        remove_worktree(self.repo, self.folder)
        state.write(self.workspace.private)
        self.request.say(f"Replaying {len(state.names)} patches onto {state.shown}")
        replay = Replay(make_worktree(self.repo, self.folder, state.course.start), state.course)
        replay.start()
        return self._advance(state, replay)

    def _advance(self, state: RebaseState, replay: Replay) -> RebaseReport:
        """From conflict to conflict, as long as each was resolved before; then to the end."""
        known = list(state.resolutions)
        while replay.at_work:
            commit = replay.stopped_at
            name = state.names[state.course.commits.index(commit)] if commit in state.course.commits else ""
            state = replace(state, stopped=tuple(dict.fromkeys((*state.stopped, name))))
            used = replay.resolve_as_before(known)
            if used is None:
                state = replace(state, running=False)
                state.write(self.workspace.private)
                return self._stop(state, replay)
            known.remove(used)
            replay.proceed()
        state = replace(state, running=False)
        state.write(self.workspace.private)
        return self._conclude(state, replay)

    def _stop(self, state: RebaseState, replay: Replay) -> RebaseReport:
        patch = self.project.series[state.course.commits.index(replay.stopped_at or "")]
        conflicts = explain_conflicts(replay.repo, patch, state.course.old, state.course.new)
        return self._report(
            RebaseOutcome.CONFLICT, state, conflicts=conflicts, next=what_to_type(replay, self.workspace.folder)
        )

    def _conclude(self, state: RebaseState, replay: Replay) -> RebaseReport:
        """All patches fit. What changed its meaning, and is everything there that the overlay needs?"""
        replay.refuse_unstaged()
        self.request.say("Comparing what the patches, overlay/ and configs/ need with the new upstream")
        with self.workspace.scratch() as scratch:
            (scratch / "clean").mkdir()
            moves = compare_moves(
                replay.repo, state.course, self.project.series, replay.result(), state.stopped, scratch / "clean"
            )
            ports = self._ports(state, replay.repo.line("rev-parse", "HEAD"))
            to_read = _digests(moves, ports)
            hard = [port for port in ports if port.kind not in _TO_READ]
            if hard:
                return self._report(
                    RebaseOutcome.UNFIT, state, moves, ports=ports, next=after_changes(self.workspace.folder)
                )
            if to_read and not (self.request.accept_drift and set(to_read) <= set(state.seen)):
                replace(state, seen=to_read).write(self.workspace.private)
                return self._report(
                    RebaseOutcome.REVIEW, state, moves, ports=ports, next=after_reading(self.workspace.folder)
                )
            return self._install(state, replay, moves, scratch)

    def _ports(self, state: RebaseState, tip: str) -> tuple[PortProblem, ...]:
        course, project = state.course, self.project
        return check_ports(self.repo, course.tip, tip, project.overlay, project.rules, course.old, course.new)

    def _install(self, state: RebaseState, replay: Replay, moves: tuple[Move, ...], scratch: Path) -> RebaseReport:
        """Write, read back, build, compare; then patches/ and the lock at once, then the workspace."""
        course, repo, say = state.course, self.repo, self.request.say
        (scratch / "written").mkdir()
        renames = renamed_to(repo, course.old, course.new)
        raw = patch_files(repo, course, moves, self.request.accept_drift, renames, scratch / "written")
        say("Writing the patches and building them again")
        renamed = {move.name: move.after.name if move.after else None for move in moves if move.before}
        made = new_project(repo, self.project, raw, renamed, {}, course.new, scratch)
        replay.require_same(made.built.patches[-1].id if made.built.patches else made.built.base)
        self._refuse_obstacles(made, scratch)
        before = {path: repo.write_blob(old) if old is not None else None for path, old in made.replaced.items()}
        state = replace(state, before=before)
        state.write(self.workspace.private)
        install(self.project.root, made.files, made.seen)
        ranges = (f"{course.start}..{course.tip}", f"{course.onto}..{replay.repo.line('rev-parse', 'HEAD')}")
        shown = repo.line("range-diff", "--no-color", "--creation-factor=999", *ranges)
        done = replace(self, project=read_project(self.request.project)).swap_in(state)
        return replace(done, moves=moves, range_diff=shown)

    def _refuse_obstacles(self, made: NewProject, scratch: Path) -> None:
        """Raise SaveYourWork before anything is installed, when the swap that follows would have to refuse."""
        found = self.workspace.state()
        if found.applied:
            (scratch / "plan").mkdir()
            make_plan(self.workspace, made.project, self.request, found, self.repo, scratch / "plan")

    def swap_in(self, state: RebaseState) -> RebaseReport:
        """patches/ and the lock are new: bring the workspace up to date and forget the rebase."""
        found = self.workspace.state()
        restore: tuple[str, ...] = ()
        if found.applied:
            with self.workspace.scratch() as scratch:
                plan = make_plan(self.workspace, self.project, self.request, found, self.repo, scratch)
                if not plan.changes_nothing(found):
                    restore = carry_out(plan, self.workspace, self.project, found, scratch, self.request, self.lock)
        remove_worktree(self.repo, self.folder)
        remove_state(self.workspace.private)
        kept = tuple(f"what --force replaced: {command}" for command in restore)
        next_steps = (f"{how_to_call()} lint", "# then look at the difference, run the tests, and commit")
        notes = kept if found.applied else (*kept, "the workspace is not applied, so it was left as it is")
        tree = self.project.upstream.result
        return self._report(RebaseOutcome.DONE, state, tree=tree, notes=notes, next=next_steps)

    def _report(
        self,
        outcome: RebaseOutcome,
        state: RebaseState | None,
        moves: tuple[Move, ...] = (),
        conflicts: tuple[Conflict, ...] = (),
        ports: tuple[PortProblem, ...] = (),
        tree: str = "",
        notes: tuple[str, ...] = (),
        next: tuple[str, ...] = (),
        shown: str = "",
    ) -> RebaseReport:
        return RebaseReport(
            "rebase",
            outcome,
            str(self.workspace.folder),
            shown=state.shown if state else shown,
            old=state.course.old if state else "",
            new=state.course.new if state else "",
            moves=moves,
            conflicts=conflicts,
            ports=ports,
            tree=tree,
            worktree="" if outcome is RebaseOutcome.DONE or not state else str(self.folder),
            next=next,
            notes=(*self.notes, *notes),
        )


def _abort(request: Request, workspace: Workspace) -> RebaseReport:
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
        blobs = workspace.repo.read_blobs(blob for blob in state.before.values() if blob)
        install(root, {path: blobs[blob] if blob else None for path, blob in state.before.items()}, {})
        notes = (f"the workspace may have been brought up to date already: {how_to_call()} apply",)
    remove_worktree(workspace.repo, worktree_of(private))
    remove_state(private)
    return RebaseReport("rebase", RebaseOutcome.ABORTED, str(workspace.folder), notes=notes)


def _digests(moves: tuple[Move, ...], ports: tuple[PortProblem, ...]) -> tuple[str, ...]:
    """What has to be read before the rebase may end."""
    drift = [f"{item.patch} {item.path} {item.symbol} {item.digest}" for move in moves for item in move.drift]
    return tuple(drift + [f"{port.where} {port.what}" for port in ports if port.kind in _TO_READ])
