"""Exchange the worktree from one commit to another, once, so that a SIGKILL at any moment loses nothing.

A journal (journal.py) says what is going on before the first file changes, and goes away after the last ref has
moved. Whoever finds a journal calls `recover`. A failure that is no kill is undone at once, in the same run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from .errors import OverlayError, SaveYourWork
from .gitrepo import WHO, Entry, GitFailed, Repo
from .journal import Journal, aside, locks_of, refuse_locks, write_file
from .recover import finish, read_head, recover
from .survey import Index, Survey, files_at, filtered_id, is_stale, look, look_at, outermost, read_index


@dataclass(frozen=True)
class Rewrite:
    """A file of the user's that gets new contents, provided that it still holds what was seen."""

    seen: bytes
    wanted: bytes


def swap(
    repo: Repo,
    journal: Journal,
    survey: Survey,
    index: Index,
    writes: Mapping[str, Rewrite],
    saved: Mapping[str, Entry],
    private: Path,
    lock: IO[bytes],
) -> None:
    """Go from journal.old, where HEAD is, to journal.new. The obstacles of `survey` are removed if `saved` has them.

    `writes`: files among `survey.kept`, and files that do not change between the commits.
    """
    for path, rewrite in writes.items():
        _refuse_edited(repo, path, rewrite.seen)
    journal = replace(
        journal,
        rewritten={path: (repo.write_blob(r.seen), repo.write_blob(r.wanted)) for path, r in writes.items()},
        removed=(*survey.stale, *outermost(survey.obstacles)),
        was_on=read_head(repo).branch,
        was_at=repo.resolve(f"{journal.branch}^{{commit}}")[0] if journal.branch else None,
    )
    locks = locks_of(repo, journal)
    refuse_locks(locks)
    journal = replace(journal, locks=tuple(str(path) for path in locks))
    journal.write(private / "journal.json")
    try:
        _exchange(repo, journal, survey, index, writes, saved, lock)
        finish(repo, journal, private)
    except Exception:
        with contextlib.suppress(OverlayError, OSError):  # then the next run does it
            journal = replace(journal, locks=())  # no git of ours was killed: a lock that is there is not ours
            journal.write(private / "journal.json")
            recover(repo, journal, private)
        raise


def _exchange(
    repo: Repo,
    journal: Journal,
    survey: Survey,
    index: Index,
    writes: Mapping[str, Rewrite],
    saved: Mapping[str, Entry],
    lock: IO[bytes],
) -> None:
    assert repo.worktree is not None
    repo.update_index({change.path: change.new for change in survey.kept})
    for path, rewrite in writes.items():
        _refuse_edited(repo, path, rewrite.seen)
        write_file(repo.worktree / path, rewrite.wanted)
    _clear_the_way(repo, survey, index, saved)
    where = ["-B", journal.branch[len("refs/heads/") :]] if journal.branch else ["--detach"]
    done = repo.status_of(
        "-c",
        "core.sparseCheckout=false",  # with it on, git would overwrite untracked and ignored files
        "checkout",
        "--quiet",
        "--no-overwrite-ignore",
        *where,
        journal.new,
        stdin=lock,  # a git that outlives us holds the lock on
        env=WHO,
    )
    if done.status:
        raise GitFailed(f"git checkout failed in {repo.worktree}", done.error.strip(), "What was done was undone.")
    _refuse_unfinished(repo, survey, done.error.strip())


def _refuse_edited(repo: Repo, path: str, seen: bytes) -> None:
    assert repo.worktree is not None
    try:
        held = (repo.worktree / path).read_bytes()
    except OSError:
        held = None
    if held != seen:
        _edited_meanwhile(repo.worktree / path)


def _edited_meanwhile(path: Path) -> None:
    raise SaveYourWork(f"{path} was edited while this ran; nothing was changed.", fix="Run this again.")


def _clear_the_way(repo: Repo, survey: Survey, index: Index, saved: Mapping[str, Entry]) -> None:
    assert repo.worktree is not None
    old = {change.path: change.old for change in survey.changes}
    waiting = []  # all are looked at before the first is removed; until then `recover` brings them back
    for path in survey.stale:
        waits = _put_aside(repo.worktree, path)
        if waits and not is_stale(waits, old[path]):
            _edited_meanwhile(repo.worktree / path)
        waiting.append(waits)
    for path in outermost(survey.obstacles):
        waits = _put_aside(repo.worktree, path)
        held = {path + name: look_at(Path(f"{waits}{name}")) for name in files_at(waits)} if waits else {}
        if any(not entry or saved.get(name) != entry for name, entry in held.items()):
            _edited_meanwhile(repo.worktree / path)
        waiting.append(waits)
    for waits in waiting:
        _remove(waits)
    paths = (obstacle.path for obstacle in survey.obstacles)
    repo.update_index({path: old.get(path) for path in paths if index.entries.get(path) != old.get(path)})


def _put_aside(root: Path, path: str) -> Path | None:
    """Rename, so that whatever is saved under the name from now on is another file, and what is removed is known."""
    full = root / path
    if not os.path.lexists(full):
        return None
    if os.path.lexists(aside(full)):
        raise SaveYourWork(f"{aside(full)} is in the way; nothing was changed.", fix="Move it elsewhere.")
    os.rename(full, aside(full))
    return aside(full)


def _remove(path: Path | None) -> None:
    if path and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path:
        path.unlink()


def _refuse_unfinished(repo: Repo, survey: Survey, told: str) -> None:
    """git returns 0 even where it could not write a file (a mirror without the blob, no permission), so look."""
    kept = {change.path for change in survey.kept}
    index = read_index(repo)
    for change in survey.changes:
        seen = look(repo, change.path)
        if change.new is None:
            done = not isinstance(seen, Entry) or change.path in kept  # a folder may have taken its place
        elif change.path in index.skipped:
            done = True
        elif change.path in kept or not isinstance(seen, Entry):
            done = isinstance(seen, Entry)  # a kept file may hold edits of the user's
        else:  # it may ask git to convert what it writes (.git/info/attributes)
            done = seen.id == change.new.id or filtered_id(repo, change.path) == change.new.id
        if not done or index.entries.get(change.path) != change.new:
            verb = "write" if change.new else "delete"
            fix = "What was done was undone. Once the cause is gone, run this again."
            raise GitFailed(f"git did not {verb} {change.path}.", told or _cause(repo, change.path), fix)


def _cause(repo: Repo, path: str) -> str:
    assert repo.worktree is not None
    folder = next(parent for parent in (repo.worktree / path).parents if parent.exists())
    return "" if os.access(folder, os.W_OK) else f"You have no permission to write in {folder}."
