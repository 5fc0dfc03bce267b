"""--force: save what is about to be replaced as a commit under refs/overlay/backup/."""

from __future__ import annotations

import os
import shlex
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import SaveYourWork
from .gitrepo import AUTHOR, Entry, Repo
from .survey import Index, Obstacle, Reason


@dataclass(frozen=True)
class Backup:
    ref: str
    files: bool  # False: it keeps commits only


def save(repo: Repo, parents: tuple[str, ...], obstacles: tuple[Obstacle, ...], index: Index, scratch: Path) -> Backup:
    """Save each obstacle's content in a commit on top of `parents`. A deleted file leaves nothing to save."""
    assert repo.worktree is not None
    files = [path for obstacle in obstacles for path in _files_at(repo.worktree, obstacle)]
    entries = dict(zip(files, _store(repo, files, scratch)))
    staged = {
        obstacle.path: index.entries[obstacle.path]
        for obstacle in obstacles
        if obstacle.reason is Reason.STAGED and obstacle.path in index.entries
    }
    date = f"{int(time.time())} +0000"
    if staged:
        parents = (_commit(repo, staged, parents, "overlay: staged before --force\n", date, scratch / "staged-index"),)
    entries = {**staged, **entries}  # staged, then deleted from the worktree
    tip = _commit(repo, entries, parents, "overlay: replaced by --force\n", date, scratch / "backup-index")
    name = time.strftime("refs/overlay/backup/%Y%m%dT%H%M%SZ", time.gmtime())
    taken = repo.line("for-each-ref", "--format=%(refname)", "refs/overlay/backup/").split("\n")
    ref = next(ref for n in range(1, 10**6) if (ref := name if n == 1 else f"{name}-{n}") not in taken)
    repo.update_refs({ref: tip})
    return Backup(ref, bool(entries))


def how_to_restore(folder: Path, ref: str) -> str:
    """The command that brings saved files back; it touches no other file."""
    return f"git -C {shlex.quote(str(folder))} restore --overlay --ignore-skip-worktree-bits --source={ref} -- ."


def _files_at(root: Path, obstacle: Obstacle) -> Iterator[str]:
    path = root / obstacle.path
    if path.is_dir() and not path.is_symlink():
        for folder, folders, names in os.walk(path):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            if ".git" in folders + names:
                _refuse(Path(folder), "It is a git repository of its own, which cannot be saved inside another one.")
            for name in (*links, *names):
                yield (Path(folder) / name).relative_to(root).as_posix()
    elif os.path.lexists(path):
        yield obstacle.path


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
    return repo.commit(private.write_tree(), parents, message, AUTHOR, date)


def _refuse(path: Path, why: str) -> None:
    raise SaveYourWork(f"{path} is in the way, and --force will not remove it.", why, "Move it elsewhere.")
