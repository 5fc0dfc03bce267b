"""What apply.py can do: apply, check, status, revert, lock. Each returns a Report and raises OverlayError."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

from .backup import how_to_restore, save
from .build import Commit
from .carry import carry_out, exchange, recover_first, refs_of
from .errors import FixTheCommand
from .gitrepo import Repo, decode
from .gitrun import quoted
from .journal import Head, Journal
from .partial import fetch_missing
from .plan import (
    Plan,
    Request,
    build_project,
    compare_with_lock,
    has_pin,
    is_current,
    make_plan,
    refuse_obstacles,
    refuse_other_projects,
)
from .project import Project, read_project, write_result
from .report import Answer, Outcome, Report
from .sources import CLONING, addresses, clone, clone_into, fetch, is_locked
from .survey import changes_between, read_index, survey
from .tempfolder import temporary_folder
from .workspace import BASE, BRANCH, PREVIOUS, Workspace, open_workspace

_STATUS = ("status", "--porcelain", "-z", "--untracked-files=no", "--no-renames", "--ignore-submodules=dirty")


def apply(request: Request) -> Report:
    """Clone if there is no workspace yet; build; swap the worktree once; say where to look."""
    project = read_project(request.project)
    tried = addresses(project.upstream, request.upstream)
    project.rules.resolve(request.settings)  # a mistyped --set fails before a long clone
    workspace = open_workspace(request.workspace)
    if workspace is None:
        clone(project.upstream, tried, request.workspace.resolve(), request.say)
        workspace = open_workspace(request.workspace)
        assert workspace is not None
    with workspace.locked(request.say) as lock:
        notes = recover_first(workspace, request.say)
        workspace.refuse_unfinished()
        if not has_pin(workspace.repo, project):
            fetch(workspace.repo, project.upstream, tried, lock, request.say)
        state = workspace.state()
        refuse_other_projects(workspace, project, state)
        if is_current(workspace, project, request, state):
            return _report("apply", Outcome.NOTHING_TO_DO, workspace, project, notes)
        fetch_missing(workspace.repo, project.upstream, tried, lock, request.say)
        with workspace.scratch() as scratch:
            plan = make_plan(workspace, project, request, state, workspace.repo, scratch)
            if plan.changes_nothing(state):  # the project's files changed, but not what they make
                workspace.repo.update_refs(refs_of(plan.built))
                workspace.note_fingerprint(project.fingerprint, plan.built.config.id)
                return _report("apply", Outcome.NOTHING_TO_DO, workspace, project, notes + plan.notes)
            restore = carry_out(plan, workspace, project, state, scratch, request, lock)
        return _report("apply", Outcome.APPLIED, workspace, project, notes + plan.notes, restore=restore)


def check(request: Request) -> Answer:
    """Say what apply would do. Objects go to a temporary folder, so the workspace stays as it is."""
    if request.against:
        from .rebasing.against import check_against  # half of the package, which no other verb here needs

        return check_against(request)
    project = read_project(request.project)
    tried = addresses(project.upstream, request.upstream)
    project.rules.resolve(request.settings)
    workspace = open_workspace(request.workspace)
    if workspace:
        workspace.refuse_at_work()
    with temporary_folder() as scratch:
        if workspace is None or not has_pin(workspace.repo, project):
            built = build_project(
                _passing_clone(project, tried, scratch, request.say), project, request.settings, scratch
            )
            compare_with_lock(project, built)
            outcome = Outcome.WOULD_FETCH if workspace else Outcome.WOULD_CLONE
            where = str(request.workspace.resolve())
            return Report(
                "check",
                outcome,
                where,
                base=built.base,
                commits=built.commits,
                tree=built.overlay.tree,
                expected=project.upstream.result,
            )
        workspace.refuse_unfinished()
        state = workspace.state()
        refuse_other_projects(workspace, project, state)
        if is_current(workspace, project, request, state):
            return _report("check", Outcome.NOTHING_TO_DO, workspace, project)
        objects = _quarantine(workspace.repo, project, request, scratch)
        plan = make_plan(workspace, project, request, state, objects, scratch)
        if plan.changes_nothing(state):
            return _report("check", Outcome.NOTHING_TO_DO, workspace, project, plan.notes)
        return _report("check", Outcome.WOULD_CHANGE, workspace, project, plan.notes, changes=_describe(plan))


def status(request: Request) -> Report:
    """What the workspace holds now, compared with the project. Touches nothing."""
    project = read_project(request.project)
    workspace = open_workspace(request.workspace)
    if workspace is None:
        folder = request.workspace.resolve()
        outcome = Outcome.AT_WORK if is_locked(folder / CLONING / "lock") else Outcome.ABSENT
        return Report("status", outcome, str(folder), expected=project.upstream.result)
    if is_locked(workspace.lock_file):
        return _report("status", Outcome.AT_WORK, workspace, project)
    state = workspace.state()
    if workspace.interrupted:
        outcome = Outcome.INTERRUPTED
    elif not state.applied:
        outcome = Outcome.NOT_APPLIED
    else:
        outcome = Outcome.CURRENT if is_current(workspace, project, request, state) else Outcome.OUTDATED
    rebasing = ("a rebase of the patches is going on: rebase --continue or --abort",)
    notes = rebasing if (workspace.private / "rebase.json").exists() else ()
    return _report("status", outcome, workspace, project, notes, restore=how_to_restore(workspace.repo))


def revert(request: Request) -> Report:
    """Return to the branch that was checked out before apply. Branch `overlay`, and with it the settings, stays."""
    project = read_project(request.project)
    workspace = open_workspace(request.workspace)
    if workspace is None:
        raise FixTheCommand(f"There is no workspace at {request.workspace}.", fix="Name it with --workspace.")
    with workspace.locked(request.say) as lock:
        notes = recover_first(workspace, request.say)
        workspace.refuse_unfinished()
        head = workspace.state().head
        if head.branch != BRANCH or head.commit is None:
            return _report("revert", Outcome.NOTHING_TO_DO, workspace, project, notes)
        repo = workspace.repo
        target = _previous(repo, project)
        elsewhere = workspace.elsewhere(target.branch, head.branch) if target.branch else ()
        if elsewhere:
            notes += (f"{target.branch} is checked out in {elsewhere[0]}, so HEAD is detached at its commit",)
            target = Head(target.commit, None)
        old, new, index = repo.tree(head.commit), repo.tree(target.commit or ""), read_index(repo)
        found = survey(repo, changes_between(old, new), index, frozenset())
        if not request.force:
            refuse_obstacles(workspace, found)
        saved = None
        if found.obstacles:
            with workspace.scratch() as scratch:
                saved = save(repo, (head.commit,), found, index, scratch)
        kept = tuple(change.path for change in found.kept)
        refs = saved.refs if saved else ()
        restore = how_to_restore(repo, refs)
        journal = Journal(head.commit, target.commit or "", target.branch, {}, None, kept, refs, "reverted")
        exchange(workspace, journal, found, index, {}, saved, restore, request.say, lock)
        return _report("revert", Outcome.REVERTED, workspace, project, notes, restore=restore)


def lock(request: Request) -> Report:
    """Build, and write the tree to configs/upstream.yaml. The worktree of the workspace is not touched."""
    project = read_project(request.project)
    workspace = open_workspace(request.workspace)
    with temporary_folder() as scratch:
        if workspace and has_pin(workspace.repo, project):
            repo = _quarantine(workspace.repo, project, request, scratch)
        else:
            repo = _passing_clone(project, addresses(project.upstream, request.upstream), scratch, request.say)
        built = build_project(repo, project, {}, scratch)
    tree = built.overlay.tree
    changed = tree != project.upstream.result
    if changed:
        write_result(project.lock_file, tree)
    outcome = Outcome.LOCKED if changed else Outcome.NOTHING_TO_DO
    where = str(request.workspace.resolve())
    return Report("lock", outcome, where, base=built.base, commits=built.commits[:-1], tree=tree, expected=tree)


def _passing_clone(project: Project, tried: tuple[str, ...], scratch: Path, say: Callable[[str], None]) -> Repo:
    with (scratch / "clone-lock").open("wb") as lock:
        return clone_into(project.upstream, tried, scratch / "clone", lock, say)


def _quarantine(repo: Repo, project: Project, request: Request, scratch: Path) -> Repo:
    """The same repository, but new objects go to `scratch`; what a partial clone lacks too."""
    objects = scratch / "objects"
    objects.mkdir()
    shared = repo.line("rev-parse", "--path-format=absolute", "--git-path", "objects")
    apart = repo.having(GIT_OBJECT_DIRECTORY=str(objects), GIT_ALTERNATE_OBJECT_DIRECTORIES=decode(quoted(shared)))
    with (scratch / "fetch-lock").open("wb") as lock:
        fetch_missing(apart, project.upstream, addresses(project.upstream, request.upstream), lock, request.say)
    return apart


def _previous(repo: Repo, project: Project) -> Head:
    """What to return to: the branch or commit of before, or the pin when the user deleted that branch."""
    branch = repo.status_of("symbolic-ref", "-q", PREVIOUS).output.decode().strip() or None
    commit, base, pin = repo.resolve(*(f"{name}^{{commit}}" for name in (PREVIOUS, BASE, project.upstream.commit)))
    return Head(commit, branch) if commit else Head(base or pin, None)


def _describe(plan: Plan) -> tuple[str, ...]:
    words = {(True, False): "delete", (False, True): "add", (True, True): "change"}
    rows = [f"{words[bool(c.old), bool(c.new)]} {c.path}" for c in plan.survey.changes]
    replaced = [f"save and replace {obstacle.path}" for obstacle in plan.survey.obstacles]
    return (*replaced, *rows)


def _report(
    verb: str,
    outcome: Outcome,
    workspace: Workspace,
    project: Project,
    notes: tuple[str, ...] = (),
    changes: tuple[str, ...] = (),
    restore: tuple[str, ...] = (),
) -> Report:
    """The facts as they are in the workspace now."""
    repo, state = workspace.repo, workspace.state()
    commits: list[Commit] = []
    if state.applied and state.base:
        listing = repo.line("log", "--reverse", "--format=%H %T %s", f"{state.base}..{state.tip}")
        commits = [Commit(*row.split(" ", 2)) for row in listing.split("\n") if row]
    edits = repo.git(*_STATUS).split(b"\0")[:-1]
    if edits:  # perhaps only line ends, which the user's own git converts
        edits = repo.git(*repo.line_ends_of_the_user(), *_STATUS).split(b"\0")[:-1]
    return Report(
        verb,
        outcome,
        str(workspace.folder),
        branch=(state.head.branch or "a detached HEAD").replace("refs/heads/", "", 1),
        tip=state.head.commit or "",
        base=state.base or "" if state.applied else "",
        commits=tuple(commits),
        tree=state.tree or "" if state.applied else "",
        expected=project.upstream.result,
        settings=state.settings if state.applied else {},
        changes=changes,
        local_edits=tuple(row.decode("utf-8", "surrogateescape") for row in edits),
        notes=notes,
        restore=restore,
    )
