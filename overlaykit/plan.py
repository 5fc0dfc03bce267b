"""What apply would do: settings, commits, and how the worktree gets there. Changes nothing but object storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from shlex import quote
from typing import Callable

from .build import Built, build
from .errors import FixTheCommand, RefreshTheLock, SaveYourWork
from .gitrepo import Repo
from .handedits import HandEdit, carry_over, find_hand_edits
from .project import Project
from .report import how_to_call
from .sources import refuse_names
from .survey import Index, Survey, changes_between, read_index, survey
from .swap import Rewrite
from .workspace import BRANCH, State, Workspace


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    project: Path
    workspace: Path
    upstream: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    force: bool = False
    against: str | None = None  # check: a commit, branch or tag of upstream
    onto: str | None = None  # rebase: likewise
    proceed: bool = False  # rebase --continue
    skip: bool = False
    abort: bool = False
    accept_drift: bool = False
    dry_run: bool = False  # export --check
    fix: bool = False  # lint: write what is generated
    say: Callable[[str], None] = _silent


@dataclass(frozen=True)
class Plan:
    built: Built
    survey: Survey
    index: Index
    target: str  # the commit to swap to: what was built, or branch `overlay` where it only adds the user's commits
    writes: Mapping[str, Rewrite]  # YAML files that keep the user's other edits
    notes: tuple[str, ...]

    def changes_nothing(self, state: State) -> bool:
        return state.applied and state.head.commit == self.target and not self.writes


def make_plan(
    workspace: Workspace, project: Project, request: Request, state: State, objects: Repo, scratch: Path
) -> Plan:
    """Plan an apply on `workspace`; new objects go to `objects`, which must also read the workspace's.

    Raises SaveYourWork for what --force would have to replace, RefreshTheLock, and whatever `build` raises.
    """
    repo = workspace.repo
    assert state.head.commit is not None
    committed, index = repo.tree(state.head.commit), read_index(repo)
    workspace.refuse_second_worktree(state)
    if index.unmerged:
        raise SaveYourWork(f"{workspace.folder} has unmerged files.", fix="Resolve them first; see git status.")
    edits = find_hand_edits(repo, project.rules, committed)
    settings, notes = _settle(project, request, state, edits)
    built = build_project(objects, project, settings, scratch)
    compare_with_lock(project, built)
    tip, branch = built.config.id, state.branch
    target = branch if branch and tip == state.tip and is_ancestor(repo, tip, branch) else tip
    new = objects.tree(target)
    mine: dict[str, bytes] = {}
    values = project.rules.resolve(settings)
    for edit in edits:
        blob = objects.read_blobs([new[edit.path].id])[new[edit.path].id]
        wanted = carry_over(repo, edit, project.rules, values, blob, scratch)
        if wanted is not None:
            mine[edit.path] = wanted
    found = survey(repo, changes_between(committed, new), index, frozenset(mine))
    if not request.force:
        _refuse_losing(workspace, state, target, found, objects)
    replaced = {obstacle.path for obstacle in found.obstacles}
    writes = {
        edit.path: Rewrite(edit.mine, mine[edit.path])
        for edit in edits
        if edit.path not in replaced and mine.get(edit.path, edit.mine) != edit.mine
    }
    return Plan(built, found, index, target, writes, notes)


def build_project(repo: Repo, project: Project, settings: Mapping[str, str], scratch: Path) -> Built:
    parts = (project.upstream.commit, project.series, project.overlay, project.rules)
    built = build(repo, *parts, settings, scratch)
    refuse_names(repo, built.config.id)
    return built


def compare_with_lock(project: Project, built: Built) -> None:
    expected = project.upstream.result
    if built.overlay.tree != expected:
        raise RefreshTheLock(
            f"The built tree is {built.overlay.tree}, the lock says {expected or 'nothing yet'}.",
            "patches/ or overlay/ changed, or line ends were converted when this project was copied.",
            f"If the change is meant: {how_to_call()} lock, and commit {project.lock_file.name}. Nothing was applied.",
        )


def own_commits(repo: Repo, state: State, target: str) -> bool:
    """True when moving branch `overlay` to `target` would drop commits that no apply made."""
    if state.branch in (None, state.tip, target):
        return False
    return not (state.tip and is_ancestor(repo, state.branch or "", state.tip))


def is_ancestor(repo: Repo, old: str, new: str) -> bool:
    return old == new or not repo.status_of("merge-base", "--is-ancestor", old, new).status


def _settle(
    project: Project, request: Request, state: State, edits: tuple[HandEdit, ...]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Settings of the last apply, then values edited by hand, then --set; the later wins."""
    settings = {name: value for name, value in state.settings.items() if name in project.rules.names}
    notes = [f"forgot the setting {name}: no rule has it any more" for name in state.settings if name not in settings]
    for edit in edits:
        notes += [f"left {name} as you wrote it in {edit.path}: it cannot be a setting" for name in edit.left]
        for name, value in edit.values.items():
            settings[name] = value
            asked = request.settings.get(name, value)
            if asked == value:
                notes.append(f"adopted {name} = {value}, edited by hand in {edit.path}")
            else:
                notes.append(f"--set {name}={asked} replaced {value}, edited by hand in {edit.path}")
    return {**settings, **request.settings}, tuple(notes)


def refuse_obstacles(workspace: Workspace, found: Survey) -> None:
    if found.obstacles:
        listed = "\n".join(f"  {obstacle.path} ({obstacle.reason.value})" for obstacle in found.obstacles)
        raise SaveYourWork(
            f"Work of yours in {workspace.folder} is in the way; nothing was changed.",
            f"These would be overwritten:\n{listed}",
            "Move or commit them, or use --force, which saves them under refs/overlay/backup/ first.",
        )


def _refuse_losing(workspace: Workspace, state: State, target: str, found: Survey, objects: Repo) -> None:
    refuse_obstacles(workspace, found)
    trees = objects.resolve(f"{state.branch}^{{tree}}", f"{target}^{{tree}}")
    # Where the files are the same, the project has those commits: an export was killed before it moved the branch.
    if own_commits(workspace.repo, state, target) and trees[0] != trees[1]:
        made = "has commits of yours" if state.tip else "exists, and apply.py did not make it"
        raise SaveYourWork(
            f"Branch overlay in {workspace.folder} {made}; nothing was changed.",
            "The patches, the overlay or the settings changed, so the branch has to be built anew.",
            f"Keep them: {how_to_keep(workspace, BRANCH)}\n"
            "then use --force, which also saves them under refs/overlay/backup/.",
        )


def how_to_keep(workspace: Workspace, commit: str) -> str:
    """The command that gives `commit` a branch of its own, under a name that is free."""
    taken = workspace.repo.line("for-each-ref", "--format=%(refname)", "refs/heads/").split("\n")
    names = ("my-work" if number == 1 else f"my-work-{number}" for number in count(1))
    name = next(name for name in names if f"refs/heads/{name}" not in taken)
    return f"git -C {quote(str(workspace.folder))} branch {name} {commit}"


def is_current(workspace: Workspace, project: Project, request: Request, state: State) -> bool:
    """True when an apply with these inputs has been done, and no owned value was edited since."""
    head = state.head
    if not state.applied or head.commit is None:
        return False
    if workspace.fingerprint() != f"{project.fingerprint} {state.tip}" or state.tree != project.upstream.result:
        return False
    if any(state.settings.get(name) != value for name, value in request.settings.items()):
        return False
    repo = workspace.repo
    if not is_ancestor(repo, state.tip or "", head.commit):
        return False
    return not any(edit.values for edit in find_hand_edits(repo, project.rules, repo.tree(head.commit)))


def refuse_other_projects(workspace: Workspace, project: Project, state: State) -> None:
    """Never swap the worktree of a repository that is no clone of upstream."""
    repo, head = workspace.repo, state.head.commit
    shallow = (repo.git_dir / "shallow").exists()
    if head and (state.tip or shallow or not repo.status_of("merge-base", head, project.upstream.commit).status):
        return
    fetched = repo.line("for-each-ref", "--format=%(refname)", "refs/overlay/upstream/").split()
    repo.update_refs(dict.fromkeys(fetched))
    what = "shares no history with upstream" if head else "has no commits"
    fix = "Choose another --workspace; apply.py makes it."
    raise FixTheCommand(f"{workspace.folder} is a git repository that {what}.", "It is another project's.", fix)


def has_pin(repo: Repo, project: Project) -> bool:
    return repo.has_whole(project.upstream.commit)
