"""apply.py export: the commits that the user made in the workspace become patches and files of overlay/.

Nothing is written before the new project was built from its new files and gave the same tree. Then its files are
replaced together, and the workspace's branch moves to the new build, whose files are the ones that are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import IO

from ..build import Built
from ..carry import recover_first
from ..errors import FixTheCommand, OverlayError, SaveYourWork
from ..gitrepo import Repo
from ..install import finish_install, install
from ..journal import write_file
from ..plan import Request, build_project, compare_with_lock, how_to_keep, is_ancestor
from ..project import Project, read_project
from ..report import how_to_call
from ..sterile import sterile
from ..survey import read_index
from ..tempfolder import temporary_folder
from ..workspace import State, Workspace, open_workspace
from .fold import fold, read_mark, steps_of
from .newproject import (
    Became,
    NewProject,
    OverlayChange,
    Written,
    changed_overlay,
    new_project,
    tree_of,
    write_patches,
)
from .onward import move_on
from .report import ExportOutcome, ExportReport, PatchNews
from .sides import Sides, Work, read_work, refuse_mixed

_TRAILERS = ("Hooks", "Upstream", "Drop-When", "Tested-By")


@dataclass(frozen=True)
class _Run:
    """What one export looks at."""

    request: Request
    project: Project
    workspace: Workspace
    state: State
    tip: str
    head: str
    clean: Repo  # sterile, beside the workspace
    scratch: Path


@dataclass(frozen=True)
class _Export:
    """What it would write."""

    works: tuple[Work, ...]
    patches: tuple[Written, ...]
    overlay: Mapping[str, OverlayChange]
    new: NewProject


def export(request: Request) -> ExportReport:
    """Write the user's commits to patches/ and overlay/; with `dry_run` only say what would be written.

    Raises RebaseThePatch for commits that cannot be written or folded, SaveYourWork where the workspace is not what
    this project made; then nothing has changed.
    """
    root = request.project.resolve()
    if not request.dry_run:
        finish_install(root)
    project = read_project(root)
    workspace = open_workspace(request.workspace)
    if workspace is None:
        fix = f"Name it with --workspace, or make it: {how_to_call()} apply"
        raise FixTheCommand(f"There is no workspace at {request.workspace}.", fix=fix)
    if request.dry_run:
        workspace.refuse_at_work()
        with temporary_folder() as folder:
            return _export(_begin(request, project, workspace, folder), (), None)
    with workspace.locked(request.say) as lock:
        notes = recover_first(workspace, request.say)
        with workspace.scratch() as scratch:
            return _export(_begin(request, project, workspace, scratch), notes, lock)


def _begin(request: Request, project: Project, workspace: Workspace, scratch: Path) -> _Run:
    """Raises SaveYourWork or FixTheCommand where the user's commits cannot be told from the others."""
    workspace.refuse_unfinished()
    state = workspace.state()
    workspace.refuse_second_worktree(state)
    git = f"git -C {quote(str(workspace.folder))}"
    if (workspace.private / "rebase.json").exists():
        fix = f"{how_to_call()} rebase --continue   or   {how_to_call()} rebase --abort"
        raise SaveYourWork("A rebase of the patches is going on.", "It ends with an export of its own.", fix)
    if not state.applied or not state.tip or not state.branch:
        what = f"{workspace.folder} is not on branch overlay with the patches applied."
        fix = f"{how_to_call()} apply makes that branch; your commits go on top of it."
        raise FixTheCommand(what, "Only what is on top of the applied patches can be exported.", fix)
    if read_index(workspace.repo).unmerged:
        raise SaveYourWork(f"{workspace.folder} has unmerged files.", fix="Resolve them first; see git status.")
    if not is_ancestor(workspace.repo, state.tip, state.branch):
        what = f"Branch overlay in {workspace.folder} does not contain the last apply: it was reset or rebased."
        fix = f"Put your commits back on top of it: {git} rebase --onto {state.tip[:12]} LAST_THAT_IS_NOT_YOURS overlay"
        raise SaveYourWork(what, f"Which commits are yours cannot be told from {state.tip[:12]}..overlay.", fix)
    (scratch / "sterile").mkdir()
    clean = sterile(workspace.repo, scratch / "sterile")
    return _Run(request, project, workspace, state, state.tip, state.branch, clean, scratch)


def _export(run: _Run, notes: tuple[str, ...], lock: IO[bytes] | None) -> ExportReport:
    where, mark = str(run.workspace.folder), run.workspace.private / "exported"
    (run.scratch / "before").mkdir()
    built = build_project(run.clean, run.project, {}, run.scratch / "before")
    compare_with_lock(run.project, built)
    done = _exported_before(mark, built)
    if done == run.head:
        if lock is None:
            return ExportReport(ExportOutcome.WOULD_FINISH, where, notes=notes)
        notes += _move_on(run, run.project, lock, mark)
        return ExportReport(ExportOutcome.FINISHED, where, tree=built.overlay.tree, notes=notes)
    if run.state.tree != built.overlay.tree:
        raise _outdated(run, done or run.tip)
    if lock is not None:
        mark.unlink(missing_ok=True)  # of a run that was killed at its very end
    found = _find(run, built)
    notes += _notes(run, found)
    if found is None or not found.new.files:
        return ExportReport(ExportOutcome.NOTHING, where, tree=built.overlay.tree, notes=notes)
    if lock is None:
        return _report(ExportOutcome.WOULD_EXPORT, where, found, notes)
    write_file(mark, _mark(run, found.new.built), sync=True)
    install(run.project.root, found.new.files, found.new.seen)
    notes += _move_on(run, found.new.project, lock, mark)
    return _report(ExportOutcome.EXPORTED, where, found, notes)


def _move_on(run: _Run, project: Project, lock: IO[bytes], mark: Path) -> tuple[str, ...]:
    try:
        notes = move_on(run.workspace, run.state, project, run.scratch, run.request.say, lock)
    except OverlayError as error:
        error.what = f"The project's files are exported, but the workspace did not follow: {error.what}"
        error.fix = f"{error.fix}\nThen run export again: it does the rest.".lstrip()
        raise
    mark.unlink()
    return notes


def _mark(run: _Run, built: Built) -> bytes:
    """Which commits were exported, and what the project became by it."""
    return f"{run.head} {built.overlay.id}\n".encode()


def _exported_before(mark: Path, built: Built) -> str | None:
    """The last commit of an export that replaced the project's files and was killed before the branch had moved."""
    try:
        head, _, became = mark.read_text(encoding="ascii").strip().partition(" ")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return head if became == built.overlay.id else None


def _find(run: _Run, built: Built) -> _Export | None:
    """Everything that is to be written, proven by a build; None where the user made no commits."""
    if run.head == run.tip:
        return None
    clean, scratch, project = run.clean, run.scratch, run.project
    base = clean.tree(built.base)
    patched = {change.path for patch in project.series for change in patch.files}
    upstream = frozenset((base.keys() | patched) - project.overlay.keys())
    sides = Sides(clean, clean.tree(run.tip), clean.tree(built.overlay.id), upstream, project.rules, scratch)
    works = read_work(sides, run.tip, run.head)
    refuse_mixed(works, run.workspace.folder, run.head)
    steps = fold(clean, base, steps_of(base, project.series), works, run.workspace.folder, scratch)
    patches = write_patches(clean, built.base, steps, scratch)
    _, before = sides.split(sides.result, run.tip)
    overlay = changed_overlay(clean, project, before, works[-1].overlay)
    raw = {written.new.name: written.new.raw for written in patches if written.new}
    renamed = {written.old.name: written.new.name if written.new else None for written in patches if written.old}
    new = new_project(clean, project, raw, renamed, overlay, project.upstream.commit, scratch)
    if tree_of(clean, {**works[-1].files, **works[-1].overlay}, scratch) != new.built.overlay.tree:
        what = "The new patches and overlay/ do not give the files that the workspace holds; nothing was written."
        raise OverlayError(what, f"Built: {new.built.overlay.tree}.", "Please report the commits that you exported.")
    return _Export(works, patches, overlay, new)


def _outdated(run: _Run, since: str) -> SaveYourWork:
    folder, apply = quote(str(run.workspace.folder)), f"{how_to_call()} apply --workspace"
    fix = f"{apply} {folder}"
    if run.head != run.tip:
        keep = how_to_keep(run.workspace, "overlay")
        mine = keep.split()[-2]
        fix = f"{keep}\n{apply} {folder} --force\ngit -C {folder} cherry-pick {since[:12]}..{mine}"
    return SaveYourWork(
        f"{run.workspace.folder} was made by another state of this project; nothing was written.",
        "Exported from there, your commits would undo what has changed in patches/ or overlay/ since.",
        f"Bring it up to date first:\n{fix}",
    )


def _notes(run: _Run, found: _Export | None) -> tuple[str, ...]:
    """What is not exported, and what lint will ask for."""
    notes = []
    for work in found.works if found else ():
        if not work.touched and not work.added and read_mark(work.subject)[0] is None:
            notes.append(f"not exported: {work} changes nothing but values of this machine (configs/paths.yaml)")
    edits = _uncommitted(run.workspace.repo)
    if edits:
        more = f" and {len(edits) - 5} more" if len(edits) > 5 else ""
        notes.append(f"not exported, for they are not committed: {', '.join(edits[:5])}{more}")
    for patch in found.patches if found else ():
        if not patch.name:
            notes.append(f"not exported: {patch.step.commits[0]}, for later commits undo it")
        elif patch.became in (Became.NEW, Became.CHANGED) and patch.new:
            missing = [key for key in _TRAILERS if key not in patch.new.trailers]
            if missing:
                notes.append(f"{patch.name} lacks {', '.join(missing)}: lint asks for these trailers")
    return tuple(notes)


def _uncommitted(repo: Repo) -> list[str]:
    command = ("status", "--porcelain", "-z", "--untracked-files=no", "--no-renames", "--ignore-submodules=dirty")
    rows = repo.git(*command).split(b"\0")[:-1]
    if rows:  # perhaps only line ends, which the user's own git converts
        rows = repo.git(*repo.line_ends_of_the_user(), *command).split(b"\0")[:-1]
    return [row[3:].decode("utf-8", "replace") for row in rows]


def _report(outcome: ExportOutcome, where: str, found: _Export, notes: Sequence[str]) -> ExportReport:
    news = [
        PatchNews(
            patch.name,
            patch.became.value,
            patch.step.subject,
            patch.old.name if patch.old else "",
            tuple(map(str, patch.step.commits)),
        )
        for patch in found.patches
        if patch.became is not Became.SAME and patch.name
    ]
    overlay = {path: str(change) for path, change in found.overlay.items()}
    files, tree = tuple(found.new.files), found.new.built.overlay.tree
    return ExportReport(outcome, where, tuple(news), overlay, files, tree, tuple(notes))
