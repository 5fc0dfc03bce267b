"""Exchange the worktree from one commit to another, once, so that a SIGKILL at any moment loses nothing.

A journal says what is going on before the first file changes, and goes away after the last ref has moved.
Whoever finds a journal calls `recover`: if the index had already moved, only refs are missing and it finishes;
otherwise it puts back every file that is not as the index says, unless the user made it. Then nothing happened.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import IO

from .gitrepo import WHO, Entry, GitFailed, Repo, encode
from .survey import Change, Index, Reason, Survey, changes_between, filtered_id, look, read_index


@dataclass(frozen=True)
class Head:
    commit: str | None  # None: a repository without commits
    branch: str | None  # refs/heads/…; None: detached


@dataclass(frozen=True)
class Journal:
    """Everything that is needed to finish or undo."""

    old: str  # commits
    new: str
    branch: str | None  # that HEAD shall be on; None: detached at `new`
    refs: Mapping[str, str]  # to set once the worktree is there
    previous: str | None  # branch or commit that revert returns to; None: leave what is recorded
    kept: tuple[str, ...]
    backup: str | None
    fingerprint: str
    rewritten: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # file -> blobs before and after

    def write(self, path: Path) -> None:
        write_file(path, json.dumps(asdict(self), indent=1).encode())


class Recovered(Enum):
    FINISHED = "finished"
    UNDONE = "undone"
    LEFT = "left alone"  # the user has moved on by hand


def read_head(repo: Repo) -> Head:
    branch = repo.status_of("symbolic-ref", "-q", "HEAD").output.decode().strip() or None
    return Head(repo.resolve("HEAD^{commit}")[0], branch)


def read_journal(path: Path) -> Journal | None:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return Journal(**{**data, "kept": tuple(data["kept"])})


def swap(
    repo: Repo, journal: Journal, survey: Survey, writes: Mapping[str, bytes], private: Path, lock: IO[bytes]
) -> None:
    """Go from journal.old, where HEAD is, to journal.new. Obstacles of `survey` are saved: they are removed.

    `writes`: new contents of files among `survey.kept`, and of files that do not change between the commits.
    """
    assert repo.worktree is not None
    before = {path: (repo.worktree / path).read_bytes() for path in writes}
    stored = {path: (repo.write_blob(before[path]), repo.write_blob(data)) for path, data in writes.items()}
    journal = replace(journal, rewritten=stored)
    journal.write(private / "journal.json")
    repo.update_index({change.path: change.new for change in survey.kept})
    for path, data in writes.items():
        write_file(repo.worktree / path, data)
    _clear_the_way(repo, survey)
    where = ["-B", journal.branch[len("refs/heads/") :]] if journal.branch else ["--detach"]
    # With sparse checkout on, git would overwrite untracked and ignored files.
    repo.git(
        "-c",
        "core.sparseCheckout=false",
        "checkout",
        "--quiet",
        "--no-overwrite-ignore",
        *where,
        journal.new,
        stdin=lock,  # a git that outlives us holds the lock on
        env=WHO,
    )
    _refuse_unfinished(repo, survey)
    _finish(repo, journal, private)


def _clear_the_way(repo: Repo, survey: Survey) -> None:
    assert repo.worktree is not None
    for path in (*survey.stale, *(obstacle.path for obstacle in survey.obstacles)):
        full = repo.worktree / path
        if full.is_dir() and not full.is_symlink():
            shutil.rmtree(full)
        else:
            full.unlink(missing_ok=True)
    staged = {obstacle.path for obstacle in survey.obstacles if obstacle.reason is Reason.STAGED}
    repo.update_index({change.path: change.old for change in survey.changes if change.path in staged})


def recover(repo: Repo, journal: Journal, private: Path) -> Recovered:
    """Finish or undo the swap of a run that was killed. Its lock must be held, so no git of it is alive."""
    assert repo.worktree is not None
    _clear_stale_locks(repo)
    head = read_head(repo)
    index = read_index(repo)
    changes = changes_between(repo.tree(journal.old), repo.tree(journal.new))
    if head.commit not in (journal.old, journal.new):
        outcome = Recovered.LEFT
    elif all(index.entries.get(change.path) == change.new for change in changes):
        if journal.branch:
            repo.update_refs({journal.branch: journal.new})
            repo.git("symbolic-ref", "HEAD", journal.branch, env=WHO)
        else:
            repo.git("update-ref", "--no-deref", "HEAD", journal.new, env=WHO)
        _rewrite(repo, journal.rewritten)
        outcome = Recovered.FINISHED
    else:
        repo.update_index({change.path: change.old for change in changes if change.path in journal.kept})
        _put_back(repo, [change for change in changes if change.path not in journal.kept], index)
        _rewrite(repo, {path: (new, old) for path, (old, new) in journal.rewritten.items()})
        outcome = Recovered.UNDONE
    if outcome is Recovered.FINISHED:
        _finish(repo, journal, private)
    else:
        (private / "journal.json").unlink()
    return outcome


def _rewrite(repo: Repo, files: Mapping[str, tuple[str, str]]) -> None:
    """Exchange contents (from, to), but only where the file still holds `from`."""
    assert repo.worktree is not None
    blobs = repo.read_blobs(wanted for _, wanted in files.values())
    for path, (held, wanted) in files.items():
        _beside(repo.worktree / path).unlink(missing_ok=True)
        seen = look(repo, path)
        if isinstance(seen, Entry) and seen.id == held:
            write_file(repo.worktree / path, blobs[wanted])


def _put_back(repo: Repo, changes: list[Change], index: Index) -> None:
    """Undo what the killed checkout did to files; leave every file alone that it cannot have made."""
    assert repo.worktree is not None
    restore = []
    for change in changes:
        seen = look(repo, change.path)
        if index.entries.get(change.path) != change.old or seen == change.old or change.path in index.skipped:
            continue
        if seen is not None and not (isinstance(seen, Entry) and _is_ours(repo, change, seen)):
            continue
        if change.old:
            restore.append(change.path)
        elif seen:
            (repo.worktree / change.path).unlink()
            remove_empty_parents(repo.worktree, change.path)
    if restore:
        stdin = b"".join(encode(path) + b"\0" for path in restore)
        repo.git("checkout-index", "--force", "--index", "-z", "--stdin", stdin=stdin)


def _is_ours(repo: Repo, change: Change, seen: Entry) -> bool:
    """True for the content of either side, or the beginning of it: git was killed while it wrote the file."""
    assert repo.worktree is not None
    ids = [entry.id for entry in (change.old, change.new) if entry]
    if seen.id in ids:
        return True
    data = (repo.worktree / change.path).read_bytes().replace(b"\r\n", b"\n")  # git may convert what it writes
    return seen.mode != "120000" and any(blob.startswith(data) for blob in repo.read_blobs(ids).values())


def _refuse_unfinished(repo: Repo, survey: Survey) -> None:
    """git returns 0 even where it could not write a file (a mirror without the blob), so look."""
    kept = {change.path for change in survey.kept}
    skipped = read_index(repo).skipped
    for change in survey.changes:
        seen = look(repo, change.path)
        if change.new is None:
            done = not isinstance(seen, Entry)  # a folder may have taken its place
        else:
            done = isinstance(seen, Entry) and seen.id == change.new.id
            if not done and isinstance(seen, Entry):  # it may ask git to convert what it writes (.git/info/attributes)
                done = filtered_id(repo, change.path) == change.new.id
        if not done and change.path not in kept and change.path not in skipped:
            raise GitFailed(f"git did not write {change.path}.", fix="Run this again; it will undo what is half done.")


def _finish(repo: Repo, journal: Journal, private: Path) -> None:
    repo.update_refs(journal.refs)
    if journal.previous and journal.previous.startswith("refs/"):
        repo.git("symbolic-ref", "refs/overlay/previous", journal.previous, env=WHO)
    elif journal.previous:
        repo.git("update-ref", "--no-deref", "refs/overlay/previous", journal.previous, env=WHO)
    write_file(
        private / "fingerprint", f"{journal.fingerprint} {journal.refs.get('refs/overlay/tip', journal.new)}\n".encode()
    )
    (private / "journal.json").unlink()


def _clear_stale_locks(repo: Repo) -> None:
    common = Path(repo.line("rev-parse", "--path-format=absolute", "--git-common-dir"))
    locks = [repo.git_dir / "index.lock", repo.git_dir / "HEAD.lock", common / "packed-refs.lock"]
    for lock in (*locks, *common.glob("refs/heads/**/*.lock"), *common.glob("refs/overlay/**/*.lock")):
        lock.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file at one stroke; its mode stays."""
    beside = _beside(path)
    beside.write_bytes(data)
    if path.exists():
        shutil.copymode(path, beside)
    os.replace(beside, path)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".overlay-new")


def remove_empty_parents(root: Path, path: str) -> None:
    for parent in (root / path).parents:
        if parent == root:
            return
        try:
            parent.rmdir()
        except OSError:
            return
