"""One git command: the only importer of GitPython. Bytes in and bytes out, in an environment that is known.

GitPython's traps, all met here: it strips the last newline and decodes unless told not to, it puts the values of
variables into a folder's name unless that is a Path, it needs a real file as standard input, it dies at import where
git is missing, and it cannot leave a variable out of the environment.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .errors import FixTheCommand

_ISOLATED = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",  # looking must not rewrite the index
    "GIT_TERMINAL_PROMPT": "0",
}
_as_it_was = dict(os.environ)
try:
    # GitPython runs git when it is imported, and dies where git is missing or a user's configuration is broken.
    os.environ.update(_ISOLATED, GIT_PYTHON_REFRESH="quiet")
    from git.cmd import Git
    from git.exc import GitCommandNotFound
finally:
    for _name in (*_ISOLATED, "GIT_PYTHON_REFRESH"):
        os.environ.pop(_name, None)
    os.environ.update(_as_it_was)

# What tells git which repository to use (`git rev-parse --local-env-vars`), less the variables that carry settings.
_LOCATING = frozenset(
    f"GIT_{name}"
    for name in (
        *("ALTERNATE_OBJECT_DIRECTORIES", "CEILING_DIRECTORIES", "COMMON_DIR", "CONFIG", "DEFAULT_HASH", "DIR"),
        *("DISCOVERY_ACROSS_FILESYSTEM", "GLOB_PATHSPECS", "GRAFT_FILE", "ICASE_PATHSPECS", "IMPLICIT_WORK_TREE"),
        *("INDEX_FILE", "INTERNAL_SUPER_PREFIX", "LITERAL_PATHSPECS", "NAMESPACE", "NOGLOB_PATHSPECS"),
        *("NO_REPLACE_OBJECTS", "OBJECT_DIRECTORY", "PREFIX", "QUARANTINE_PATH", "REPLACE_REF_BASE"),
        *("SHALLOW_FILE", "WORK_TREE"),
    )
)


def isolated(**more: str) -> dict[str, str]:
    """Environment in which git reads no configuration but the repository's."""
    return {**_ISOLATED, **more}


@dataclass(frozen=True)
class GitResult:
    status: int
    output: bytes
    error: str  # for people to read; never parsed


MINIMUM = (2, 32)  # the first that lets GIT_CONFIG_GLOBAL replace the user's configuration


def quoted(text: str | bytes) -> bytes:
    """As git reads it in configuration files and in lists of object folders; it may hold anything but NUL."""
    return b'"%s"' % os.fsencode(text).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")


def git_version() -> tuple[int, int]:
    """E.g. (2, 39)."""
    return _numbers(_version())


def require_git() -> None:
    """Raise FixTheCommand where git is missing or too old to be isolated from the user's configuration."""
    version = _version()
    if _numbers(version) < MINIMUM:
        why = "Older versions cannot be kept from reading your own git configuration, which could change the result."
        raise FixTheCommand(f"{version} is too old.", why, "Install git 2.32 or newer and run this again.")


def _version() -> str:
    try:
        return execute(["version"], Path("/"), isolated()).output.decode().strip()
    except GitCommandNotFound as error:
        raise FixTheCommand("git was not found.", fix="Install git 2.32 or newer and run this again.") from error


def _numbers(version: str) -> tuple[int, int]:
    numbers = re.search(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def execute(
    args: Sequence[str], cwd: Path, env: Mapping[str, str], stdin: bytes | IO[bytes] = b"", keep: bool = False
) -> GitResult:
    """Run git. `keep`: keep the user's GIT_* variables, all but those that point at a repository."""
    with _without_leaked_variables(keep), tempfile.TemporaryFile() as buffer:
        if isinstance(stdin, bytes):  # GitPython needs a real file
            buffer.write(stdin)
            buffer.seek(0)
        status, output, told = Git(cwd).execute(
            [Git.GIT_PYTHON_GIT_EXECUTABLE or "git", *args],
            istream=buffer.fileno() if isinstance(stdin, bytes) else stdin.fileno(),
            with_extended_output=True,
            with_exceptions=False,
            stdout_as_string=False,
            strip_newline_in_stdout=False,
            env=dict(env),
        )
    return GitResult(status, output or b"", told)


def execute_showing_progress(args: Sequence[str], cwd: Path, env: Mapping[str, str], stdin: IO[bytes]) -> GitResult:
    """Run a clone or fetch with the user's configuration; on a terminal pass git's own progress on as it comes."""
    shown = sys.stderr.isatty()
    if not sys.stdin or not sys.stdin.isatty():
        env = {"GIT_TERMINAL_PROMPT": "0", **env}  # nobody could answer
    with _without_leaked_variables(keep=True):
        process = Git(cwd).execute(
            [Git.GIT_PYTHON_GIT_EXECUTABLE or "git", args[0], "--progress" if shown else "--quiet", *args[1:]],
            istream=stdin.fileno(),
            as_process=True,
            env=dict(env),
        )
    told = b""
    while True:
        chunk = os.read(process.stderr.fileno(), 4096)
        if not chunk:
            break
        told += chunk
        if shown:
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()
    assert process.proc is not None
    return GitResult(process.proc.wait(), b"", told.decode("utf-8", "replace"))


@contextmanager
def _without_leaked_variables(keep: bool) -> Iterator[None]:
    """GitPython adds to os.environ but cannot leave anything out of it, so take it out for the moment of the call."""
    kept = ("GIT_EXEC_PATH", "GIT_PYTHON_")
    leaked = {
        key: value
        for key, value in os.environ.items()
        if (key in _LOCATING if keep else key.startswith("GIT_") and not key.startswith(kept))
    }
    for key in leaked:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(leaked)
