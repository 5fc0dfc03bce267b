"""--force: save what is about to be replaced as a commit under refs/overlay/backup/."""

from __future__ import annotations

import os
import shlex
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import SaveYourWork
from .gitrepo import AUTHOR, Entry, Repo
from .survey import Index, Survey, files_at, outermost

FOLDER = "refs/overlay/backup/"
_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


@dataclass(frozen=True)
class Backup:
    refs: tuple[str, ...]
    files: Mapping[str, Entry]  # what the worktree held; only what is here may be removed


def save(repo: Repo, parents: tuple[str, ...], found: Survey, index: Index, scratch: Path) -> Backup:
    """Save what the obstacles hold in a commit on top of `parents`, and what the index holds for them in another.

    A deleted file leaves nothing to save.
    """
    assert repo.worktree is not None
    names = [path + name for path in outermost(found.obstacles) for name in _files_at(repo.worktree / path)]
    files = dict(zip(names, _store(repo, names, scratch)))
    old = {change.path: change.old for change in found.changes}
    staged = {
        obstacle.path: index.entries[obstacle.path]
        for obstacle in found.obstacles
        if obstacle.path in index.entries and index.entries[obstacle.path] != old.get(obstacle.path)
    }
    date = f"{int(time.time())} +0000"
    name = time.strftime(f"{FOLDER}%Y%m%dT%H%M%SZ", time.gmtime())
    taken = repo.line("for-each-ref", "--format=%(refname)", FOLDER).split("\n")
    ref = next(ref for n in range(1, 10**6) if (ref := name if n == 1 else f"{name}-{n}") not in taken)
    refs = {}
    if staged:
        parents = (_commit(repo, staged, parents, "overlay: staged before --force\n", date, scratch / "staged-index"),)
        refs[f"{ref}-staged"] = parents[0]
    refs[ref] = _commit(repo, files, parents, "overlay: replaced by --force\n", date, scratch / "backup-index")
    repo.update_refs(refs)
    return Backup(tuple(refs), files)


def how_to_restore(repo: Repo, refs: Collection[str] | None = None) -> tuple[str, ...]:
    """Commands that bring saved files back: all that there are, or those of `refs`.

    They write a new folder beside the workspace, so they can overwrite and delete nothing. It is private, for git
    keeps of a file's mode only whether it is executable. Backups that hold no files, only commits, are left out.
    """
    assert repo.worktree is not None
    listing = repo.line("for-each-ref", "--format=%(refname) %(tree)", FOLDER).split("\n")
    found = [row.split(" ") for row in listing if row and not row.endswith(_EMPTY_TREE)]
    folder = repo.worktree
    commands = []
    for ref, _ in found:
        if refs is None or ref in refs:
            new = shlex.quote(str(folder.with_name(f"{folder.name}-saved-{ref[len(FOLDER) :]}")))
            get = f"git -C {shlex.quote(str(folder))} --work-tree={new} restore --overlay --ignore-skip-worktree-bits"
            commands.append(f"mkdir -m 700 {new} && {get} --source={ref} -- .")
    return tuple(commands)


def _files_at(path: Path) -> Iterator[str]:
    for name in files_at(path):
        if ".git" in name.split("/"):
            repository = Path(str(path) + name.partition("/.git")[0])
            _refuse(repository, "It is a git repository of its own, which cannot be saved inside another one.")
        yield name


def _store(repo: Repo, files: list[str], scratch: Path) -> Iterator[Entry]:
    assert repo.worktree is not None
    sources, modes = [], []
    for number, name in enumerate(files):
        path = repo.worktree / name
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            sources.append(scratch / f"link-{number}")
            sources[-1].write_bytes(os.fsencode(os.readlink(path)))
            modes.append("120000")
        elif stat.S_ISREG(mode):
            sources.append(path)
            modes.append("100755" if mode & stat.S_IXUSR else "100644")
        else:
            _refuse(path, "It is neither a file nor a link, so it cannot be saved.")
    return (Entry(mode, blob) for mode, blob in zip(modes, repo.write_files(sources)))


def _commit(
    repo: Repo, entries: dict[str, Entry], parents: tuple[str, ...], message: str, date: str, index: Path
) -> str:
    private = repo.having(GIT_INDEX_FILE=str(index))
    private.git("read-tree", "--empty")
    private.update_index(entries)
    if not entries:  # git knows this tree by heart, so write-tree does not write it, and then fsck misses it
        repo.git("hash-object", "-t", "tree", "-w", "--stdin")
    return repo.commit(private.write_tree(), parents, message, AUTHOR, date)


def _refuse(path: Path, why: str) -> None:
    raise SaveYourWork(f"{path} is in the way, and --force will not remove it.", why, "Move it elsewhere.")
