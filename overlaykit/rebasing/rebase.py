"""apply.py rebase: the patches onto a newer upstream. The story up to the last patch; the rest is in finish.

Between calls a rebase is .git/overlay/rebase.json and a linked worktree (see state). A call that was killed while
git was at work starts the replay anew and stages again what the user had resolved, so no half-done step is trusted.
"""

from __future__ import annotations

from dataclasses import replace

from ..carry import recover_first
from ..errors import FixTheCommand, SaveYourWork
from ..explaining.conflict import explain_conflicts
from ..install import finish_install
from ..partial import fetch_to_replay
from ..plan import Request, build_project, compare_with_lock, has_pin, refuse_other_projects
from ..project import read_project
from ..sources import addresses, clone, fetch
from ..workspace import Workspace, open_workspace
from .advice import about_line_ends, how_to, how_to_abort, what_to_type
from .finish import conclude, give_up, swap_in
from .job import Job
from .onto import find_onto, refuse_patched
from .replay import Replay, make_worktree, open_worktree, plan_course, remove_worktree
from .report import RebaseOutcome, RebaseReport
from .state import RebaseState, digest_of, read_state
from .strange import refuse_strange, refuse_unstaged, was_given_up


def rebase(request: Request) -> RebaseReport:
    """Start, go on or give up. Raises OverlayError; the report's code is 1 where something is left to do."""
    _refuse_nonsense(request)
    workspace = open_workspace(request.workspace) or _clone(request)
    with workspace.locked(request.say) as lock:
        if request.abort:
            return give_up(request, workspace)
        finish_install(request.project.resolve())
        notes = recover_first(workspace, request.say)
        workspace.refuse_unfinished()
        job = Job(request, read_project(request.project), workspace, lock, notes)
        state = read_state(workspace.private)
        if state is None:
            return _begin(job)
        if state.before and job.project.upstream.commit == state.course.new:
            return swap_in(job, state)
        return _resume(job, state)


def _refuse_nonsense(request: Request) -> None:
    if request.abort and (request.proceed or request.skip or request.onto or request.accept_drift):
        raise FixTheCommand("--abort stands alone.")
    if request.proceed and request.skip:
        raise FixTheCommand("--continue takes what was resolved, --skip gives the patch up.", fix="Choose one.")
    if (request.proceed or request.skip) and request.onto:
        raise FixTheCommand("--onto starts a rebase; --continue and --skip go on with one.")
    if request.accept_drift and not request.proceed:
        why = "Drift is accepted after it was shown, never beforehand."
        raise FixTheCommand("--accept-drift goes with --continue.", why)


def _clone(request: Request) -> Workspace:
    if request.proceed or request.skip or request.abort:
        raise FixTheCommand(f"There is no workspace at {request.workspace}.", fix="Name it with --workspace.")
    upstream = read_project(request.project).upstream
    clone(upstream, addresses(upstream, request.upstream), request.workspace.resolve(), request.say)
    workspace = open_workspace(request.workspace)
    assert workspace is not None
    return workspace


def _begin(job: Job) -> RebaseReport:
    """Find the new base, make sure that nothing would be forgotten, and start."""
    request, project, repo, folder = job.request, job.project, job.repo, job.workspace.folder
    if request.proceed or request.skip:
        raise FixTheCommand("No rebase is going on.", fix=f"Start one: {how_to('rebase', folder)}")
    tried = addresses(project.upstream, request.upstream)
    if not has_pin(repo, project):
        fetch(repo, project.upstream, tried, job.lock, request.say)
    found = job.workspace.state()
    refuse_other_projects(job.workspace, project, found)
    if found.applied and found.branch != found.tip:
        what = f"Branch overlay in {folder} has commits of yours."
        raise SaveYourWork(what, "The rebase would leave them behind.", f"First: {how_to('export', folder)}")
    new, shown = find_onto(repo, project, request.onto, tried, job.lock, request.say)
    if new == project.upstream.commit:
        outcome = RebaseOutcome.NOTHING_TO_DO
        return RebaseReport("rebase", outcome, str(folder), shown=shown, notes=job.notes)
    fetch_to_replay(repo, repo, project, new, tried, job.lock, request.say)
    with job.workspace.scratch() as scratch:
        (scratch / "now").mkdir()
        built = build_project(repo, project, {}, scratch / "now")
        compare_with_lock(project, built)
        refuse_patched(repo, built, new, shown)
        course = plan_course(repo, project.upstream.commit, new, project.series, scratch)
    names = tuple(patch.name for patch in project.series)
    return _start(job, RebaseState(course, names, shown, digest_of(project)))


def _resume(job: Job, state: RebaseState) -> RebaseReport:
    """Go on with a rebase, or say again where it stands."""
    folder = job.workspace.folder
    if digest_of(job.project) != state.sources:
        what = "patches/ or the pin changed since this rebase began."
        raise SaveYourWork(what, "What was resolved was resolved for the patches of then.", how_to_abort(folder))
    if job.request.onto:
        what = f"A rebase onto {state.shown} is going on."
        raise FixTheCommand(what, fix=f"Go on: {how_to('rebase --continue', folder)}\nor: {how_to_abort(folder)}")
    linked = open_worktree(job.folder)
    if linked is None and job.folder.exists():  # the workspace was moved, and git's record with it
        job.repo.status_of("worktree", "repair", str(job.folder))
        linked = open_worktree(job.folder)
    if state.running or linked is None:
        job.request.say("An earlier run was interrupted: replaying again, with what you resolved.")
        return _start(job, state)
    replay = Replay(linked, state.course)
    if was_given_up(replay):
        job.request.say("The replay was given up in its worktree: replaying again, with what you resolved.")
        return _start(job, state)
    refuse_strange(replay)
    if not replay.at_work:
        if job.request.skip:
            raise FixTheCommand("No patch waits for a decision.", fix=f"See: {how_to('rebase', folder)}")
        return conclude(job, state, replay)
    if not job.request.skip:
        if not job.request.proceed or replay.unmerged:
            return _stop(job, state, replay)
        refuse_unstaged(replay)
    resolution = replay.given_up() if job.request.skip else replay.resolution()
    state = job.write(state, resolutions=(*state.resolutions, resolution), running=True)
    replay.take(resolution)
    return _advance(job, state, replay)


def _start(job: Job, state: RebaseState) -> RebaseReport:
    state = replace(state, running=True)
    remove_worktree(job.repo, job.folder)
    state.write(job.workspace.private)
    job.request.say(f"Replaying {len(state.names)} patches onto {state.shown}")
    replay = Replay(make_worktree(job.repo, job.folder, state.course.start), state.course)
    replay.start()
    return _advance(job, state, replay)


def _advance(job: Job, state: RebaseState, replay: Replay) -> RebaseReport:
    """From conflict to conflict, as long as each was resolved before; then to the end."""
    known = list(state.resolutions)
    while replay.at_work:
        state = replace(state, stopped=tuple(dict.fromkeys((*state.stopped, state.names[replay.patch]))))
        resolution = replay.resolved_before(known)
        if resolution is None:
            return _stop(job, job.write(state, running=False), replay)
        known.remove(resolution)
        replay.take(resolution)
    return conclude(job, job.write(state, running=False), replay)


def _stop(job: Job, state: RebaseState, replay: Replay) -> RebaseReport:
    patch = job.project.series[replay.patch]
    conflicts = explain_conflicts(replay.repo, patch, state.course.old, state.course.new)
    typed = what_to_type(replay, job.workspace.folder)
    notes = about_line_ends(conflicts)
    return job.report(RebaseOutcome.CONFLICT, state, conflicts=conflicts, next=typed, notes=notes)
