"""One fetch with the user's settings; and what a partial clone (git clone --filter) needs to get one right."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from .gitrepo import Repo
from .gitrun import GitResult, execute_showing_progress


def fetch_from(repo: Repo, address: str, *refspecs: str, lock: IO[bytes], whole: bool = False) -> GitResult:
    """With the user's configuration; the repository's own (gitwall) is not theirs alone, and could run programs.

    `whole`: as if nothing were here yet. Else the far end may leave out, or send as a difference from, a file that
    it takes for granted and that a partial clone lacks; so that is what happens there when a fetch fails.
    """
    options = ("--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance")
    words = ["fetch", *options, "--", address, *refspecs]
    place = {**repo.place(), **dict(repo.variables)}
    folder = repo.worktree or repo.git_dir
    if not whole:
        result = execute_showing_progress(words, folder, place, lock)
        if result.status == 0 or not is_partial(repo):
            return result
    return execute_showing_progress(words, folder, {**place, **_telling_nothing()}, lock)


def is_partial(repo: Repo) -> bool:
    """True where files may be missing on purpose: here, or in a repository that this one borrows objects from."""
    objects = Path(repo.place().get("GIT_COMMON_DIR", repo.git_dir), "objects")
    told = repo.line("count-objects", "-v").split("\n") if (objects / "info" / "alternates").exists() else []
    borrowed = [Path(row.partition(": ")[2]) for row in told if row.startswith("alternate: ")]
    return any(any(folder.glob("pack/*.promisor")) for folder in (objects, *borrowed))


def last_words(result: GitResult) -> str:
    lines = [line.strip() for line in result.error.replace("\r", "\n").split("\n") if line.strip()]
    return " ".join(lines[-2:]) or f"git ended with status {result.status}"


def _telling_nothing() -> dict[str, str]:
    """One more setting beside the user's: tell the far end of no commit that is here."""
    number = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    key, value = f"GIT_CONFIG_KEY_{number}", f"GIT_CONFIG_VALUE_{number}"
    return {"GIT_CONFIG_COUNT": str(number + 1), key: "fetch.negotiationAlgorithm", value: "noop"}
