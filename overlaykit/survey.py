"""What the user has in the way of a change of the worktree: found out before anything is written.

git's own checks are not enough: with sparse checkout, assume-unchanged bits or a kill in the middle it overwrites
or misjudges files. So every path that changes is compared, byte by byte, with what it should hold before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from .gitrepo import Entry, Repo, blob_id, decode, encode


class Reason(Enum):
    """Why a path must not be overwritten."""

    EDITED = "edited"
    DELETED = "deleted"
    STAGED = "staged in the index"
    NOT_TRACKED = "not tracked by git"
    FOLDER = "a folder of yours"
    LINK = "behind a symbolic link"


@dataclass(frozen=True)
class Obstacle:
    """`path` holds work that exists nowhere else. It may be a parent of the path that was to be written."""

    path: str
    reason: Reason


@dataclass(frozen=True)
class Index:
    entries: Mapping[str, Entry]
    skipped: frozenset[str]  # left out of the worktree by sparse checkout
    unmerged: frozenset[str]


@dataclass(frozen=True)
class Change:
    path: str
    old: Entry | None
    new: Entry | None


@dataclass(frozen=True)
class Survey:
    """A change of the worktree, path by path. `kept`, `stale` and the rest of `changes` need different care."""

    changes: tuple[Change, ...]
    kept: tuple[Change, ...]  # the worktree already holds what is wanted: only the index must learn it
    stale: tuple[str, ...]  # the old content, but written with the user's line-end conversion: safe to remove
    obstacles: tuple[Obstacle, ...]


def read_index(repo: Repo) -> Index:
    entries: dict[str, Entry] = {}
    skipped, unmerged = set(), set()
    for row in repo.git("ls-files", "--stage", "-t", "-z", "--full-name").split(b"\0")[:-1]:
        about, _, name = row.partition(b"\t")
        tag, mode, blob, stage = about.decode().split(" ")
        path = decode(name)
        entries[path] = Entry(mode, blob)
        if stage != "0":
            unmerged.add(path)
        if tag in "Ss":
            skipped.add(path)
    return Index(entries, frozenset(skipped), frozenset(unmerged))


def changes_between(old: Mapping[str, Entry], new: Mapping[str, Entry]) -> tuple[Change, ...]:
    paths = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    return tuple(Change(path, old.get(path), new.get(path)) for path in paths)


def survey(repo: Repo, changes: tuple[Change, ...], index: Index, mine: frozenset[str]) -> Survey:
    """Compare each changing path with the worktree. `mine`: files whose edits are taken care of; they count as kept."""
    kept: list[Change] = []
    stale: list[str] = []
    obstacles: dict[str, Reason] = {}
    removed = {change.path for change in changes if change.new is None}
    for change in changes:
        staged, seen = index.entries.get(change.path), look(repo, change.path)
        if staged not in (change.old, change.new):  # even where the file itself is as it should be
            obstacles[change.path] = Reason.STAGED
        if isinstance(seen, Obstacle):
            if not _goes_away(repo, seen, removed):  # if it does, the files in it are looked at themselves
                obstacles[seen.path] = seen.reason
        elif change.path in obstacles:
            pass
        elif change.path in mine or _same(repo, seen, change.new):
            kept.append(change)
        elif staged != change.old:
            obstacles[change.path] = Reason.STAGED
        elif _same(repo, seen, change.old) or (seen is None and change.path in index.skipped):
            pass
        elif seen is None:
            obstacles[change.path] = Reason.DELETED
        elif is_stale(_root(repo) / change.path, change.old):
            stale.append(change.path)
        else:
            obstacles[change.path] = Reason.EDITED if change.old else Reason.NOT_TRACKED
    for path in _staged_in_the_way(changes, index):
        obstacles.setdefault(path, Reason.STAGED)
    found = tuple(Obstacle(path, reason) for path, reason in sorted(obstacles.items()))
    return Survey(changes, tuple(kept), tuple(stale), found)


def look(repo: Repo, path: str) -> Entry | Obstacle | None:
    """What the worktree holds at `path`: a file's mode and raw blob id, None for nothing, or what is in the way."""
    root = _root(repo)
    for parent in _parents(path):
        mode = _mode(root / parent)
        if mode is None:
            return None
        if stat.S_ISLNK(mode):
            return Obstacle(parent, Reason.LINK)
        if not stat.S_ISDIR(mode):
            return Obstacle(parent, Reason.NOT_TRACKED)
    full = root / path
    mode = _mode(full)
    seen = look_at(full)
    if mode is None or seen:
        return seen
    return Obstacle(path, Reason.FOLDER if stat.S_ISDIR(mode) else Reason.NOT_TRACKED)


def look_at(path: Path) -> Entry | None:
    """Mode and raw blob id of a file or link; None for nothing and for everything else."""
    mode = _mode(path)
    if mode is not None and stat.S_ISLNK(mode):
        return Entry("120000", blob_id(os.fsencode(os.readlink(path))))
    if mode is not None and stat.S_ISREG(mode):
        return Entry("100755" if mode & stat.S_IXUSR else "100644", blob_id(path.read_bytes()))
    return None


def is_stale(path: Path, old: Entry | None) -> bool:
    """True for old's content with line ends converted. No filter of the user's is asked: it may hide an edit."""
    seen = look_at(path)
    if not old or not seen or seen.mode != old.mode or seen.mode == "120000":
        return False
    return blob_id(path.read_bytes().replace(b"\r\n", b"\n")) == old.id


def files_at(path: Path) -> Iterator[str]:
    """What to append to `path` for each file at or below it: "" for itself, "/a/b" in a folder."""
    if path.is_dir() and not path.is_symlink():
        for folder, folders, names in os.walk(path):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            yield from ("/" + (Path(folder) / name).relative_to(path).as_posix() for name in (*links, *names))
    elif os.path.lexists(path):
        yield ""


def outermost(obstacles: Iterable[Obstacle]) -> list[str]:
    """Their paths, without those below another: behind a link that is in the way, for instance."""
    paths = {obstacle.path for obstacle in obstacles}
    return sorted(path for path in paths if paths.isdisjoint(_parents(path)))


def _staged_in_the_way(changes: tuple[Change, ...], index: Index) -> Iterator[str]:
    """New index entries that cannot be beside what will be written: a file where a folder must be, or the reverse."""
    files = {change.path for change in changes if change.new}
    folders = {parent for path in files for parent in _parents(path)}
    known = {change.path for change in changes if change.old}
    for path in index.entries:
        if path not in known and (path in folders or not files.isdisjoint(_parents(path))):
            yield path


def _parents(path: str) -> list[str]:
    """From the outermost, without "."."""
    return [parent.as_posix() for parent in [*PurePosixPath(path).parents][-2::-1]]


def _goes_away(repo: Repo, obstacle: Obstacle, removed: set[str]) -> bool:
    if obstacle.reason is not Reason.FOLDER:
        return obstacle.path in removed
    root = _root(repo)
    inside = [path for path in (root / obstacle.path).rglob("*") if path.is_symlink() or not path.is_dir()]
    return bool(inside) and all(path.relative_to(root).as_posix() in removed for path in inside)


def _same(repo: Repo, seen: Entry | None, wanted: Entry | None) -> bool:
    if seen is None or wanted is None or seen == wanted:
        return seen == wanted
    if seen.id != wanted.id or "120000" in (seen.mode, wanted.mode):
        return False
    # Some file systems keep no executable bit; git notes that when it makes the repository.
    return repo.status_of("config", "--type=bool", "--get", "core.fileMode").output.strip() == b"false"


def filtered_id(repo: Repo, path: str) -> str:
    """The blob id of a file with line ends converted as its attributes say. No filter program is run."""
    return repo.status_of("hash-object", "--stdin-paths", stdin=encode(path) + b"\n").output.decode().strip()


def _root(repo: Repo) -> Path:
    assert repo.worktree is not None
    return repo.worktree


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None
