"""Real patch files for the tests: two versions of a small tree, committed and exported by git itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

CLEAN = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada Lovelace",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_AUTHOR_DATE": "2024-09-02T10:00:00+0800",
    "GIT_COMMITTER_NAME": "Committer",
    "GIT_COMMITTER_EMAIL": "committer@example.org",
    "GIT_COMMITTER_DATE": "2024-09-03T10:00:00+0000",
}
EXPORT = ("format-patch", "--stdout", "--full-index", "--no-renames", "-1")
MESSAGE = "Change a line\n\nBecause it must.\n\nTested-By: tests/test_it.py\n"


def git(folder: Path, *args: str, stdin: bytes = b"", **env: str) -> bytes:
    command = ["git", "-C", str(folder), *args]
    done = subprocess.run(command, input=stdin, capture_output=True, env={**CLEAN, **env})
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make `files` the whole content of the repository's worktree and index."""
    git(folder, "rm", "-rfq", "--ignore-unmatch", ".")
    git(folder, "clean", "-fdxq")
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    git(folder, "add", "-A")


def make_repo(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A repository with one commit."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "-b", "main")
    write_tree(folder, files)
    git(folder, "commit", "-q", "--allow-empty", "-m", "base")
    return folder


def make_patch(
    folder: Path,
    old: Mapping[str, bytes],
    new: Mapping[str, bytes],
    message: str = MESSAGE,
    *options: str,
    **env: str,
) -> bytes:
    """The patch that turns `old` into `new`; `folder` becomes a repository whose HEAD is the commit."""
    make_repo(folder, old)
    write_tree(folder, new)
    git(folder, "commit", "-q", "--allow-empty", "--cleanup=verbatim", "-F", "-", stdin=message.encode(), **env)
    return git(folder, *EXPORT, *options)
