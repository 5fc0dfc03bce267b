"""Which commit of upstream is meant: a commit, branch or tag by name, fetched where it is not there yet."""

from __future__ import annotations

import re
from typing import IO, Callable

from ..errors import FixTheCommand
from ..gitrepo import Repo
from ..project import Project
from ..sources import fetch_heads

FETCHED = "refs/overlay/upstream/"
_NAME = re.compile(r"\w[\w./+-]*")
_HEX = re.compile(r"[0-9a-f]{7,40}")


def find_onto(
    repo: Repo, project: Project, name: str | None, tried: tuple[str, ...], lock: IO[bytes], say: Callable[[str], None]
) -> tuple[str, str]:
    """The commit and how to call it. None: the head of upstream's branch, as it is there now.

    A commit id that `repo` has needs no network; names of branches and tags are asked for, since they move.
    Raises ReachTheUpstream, or FixTheCommand for a name that upstream does not have.
    """
    wanted = name or project.upstream.branch
    if not _NAME.fullmatch(wanted):
        raise FixTheCommand(f"{wanted!r} is not the name of a commit, branch or tag of upstream.")
    if _HEX.fullmatch(wanted):
        commit = _resolve(repo, wanted)
        if commit:
            return commit, _shown(repo, wanted, commit)
    fetch_heads(repo, tried, wanted, FETCHED, lock, say)
    for candidate in (f"{FETCHED}asked", f"{FETCHED}{wanted}", f"refs/remotes/origin/{wanted}", wanted):
        commit = _resolve(repo, candidate)
        if commit:
            return commit, _shown(repo, wanted, commit)
    branches = repo.line("for-each-ref", f"--format=%(refname:lstrip={FETCHED.count('/')})", FETCHED).split()
    what = f"Upstream has no commit, branch or tag {wanted}."
    raise FixTheCommand(what, f"Branches: {', '.join(branches) or 'none'}.", "Write a commit's full id.")


def _resolve(repo: Repo, name: str) -> str | None:
    found = repo.status_of("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return found.output.decode().strip() or None


def _shown(repo: Repo, wanted: str, commit: str) -> str:
    """E.g. "main at 3f1b2c9d0e1f (2024-09-02)"."""
    date = repo.line("log", "-1", "--format=%cs", commit)
    return f"{commit[:12]} ({date})" if commit.startswith(wanted) else f"{wanted} at {commit[:12]} ({date})"
