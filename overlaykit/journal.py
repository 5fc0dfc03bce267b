"""The journal of a swap: what is going on, on disk before the first file changes, gone after the last ref has moved."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import SaveYourWork
from .gitrepo import Repo

VERSION = 2  # raise it with every change of Journal: an older journal must not be misread


@dataclass(frozen=True)
class Head:
    commit: str | None  # None: a repository without commits
    branch: str | None  # refs/heads/…; None: detached


@dataclass(frozen=True)
class Journal:
    """Everything that is needed to finish or undo. `swap` fills in what has a default."""

    old: str  # commits
    new: str
    branch: str | None  # that HEAD shall be on; None: detached at `new`
    refs: Mapping[str, str]  # to set once the worktree is there
    previous: str | None  # branch or commit that revert returns to; None: leave what is recorded
    kept: tuple[str, ...]
    backups: tuple[str, ...]  # refs
    fingerprint: str
    rewritten: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # file -> blobs before and after
    removed: tuple[str, ...] = ()  # what stood in the way
    was_on: str | None = None  # the branch of HEAD before
    was_at: str | None = None  # the commit of `branch` before
    locks: tuple[str, ...] = ()  # git's lock files that did not exist before: what is left of them is ours
    version: int = VERSION

    def write(self, path: Path) -> None:
        write_file(path, json.dumps(asdict(self), indent=1).encode(), sync=True)


def read_journal(path: Path) -> Journal | None:
    """None where there is none. Raises ValueError for one that is damaged or of another version."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ValueError("It was written by another version of apply.py.")
    try:
        tuples = {name: tuple(data[name]) for name in ("kept", "backups", "removed", "locks")}
        return Journal(**{**data, **tuples})
    except (KeyError, TypeError) as error:
        raise ValueError(f"It is damaged: {error}.") from error


def locks_of(repo: Repo, journal: Journal) -> list[Path]:
    """The lock files that git commands of a swap take."""
    common = Path(repo.line("rev-parse", "--path-format=absolute", "--git-common-dir"))
    refs = [*journal.refs, "refs/overlay/previous", "packed-refs", *([journal.branch] if journal.branch else [])]
    return [repo.git_dir / "index.lock", repo.git_dir / "HEAD.lock", *(common / f"{ref}.lock" for ref in refs)]


def refuse_locks(locks: list[Path]) -> None:
    for lock in locks:
        if lock.exists():
            raise SaveYourWork(
                f"{lock} exists: another git command is at work there.",
                fix="Wait until it is done. If none is running, one was killed: remove that file and run this again.",
            )


def write_file(path: Path, data: bytes, sync: bool = False) -> None:
    """Replace a file at one stroke; its mode stays. `sync`: it must survive a power cut."""
    new = beside(path)
    with new.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    if path.exists():
        shutil.copymode(path, new)
    os.replace(new, path)
    if sync:
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def beside(path: Path) -> Path:
    return path.with_name(path.name + ".overlay-new")


def aside(path: Path) -> Path:
    """Where something waits, under another name, until it is known to be saved."""
    return path.with_name(path.name + ".overlay-old")
