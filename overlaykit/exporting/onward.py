"""After an export the workspace's branch moves to the new build, whose files are the ones that are there already."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import IO, Callable

from ..backup import save
from ..carry import exchange, refs_of
from ..gitrepo import Repo
from ..handedits import changed_values
from ..journal import Journal
from ..plan import build_project, how_to_keep
from ..project import Project
from ..report import how_to_call
from ..survey import read_index, survey
from ..workspace import BRANCH, State, Workspace


def move_on(
    workspace: Workspace, state: State, project: Project, scratch: Path, say: Callable[[str], None], lock: IO[bytes]
) -> tuple[str, ...]:
    """Move branch overlay to the build of `project`, if that holds the very files of the user's last commit.

    No file is touched, and the commits are kept as a backup. Returns what there is to say about it.
    """
    repo, head = workspace.repo, state.branch or ""
    (scratch / "after").mkdir()
    built = build_project(repo, project, _settings(repo, project, state), scratch / "after")
    if repo.resolve(f"{head}^{{tree}}") != [built.config.tree]:
        keep = how_to_keep(workspace, BRANCH)
        return (
            "the workspace stays as it is: your commits change values of this machine that cannot be settings. "
            f"To bring it up to date: {keep} && {how_to_call()} apply --force",
        )
    index = read_index(repo)
    found = survey(repo, (), index, frozenset())
    saved = save(repo, (head,), found, index, scratch)
    refs = refs_of(built)
    journal = Journal(head, built.config.id, BRANCH, refs, None, (), saved.refs, project.fingerprint)
    exchange(workspace, journal, found, index, {}, saved, (), say, lock)
    log = f"git -C {quote(str(workspace.folder))} log {saved.refs[-1]}"
    return (f"your commits as they were are kept: {log}",)


def _settings(repo: Repo, project: Project, state: State) -> dict[str, str]:
    """Those of the last apply, and values that the user's commits changed, as an apply would adopt them."""
    settings = {name: value for name, value in state.settings.items() if name in project.rules.names}
    old, new = repo.tree(state.tip or ""), repo.tree(state.branch or "")
    for path in project.rules.files:
        if path in old and path in new and old[path] != new[path]:
            blobs = repo.read_blobs([old[path].id, new[path].id])
            settings.update(changed_values(blobs[old[path].id], blobs[new[path].id], project.rules, path)[0])
    return settings
