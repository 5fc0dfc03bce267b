"""Finish or undo a swap that did not come to its end, from its journal.

If the index and every file had already moved, only refs are missing and it finishes; otherwise it puts back every
file that is not as it was before, unless the user made it. Then nothing happened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path

from .gitrepo import WHO, Repo, encode
from .journal import Head, Journal, aside, beside, locks_of, refuse_locks, write_file
from .survey import Change, Entry, Index, changes_between, look, read_index


class Recovered(Enum):
    FINISHED = "finished"
    UNDONE = "undone"
    LEFT = "left alone, for you have moved on by hand"


def read_head(repo: Repo) -> Head:
    branch = repo.status_of("symbolic-ref", "-q", "HEAD").output.decode().strip() or None
    return Head(repo.resolve("HEAD^{commit}")[0], branch)


def recover(repo: Repo, journal: Journal, private: Path) -> Recovered:
    """Finish or undo. The lock of the run that wrote the journal must be held, so no git of it is alive."""
    assert repo.worktree is not None
    _clear_locks(repo, journal, private)
    head, index = read_head(repo), read_index(repo)
    changes = changes_between(repo.tree(journal.old), repo.tree(journal.new))
    _bring_back(repo.worktree, journal.removed)
    if head.commit not in (journal.old, journal.new):
        outcome = Recovered.LEFT
    elif _arrived(repo, journal, changes, index):
        if journal.branch:
            repo.update_refs({journal.branch: journal.new})
            repo.git("symbolic-ref", "HEAD", journal.branch, env=WHO)
        else:
            repo.git("update-ref", "--no-deref", "HEAD", journal.new, env=WHO)
        _rewrite(repo, journal.rewritten)
        finish(repo, journal, private)
        return Recovered.FINISHED
    else:
        _undo(repo, journal, changes, index, head)
        outcome = Recovered.UNDONE
    (private / "journal.json").unlink()
    return outcome


def finish(repo: Repo, journal: Journal, private: Path) -> None:
    """The end of every swap: the refs, and the journal goes."""
    repo.update_refs(journal.refs)
    if journal.previous and journal.previous.startswith("refs/"):
        repo.git("symbolic-ref", "refs/overlay/previous", journal.previous, env=WHO)
    elif journal.previous:
        repo.git("update-ref", "--no-deref", "refs/overlay/previous", journal.previous, env=WHO)
    tip = journal.refs.get("refs/overlay/tip", journal.new)
    write_file(private / "fingerprint", f"{journal.fingerprint} {tip}\n".encode())
    (private / "journal.json").unlink()


def _clear_locks(repo: Repo, journal: Journal, private: Path) -> None:
    """Remove what our killed git left; a lock from before the journal is another's, and alive for all we know."""
    began = (private / "journal.json").stat().st_mtime_ns
    for lock in locks_of(repo, journal):
        if str(lock) in journal.locks and lock.exists() and lock.stat().st_mtime_ns >= began:
            lock.unlink(missing_ok=True)
    refuse_locks(locks_of(repo, journal))


def _arrived(repo: Repo, journal: Journal, changes: tuple[Change, ...], index: Index) -> bool:
    """git writes the index last, but also where it could not write or delete a file, so look at them too."""
    if any(index.entries.get(change.path) != change.new for change in changes):
        return False
    return not any(
        _still_old(change, look(repo, change.path))
        for change in changes
        if change.path not in journal.kept and change.path not in index.skipped
    )


def _still_old(change: Change, seen: object) -> bool:
    """Neither written nor deleted. Any other content is an edit that the user made since."""
    if seen is None:
        return change.new is not None
    if not isinstance(seen, Entry) or (change.new and seen.id == change.new.id):
        return False
    return change.old is not None and seen.id == change.old.id


def _bring_back(root: Path, removed: Iterable[str]) -> None:
    for path in removed:
        if os.path.lexists(aside(root / path)) and not os.path.lexists(root / path):
            os.rename(aside(root / path), root / path)


def _undo(repo: Repo, journal: Journal, changes: tuple[Change, ...], index: Index, head: Head) -> None:
    if head.commit == journal.new != journal.old and head.branch == journal.branch:
        if journal.was_on:
            repo.git("symbolic-ref", "HEAD", journal.was_on, env=WHO)
        else:
            repo.git("update-ref", "--no-deref", "HEAD", journal.old, env=WHO)
    if journal.branch and repo.resolve(f"{journal.branch}^{{commit}}") == [journal.new] != [journal.was_at]:
        repo.update_refs({journal.branch: journal.was_at})
    moved = {change.path: change.old for change in changes if index.entries.get(change.path) == change.new}
    repo.update_index(moved)
    left_out = [path for path, old in moved.items() if old and path in index.skipped]
    if left_out:
        repo.git("update-index", "-z", "--skip-worktree", "--stdin", stdin=_names(left_out))
    _put_back(repo, [change for change in changes if change.path not in journal.kept], index)
    _rewrite(repo, {path: (new, old) for path, (old, new) in journal.rewritten.items()})


def _rewrite(repo: Repo, files: Mapping[str, tuple[str, str]]) -> None:
    """Exchange contents (from, to), but only where the file still holds `from`."""
    assert repo.worktree is not None
    blobs = repo.read_blobs(wanted for _, wanted in files.values())
    for path, (held, wanted) in files.items():
        beside(repo.worktree / path).unlink(missing_ok=True)
        seen = look(repo, path)
        if isinstance(seen, Entry) and seen.id == held:
            write_file(repo.worktree / path, blobs[wanted])


def _put_back(repo: Repo, changes: list[Change], index: Index) -> None:
    """Undo what the checkout did to files; leave every file alone that it cannot have made."""
    assert repo.worktree is not None
    restore = []
    for change in changes:
        seen = look(repo, change.path)
        staged = index.entries.get(change.path) not in (change.old, change.new)
        if staged or seen == change.old or change.path in index.skipped:
            continue
        if seen is not None and not (isinstance(seen, Entry) and _is_ours(repo, change, seen)):
            continue
        if change.old:
            restore.append(change.path)
        elif seen:
            (repo.worktree / change.path).unlink()
            _remove_empty_parents(repo.worktree, change.path)
    if restore:
        repo.git("checkout-index", "--force", "--index", "-z", "--stdin", stdin=_names(restore))


def _is_ours(repo: Repo, change: Change, seen: Entry) -> bool:
    """True for the content of either side, or the beginning of it: git was killed while it wrote the file."""
    assert repo.worktree is not None
    ids = [entry.id for entry in (change.old, change.new) if entry]
    if seen.id in ids:
        return True
    data = (repo.worktree / change.path).read_bytes().replace(b"\r\n", b"\n")  # git may convert what it writes
    return seen.mode != "120000" and any(blob.startswith(data) for blob in repo.read_blobs(ids).values())


def _names(paths: Iterable[str]) -> bytes:
    return b"".join(encode(path) + b"\0" for path in paths)


def _remove_empty_parents(root: Path, path: str) -> None:
    for parent in (root / path).parents:
        if parent == root:
            return
        try:
            parent.rmdir()
        except OSError:
            return
