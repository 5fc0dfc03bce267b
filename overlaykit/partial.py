"""Partial clones (git clone --filter=blob:none): fetch the pinned files that they left out.

git would do that by itself in the middle of a command; but the commands that build and look run with nobody's
settings, so it would go past the user's proxy, or through what the workspace's own configuration names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import IO, Callable

from .gitrepo import Repo
from .project import Project, Upstream
from .sources import Failure, unreachable
from .transfer import fetch_from, is_partial, last_words

Say = Callable[[str], None]


def fetch_missing(
    repo: Repo, upstream: Upstream, tried: tuple[str, ...], lock: IO[bytes], say: Callable[[str], None]
) -> None:
    """Fetch them, with the user's configuration. Other clones are left alone. Raises ReachTheUpstream."""
    if is_partial(repo):
        fetch_absent(repo, repo, upstream, tried, lock, say)


def fetch_to_replay(
    repo: Repo, worktree: Repo, project: Project, new: str, tried: tuple[str, ...], lock: IO[bytes], say: Say
) -> None:
    """Fetch what a rebase of the patches to `new` reads on both sides: code, YAML, and whatever a patch changes.

    Of the rest, pictures for instance, it is done without those that nobody has.
    """
    touched = {change.path for patch in project.series for change in patch.files}

    def is_needed(path: str) -> bool:
        return path in touched or path.endswith((".py", ".yaml", ".yml"))

    for commit in (project.upstream.commit, new) if is_partial(worktree) else ():
        fetch_absent(repo, worktree, replace(project.upstream, commit=commit), tried, lock, say, is_needed)


def fetch_absent(
    repo: Repo,
    worktree: Repo,
    upstream: Upstream,
    tried: tuple[str, ...],
    lock: IO[bytes],
    say: Say,
    is_needed: Callable[[str], bool] = lambda path: True,
) -> None:
    """Fetch into `repo` the files of the pin that it lacks, less those that `worktree` leaves out.

    Raises ReachTheUpstream when one that `is_needed` cannot be had.
    """
    sparse = worktree.status_of("config", "--type=bool", "--get", "core.sparseCheckout").output.strip() == b"true"
    excluded = tuple(f"{path.strip('/')}/" for path in upstream.exclude if sparse)
    files = {path: entry for path, entry in repo.tree(upstream.commit).items() if entry.mode != "160000"}
    ids = {entry.id for path, entry in files.items() if not f"{path}/".startswith(excluded)}
    failures = []
    for address in tried:
        missing = _missing(repo, ids)
        if not missing:
            return
        say(f"Fetching {len(missing)} files that this partial clone lacks from {address}")
        result = fetch_from(repo, address, *missing, lock=lock, whole=True)
        if not _missing(repo, ids):
            return
        failures.append(Failure(address, last_words(result)))
    if _missing(repo, {entry.id for path, entry in files.items() if entry.id in ids and is_needed(path)}):
        raise unreachable(upstream, failures)
    say(f"Going on without {len(_missing(repo, ids))} files that nobody has: no patch reads them")


def _missing(repo: Repo, ids: Iterable[str]) -> list[str]:
    wanted = sorted(ids)
    return [name for name, found in zip(wanted, repo.resolve(*wanted)) if found is None]
