"""The project's files made from a series of steps; then read back from a scratch folder and built."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Optional

from ..build import Built
from ..errors import FixTheProjectFile, RebaseThePatch
from ..gitrepo import Entry, Repo
from ..install import check_inside
from ..linting.patchtable import render
from ..objects import Objects
from ..patchfile import Patch, parse_patch
from ..patchwrite import file_name, write_patch
from ..plan import build_project
from ..project import Project, is_litter, read_project, with_commit, with_result
from ..series import rewritten
from ..survey import changes_between
from .fold import Step
from .sides import Files

_LOCK = "configs/upstream.yaml"
_SERIES = "patches/series"
_TABLE = "patches/README.md"
Contents = Mapping[str, Optional[bytes]]


class Became(Enum):
    """What became of a patch."""

    SAME = "same"
    CHANGED = "changed"
    NEW = "new"
    DROPPED = "dropped"  # nothing is left of it


@dataclass(frozen=True)
class Written:
    """One patch, before and after."""

    became: Became
    step: Step
    old: Patch | None
    new: Patch | None

    @property
    def name(self) -> str:
        """File name, "" for a new patch of which nothing is left."""
        patch = self.new or self.old
        return patch.name if patch else ""


@dataclass(frozen=True)
class OverlayChange:
    """One file of overlay/; None where there is none."""

    old: bytes | None
    new: bytes | None

    def __str__(self) -> str:
        return "add" if self.old is None else "delete" if self.new is None else "change"


@dataclass(frozen=True)
class NewProject:
    """`files` and `seen` are what `install` takes; `project` and `built` are how they were read back."""

    files: Contents
    seen: Contents
    project: Project
    built: Built

    @property
    def replaced(self) -> Contents:
        """What `files` take the place of."""
        return {path: self.seen.get(path) for path in self.files}


def write_patches(repo: Repo, base: str, steps: Sequence[Step], scratch: Path) -> tuple[Written, ...]:
    """Each step as a patch; one that comes from a patch and says the same keeps its bytes. `repo` is sterile.

    Raises RebaseThePatch for a commit that no patch can hold.
    """
    objects = _objects(repo, scratch / "steps")
    before: Files = repo.tree(base)
    objects.tree(before)
    number = max((int(step.patch.name[:4]) for step in steps if step.patch), default=0)
    commits, parent = [], base
    for step in steps:
        tree = objects.tree({change.path: change.new for change in changes_between(before, step.files)})
        parent = objects.commit(tree, parent, step.message, step.author, step.date)
        commits.append((parent, before))
        before = step.files
    objects.write()
    written = []
    for step, (commit, before) in zip(steps, commits):
        if before == step.files:
            written.append(Written(Became.DROPPED, step, step.patch, None))
        elif step.patch and _is_same(step, before):
            written.append(Written(Became.SAME, step, step.patch, step.patch))
        else:
            number += step.patch is None
            _refuse_bare_modes(step, before)
            patch = _patch(repo, commit, step, int(step.patch.name[:4]) if step.patch else number)
            written.append(Written(Became.CHANGED if step.patch else Became.NEW, step, step.patch, patch))
    return tuple(written)


def tree_of(repo: Repo, files: Files, scratch: Path) -> str:
    """The id of the tree with these files; nothing is written."""
    return _objects(repo, scratch / "tree").tree(files)


def _objects(repo: Repo, folder: Path) -> Objects:
    folder.mkdir()
    return Objects(repo, folder)


def new_project(
    repo: Repo,
    project: Project,
    patches: Mapping[str, bytes],
    renamed: Mapping[str, str | None],
    overlay: Mapping[str, OverlayChange],
    commit: str,
    scratch: Path,
) -> NewProject:
    """`project` with these patches (file name -> bytes, in order), changes of overlay/ and pin; read back and built.

    `renamed`: what became of the patches' names that `patches` lacks, None for one that is gone. Raises whatever
    reading or building it raises.
    """
    old = {patch.name: patch.raw for patch in project.series}
    files: dict[str, bytes | None] = {f"overlay/{path}": change.new for path, change in overlay.items()}
    seen = _read(project, overlay)
    if list(patches.items()) != list(old.items()):
        files.update({f"patches/{name}": None for name in old if name not in patches})
        files.update({f"patches/{name}": raw for name, raw in patches.items()})
        files[_SERIES] = rewritten(seen[_SERIES] or b"", renamed, list(patches))
        series = (parse_patch(name, raw) for name, raw in patches.items())
        files[_TABLE] = render(series).encode()
    if commit != project.upstream.commit:
        files[_LOCK] = with_commit(project.lock_file, seen[_LOCK] or b"", commit)
    root = scratch / "project"
    for part in ("patches", "overlay", "configs"):
        if (project.root / part).is_dir():
            shutil.copytree(project.root / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    for path, data in sorted(files.items(), key=lambda item: item[1] is not None):
        _write(root, path, data)
    (scratch / "build").mkdir()
    built = build_project(repo, read_project(root), {}, scratch / "build")
    if built.overlay.tree != project.upstream.result:
        files[_LOCK] = with_result(project.lock_file, files.get(_LOCK) or seen[_LOCK] or b"", built.overlay.tree)
        _write(root, _LOCK, files[_LOCK])
    return NewProject(files, seen, read_project(root), built)


def changed_overlay(repo: Repo, project: Project, old: Files, new: Files) -> dict[str, OverlayChange]:
    """The files of overlay/ that differ. Raises FixTheProjectFile for what cannot lie there."""
    changes = changes_between(old, new)
    blobs = repo.read_blobs(entry.id for change in changes for entry in (change.old, change.new) if entry)
    for change in changes:
        if change.new and (change.new.mode != "100644" or is_litter(Path(change.path))):
            kind = {"120000": "a symlink", "160000": "a submodule", "100755": "executable"}.get(change.new.mode)
            why = (
                f"It is {kind}; overlay/ holds plain files."
                if kind
                else "Such names are litter, which apply leaves out."
            )
            raise FixTheProjectFile(
                f"{change.path} cannot lie in overlay/.", why, "Change that in a commit, or undo it."
            )
        check_inside(project.root, f"overlay/{change.path}")
    return {
        change.path: OverlayChange(*(blobs[entry.id] if entry else None for entry in (change.old, change.new)))
        for change in changes
    }


def _is_same(step: Step, before: Files) -> bool:
    patch = step.patch
    if patch is None or step.message != patch.message:
        return False
    changes = {change.path: (change.old, change.new) for change in changes_between(before, step.files)}
    return changes == {
        change.path: (_entry(change.old_mode, change.old_blob), _entry(change.new_mode, change.new_blob))
        for change in patch.files
    }


def _entry(mode: str | None, blob: str) -> Entry | None:
    return Entry(mode, blob) if mode else None


def _refuse_bare_modes(step: Step, before: Files) -> None:
    for change in changes_between(before, step.files):
        if change.old and change.new and change.old.id == change.new.id:
            what = f"{_whose(step)} changes nothing of {change.path} but its mode."
            why = "A patch is checked by the content that it names before and after; here it would name none."
            raise RebaseThePatch(what, why, "Leave that out of the commit.")


def _whose(step: Step) -> str:
    return ", ".join(map(str, step.commits)) or step.name


def _patch(repo: Repo, commit: str, step: Step, number: int) -> Patch:
    raw = write_patch(repo, commit)
    kept = step.patch.name if step.patch and step.patch.subject == step.subject else None
    whose = _whose(step)
    try:
        patch = parse_patch(kept or file_name(number, step.subject), raw)
    except FixTheProjectFile as error:
        fix = (
            "The message or the author: git commit --amend, or git rebase -i for an earlier commit.\n"
            "A file: leave it out of the commit, or put it into overlay/ under a name of its own."
        )
        raise RebaseThePatch(f"{whose} cannot be written as a patch.", f"{error.what}\n{error.why}", fix) from error
    same_author = f"{patch.author_name} <{patch.author_email}>" == step.author
    if patch.message.split() != step.message.split() or not same_author:
        why = "In a mail, a subject in [brackets] or a line such as '---' or 'diff --git' does not arrive as it is."
        raise RebaseThePatch(f"The message or author of {whose} cannot be written as a mail.", why, "Reword it.")
    return patch


def _read(project: Project, overlay: Mapping[str, OverlayChange]) -> dict[str, bytes | None]:
    """What the run read and builds on."""
    seen: dict[str, bytes | None] = {f"patches/{patch.name}": patch.raw for patch in project.series}
    seen.update({f"overlay/{path}": change.old for path, change in overlay.items()})
    for path in (_SERIES, _TABLE, _LOCK, "configs/paths.yaml"):
        file = project.root / path
        seen[path] = file.read_bytes() if file.is_file() else None
    return seen


def _write(root: Path, path: str, data: bytes | None) -> None:
    check_inside(root, path)
    if data is None:
        (root / path).unlink(missing_ok=True)
        return
    if (root / path).is_dir():
        shutil.rmtree(root / path)
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)
