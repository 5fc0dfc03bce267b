"""A clone of upstream on this machine: find it safely, lock it, and read what earlier runs left in it.

All state is in the workspace's own .git: branch `overlay`, refs under refs/overlay/, files under .git/overlay/.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import IO, Callable

from .backup import how_to_restore
from .build import read_settings
from .errors import FixTheCommand, SaveYourWork, TryAgain
from .gitrepo import Repo, decode
from .gitrun import execute, isolated, quoted
from .journal import Head, Journal, read_journal, write_file
from .recover import read_head
from .report import how_to_call
from .sources import CLONING, is_free, is_locked, take_lock
from .tempfolder import temporary_folder

BRANCH = "refs/heads/overlay"
TIP = "refs/overlay/tip"  # the configuration commit that the last apply made
RESULT = "refs/overlay/result"  # the commit whose tree is locked
BASE = "refs/overlay/base"
PREVIOUS = "refs/overlay/previous"  # what was checked out before

_UNFINISHED = {
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase or am",
}


@dataclass(frozen=True)
class State:
    """What earlier runs left. Commits are None where there is none."""

    head: Head
    tip: str | None
    result: str | None
    base: str | None
    branch: str | None  # where branch `overlay` is, the user's commits on it included
    tree: str | None  # of `result`
    settings: dict[str, str]

    @property
    def applied(self) -> bool:
        return self.head.branch == BRANCH and self.tip is not None


@dataclass(frozen=True)
class Workspace:
    folder: Path
    repo: Repo

    @property
    def private(self) -> Path:
        return self.repo.git_dir / "overlay"

    @property
    def interrupted(self) -> bool:
        return (self.private / "journal.json").exists()

    @property
    def lock_file(self) -> Path:
        return self.private / "lock"

    def journal(self) -> Journal | None:
        """What an interrupted run was about. Raises SaveYourWork when that cannot be known."""
        file = self.private / "journal.json"
        try:
            return read_journal(file)
        except ValueError as error:
            git = f"git -C {shlex.quote(str(self.folder))}"
            raise SaveYourWork(
                f"{file} cannot be read, so what an interrupted run left cannot be finished or undone.",
                str(error),
                "Keep everything as it is now, and look:\n"
                f"  {git} stash push --include-untracked\n  {git} status\n"
                f"Then remove that file and run this again; {git} stash pop brings your edits back.",
                how_to_restore(self.repo),
            ) from error

    def fingerprint(self) -> str:
        """Of the inputs of the last apply, and its tip; "" where it is unknown."""
        try:
            return (self.private / "fingerprint").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def note_fingerprint(self, project: str, tip: str) -> None:
        write_file(self.private / "fingerprint", f"{project} {tip}\n".encode())

    def state(self) -> State:
        head = read_head(self.repo)
        names = [f"{ref}^{{commit}}" for ref in (TIP, RESULT, BASE, BRANCH)]
        tip, result, base, branch, tree = self.repo.resolve(*names, f"{RESULT}^{{tree}}")
        message = self.repo.line("cat-file", "commit", tip).partition("\n\n")[2] if tip else ""
        return State(head, tip, result, base, branch, tree, read_settings(message))

    @contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[IO[bytes]]:
        """One run at a time. The lock dies with its holders, of which a git that outlives us is one."""
        self.private.mkdir(exist_ok=True)
        shutil.rmtree(self.folder / CLONING, ignore_errors=True)  # a clone that was killed at its very end
        with self.lock_file.open("ab") as lock:
            take_lock(lock, f"Another run is at work on {self.folder}.", say)
            yield lock

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder for one run. A killed run's folder is emptied by the next one."""
        folder = self.private / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def refuse_unfinished(self) -> None:
        """Raise SaveYourWork in the middle of the user's own merge or rebase."""
        for name, verb in _UNFINISHED.items():
            if (self.repo.git_dir / name).exists():
                fix = f"Finish or abort it first, e.g. git -C {quote(str(self.folder))} status"
                raise SaveYourWork(f"{self.folder} is in the middle of a {verb}.", fix=fix)

    def refuse_at_work(self) -> None:
        """Raise TryAgain where a run is at work, or was interrupted: what it leaves is not known yet."""
        if is_locked(self.lock_file):
            raise TryAgain(f"A run is at work on {self.folder}.", "What it leaves is not known yet.", "Wait for it.")
        if self.journal():
            what = f"A run in {self.folder} was interrupted, so nothing was checked."
            raise TryAgain(what, fix=f"Let {how_to_call()} finish or undo it.")

    def elsewhere(self, branch: str, here: str | None) -> list[str]:
        """Other worktrees of the same repository where `branch` is checked out; `here` is the branch of this one."""
        if not any((self.repo.git_dir / name).exists() for name in ("worktrees", "commondir")):
            return []
        blocks = self.repo.line("worktree", "list", "--porcelain").split("\n\n")
        holders = [rows[0].partition(" ")[2] for rows in (b.split("\n") for b in blocks) if f"branch {branch}" in rows]
        others = [path for path in holders if Path(path).resolve() != self.folder]
        return others if len(holders) > (here == branch) else []

    def refuse_second_worktree(self, state: State) -> None:
        """Raise SaveYourWork where branch overlay is checked out in another worktree of the same repository."""
        others = self.elsewhere(BRANCH, state.head.branch)
        if others:
            raise SaveYourWork(
                f"Branch overlay is checked out in {others[0]}, another worktree of the same repository.",
                "Worktrees share their branches: moved here, the branch would no longer fit the files there.",
                f"Choose another --workspace, or go back there first: {how_to_call()} revert --workspace"
                f" {quote(others[0])}\nIf that folder is gone: git -C {quote(str(self.folder))} worktree prune",
            )


def open_workspace(folder: Path) -> Workspace | None:
    """The repository whose worktree is exactly `folder`, None where there is nothing yet.

    A repository around `folder` is never used. Raises FixTheCommand for anything that cannot be a workspace.
    """
    folder = folder.resolve()
    if is_free(folder):
        return None
    if not folder.is_dir():
        raise FixTheCommand(f"{folder} is not a folder.", fix="Choose another --workspace.")
    if "\n" in str(folder):
        why = "git reads lists of paths line by line."
        raise FixTheCommand(f"The path {str(folder)!r} holds a line break.", why, "Choose another --workspace.")
    if not os.path.lexists(folder / ".git"):
        raise FixTheCommand(
            f"{folder} holds files but no .git of its own.",
            "It looks like an unpacked ZIP or another folder. Patches are applied to commits, so a clone is needed.",
            "Choose another --workspace, or move this folder away; apply.py clones upstream itself.",
        )
    return Workspace(folder, Repo(_find_git_dir(folder), folder))


def _find_git_dir(folder: Path) -> Path:
    """Ask git, which checks who owns the folder; afterwards it is told the place and asks no more."""
    environment = isolated(GIT_CEILING_DIRECTORIES=str(folder.parent))
    with temporary_folder() as scratch:
        if _owned_by_others(folder):
            # Before git 2.38 safe.directory only counts in a file, so give it one that holds nothing else.
            trusted = _safe_directories(folder)
            config = scratch / "config"
            config.write_bytes(b"[safe]\n" + b"".join(b"directory = %s\n" % quoted(path) for path in trusted))
            environment["GIT_CONFIG_GLOBAL"] = str(config)
        result = execute(["rev-parse", "--absolute-git-dir", "--show-prefix"], folder, environment)
    found, _, prefix = decode(result.output)[:-1].rpartition("\n")
    if result.status == 0 and not prefix:  # a ceiling does not hold where the path has a colon
        return Path(found)
    if _owned_by_others(folder):
        raise FixTheCommand(
            f"{folder} belongs to another user.",
            "git does not work in other people's repositories unless told to.",
            f"If you trust it: git config --global --add safe.directory {quote(str(folder))}",
        )
    raise FixTheCommand(
        f"{folder} has a .git that git cannot read.", result.error.strip(), "Choose another --workspace."
    )


def _owned_by_others(folder: Path) -> bool:
    return any(os.lstat(path).st_uid != os.geteuid() for path in (folder, folder / ".git"))


def _safe_directories(folder: Path) -> list[str]:
    """The user's own list, of system, global and command-line configuration; never the repository's."""
    command = ["config", "--path", "-z", "--get-all", "safe.directory"]
    listed = execute(command, folder, {"GIT_DIR": os.devnull}, keep=True).output
    return [decode(path) for path in listed.split(b"\0")[:-1]]
