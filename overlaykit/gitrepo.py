"""A repository, for building and for looking: plumbing commands in batches, never one per file.

A user's configuration must not change what we build, so these commands run isolated (gitrun), and git does not see
the settings and hooks of the repository itself (gitwall). Clone and fetch, in sources, keep the user's
configuration: there it holds proxies, mirrors (`insteadOf`) and credentials.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from .errors import FixTheCommand, OverlayError
from .gitrun import GitResult, execute, isolated
from .gitwall import common_dir

NO_BLOB = "0" * 40
AUTHOR = COMMITTER = "overlay <overlay@localhost>"

# Where git's default is not ours; and for the commands that do see the repository's own configuration.
_OVERRIDES = {
    "advice.detachedHead": "false",
    "color.ui": "false",
    "core.attributesFile": os.devnull,
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.ignoreStat": "false",
    "core.precomposeUnicode": "false",
    "core.quotePath": "false",
    "core.safecrlf": "false",
    "core.sparseCheckoutCone": "false",
    "gc.auto": "0",
    "i18n.commitEncoding": "UTF-8",
    "i18n.logOutputEncoding": "UTF-8",
    "index.sparse": "false",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
}

# Commands about the repository's own files. They run no program that the configuration names.
_ASKING_FOR_PLACES = frozenset({"config", "init", "worktree", "--git-path", "--git-common-dir"})


class GitFailed(OverlayError):
    """A git command that should have worked did not: a full disk, missing permissions, a damaged repository."""

    code = 70


@dataclass(frozen=True)
class Entry:
    """One file of a tree: mode as git writes it ("100644"), blob id."""

    mode: str
    id: str


@dataclass(frozen=True)
class Repo:
    """A repository at a known place: `git_dir` and `worktree` are given to git, which never searches for them."""

    git_dir: Path
    worktree: Path | None = None
    variables: tuple[tuple[str, str], ...] = ()  # e.g. GIT_INDEX_FILE of a private index

    def having(self, **variables: str) -> Repo:
        """The same repository with more variables in git's environment."""
        return replace(self, variables=(*self.variables, *variables.items()))

    def place(self) -> dict[str, str]:
        """Variables that tell git where the repository is, but hide its settings and hooks (gitwall)."""
        place = {"GIT_DIR": str(self.git_dir)}
        if self.worktree:
            place["GIT_WORK_TREE"] = str(self.worktree)
        shown = common_dir(self.git_dir)
        return {**place, "GIT_COMMON_DIR": str(shown)} if shown else place

    def status_of(self, *args: str, stdin: bytes | IO[bytes] = b"", env: Mapping[str, str] = {}) -> GitResult:
        """Run git isolated; for callers that look at the exit status themselves."""
        options = [word for key, value in _OVERRIDES.items() for word in ("-c", f"{key}={value}")]
        place = self.place()
        if _verb(args) in _ASKING_FOR_PLACES or _ASKING_FOR_PLACES.intersection(args):
            place.pop("GIT_COMMON_DIR", None)
        environment = isolated(**place, **dict(self.variables), **env)
        return execute([*options, *args], self.worktree or self.git_dir, environment, stdin)

    def git(self, *args: str, stdin: bytes | IO[bytes] = b"", env: Mapping[str, str] = {}) -> bytes:
        """Run git isolated and return its output. Raises GitFailed."""
        result = self.status_of(*args, stdin=stdin, env=env)
        if result.status:
            raise GitFailed(f"git {_verb(args)} failed in {self.worktree or self.git_dir}", result.error.strip())
        return result.output

    def as_the_user(self, *args: str, stdin: bytes = b"") -> GitResult:
        """Run git in this repository with the user's own configuration."""
        place = {"GIT_DIR": str(self.git_dir), "GIT_WORK_TREE": str(self.worktree), "GIT_OPTIONAL_LOCKS": "0"}
        return execute(args, self.worktree or self.git_dir, place, stdin, keep=True)

    def line_ends_of_the_user(self) -> list[str]:
        """Options for git that convert line ends as the user's git does, and take nothing else from it."""
        asked = self.as_the_user("config", "-z", "--get-regexp", r"^core\.(autocrlf|eol)$").output
        pairs = [row.decode().split("\n", 1) for row in asked.split(b"\0")[:-1]]
        return [word for pair in pairs for word in ("-c", "=".join(pair))]

    def line(self, *args: str, stdin: bytes | IO[bytes] = b"", env: Mapping[str, str] = {}) -> str:
        return decode(self.git(*args, stdin=stdin, env=env)).rstrip("\n")

    def resolve(self, *names: str) -> list[str | None]:
        """Ids of full names (`refs/…`, `HEAD`, `<id>^{commit}`), None where there is no such object."""
        answer = self.line("cat-file", "--batch-check=%(objectname)", stdin=_lines(names))
        return [None if line.endswith(" missing") else line for line in answer.split("\n")]

    def has_whole(self, commit: str) -> bool:
        """True when `commit` is here with all that it needs. What a broken transfer left can hold it and lack files."""
        found, base = self.resolve(f"{commit}^{{commit}}", "refs/overlay/base^{commit}")
        if found is None or found == base:
            return found is not None
        # What git has checked, it has put below a ref: there is nothing to look at then.
        return not self.status_of("rev-list", "--objects", "--quiet", commit, "--not", "--all").status

    def tree(self, treeish: str) -> dict[str, Entry]:
        """Every file of a tree by path."""
        return _parse_tree(self.git("ls-tree", "-r", "-z", "--full-tree", treeish))

    def read_blobs(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Contents by id; ids that the repository lacks are left out (mirrors and partial clones may lack some)."""
        wanted = list(dict.fromkeys(ids))
        out = self.git("cat-file", "--batch", stdin=_lines(wanted)) if wanted else b""
        blobs: dict[str, bytes] = {}
        at = 0
        for name in wanted:
            end = out.index(b"\n", at)
            fields = out[at:end].split(b" ")
            at = end + 1
            if len(fields) == 3:
                size = int(fields[2])
                blobs[name] = out[at : at + size]
                at += size + 1
        return blobs

    def write_files(self, paths: Sequence[Path]) -> list[str]:
        """Store the bytes of files as they are, without filters; their blob ids in the same order."""
        if not paths:
            return []
        for path in paths:
            if "\n" in str(path):
                raise FixTheCommand(f"A path holds a line break: {str(path)!r}", fix="Rename the file or folder.")
        stdin = _lines(str(path) for path in paths)
        return self.line("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=stdin).split("\n")

    def write_blob(self, data: bytes) -> str:
        return self.line("hash-object", "-w", "--stdin", stdin=data)

    def update_index(self, entries: Mapping[str, Entry | None]) -> None:
        """Set or remove (None) index entries; touches the index only, never the worktree."""
        rows = [
            b"%s %s\t%s\0" % (e.mode.encode(), e.id.encode(), encode(path))
            for path, entry in entries.items()
            for e in (entry or Entry("0", NO_BLOB),)
        ]
        if rows:
            self.git("update-index", "-z", "--index-info", stdin=b"".join(rows))

    def write_tree(self) -> str:
        return self.line("write-tree", "--missing-ok")

    def commit(self, tree: str, parents: Sequence[str], message: str, author: str, date: str) -> str:
        """A commit whose id depends on nothing but the arguments. `author` is "Name <address>"."""
        name, _, address = author.rpartition(" <")
        env = {
            "GIT_AUTHOR_NAME": name,
            "GIT_AUTHOR_EMAIL": address.rstrip(">"),
            "GIT_AUTHOR_DATE": date,
            "GIT_COMMITTER_NAME": "overlay",
            "GIT_COMMITTER_EMAIL": "overlay@localhost",
            "GIT_COMMITTER_DATE": date,
        }
        options = [word for parent in parents for word in ("-p", parent)]
        return self.line("commit-tree", tree, *options, stdin=message.encode(), env=env)

    def update_refs(self, refs: Mapping[str, str | None]) -> None:
        """Set or delete (None) refs, all or none."""
        rows = [f"update {ref} {new}\n" if new else f"delete {ref}\n" for ref, new in refs.items()]
        self.git("update-ref", "--stdin", stdin="".join(rows).encode(), env=WHO)


# Who moves refs: the reflog wants a name, and the user's configuration, which may hold one, is not read.
WHO = {"GIT_COMMITTER_NAME": "overlay", "GIT_COMMITTER_EMAIL": "overlay@localhost"}


def _verb(args: Sequence[str]) -> str:
    return next(word for word in args if word != "-c" and "=" not in word)


def blob_id(data: bytes) -> str:
    """The id git gives to a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def encode(path: str) -> bytes:
    return os.fsencode(path)


def decode(path: bytes) -> str:
    """A path from git as Python names it on disk, so that `worktree / path` works in any locale."""
    return os.fsdecode(path)


def on_disk(path: str) -> str:
    """A path that a patch or a YAML file spells, in the same form."""
    return decode(path.encode("utf-8", "surrogateescape"))


def _lines(items: Iterable[str]) -> bytes:
    return b"".join(encode(item) + b"\n" for item in items)


def _parse_tree(listing: bytes) -> dict[str, Entry]:
    files: dict[str, Entry] = {}
    for row in listing.split(b"\0")[:-1]:
        about, _, path = row.partition(b"\t")
        mode, _, name = about.decode().split(" ")
        files[decode(path)] = Entry(mode, name)
    return files
