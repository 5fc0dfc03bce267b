"""git's objects made here and written by git in three commands: all blobs, all trees, all commits.

One git process per tree and commit is what a build would spend its time on. So ids are computed here, as git
computes them, and whatever git writes must get the same id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path

from .gitrepo import COMMITTER, Entry, GitFailed, Repo, blob_id, encode

# What git strips from the ends of a name (ident.c, `crud`).
_CRUD = "".join(map(chr, range(33))) + ".,:;<>\"\\'"


@dataclass
class _Folder:
    files: dict[bytes, Entry] = field(default_factory=dict)
    folders: dict[bytes, _Folder] = field(default_factory=dict)
    id: str = ""  # of its tree; empty when something below it changed

    def put(self, folders: Sequence[bytes], name: bytes, entry: Entry | None) -> None:
        self.id = ""
        if folders:
            inner = self.folders.setdefault(folders[0], _Folder())
            inner.put(folders[1:], name, entry)
            if not inner.files and not inner.folders:
                del self.folders[folders[0]]
        elif entry:
            self.files[name] = entry
        else:
            self.files.pop(name, None)


class Objects:
    """Objects of one build. Nothing is written before `write`."""

    def __init__(self, repo: Repo, scratch: Path) -> None:
        self._repo, self._scratch = repo, scratch
        self._blobs: dict[str, bytes] = {}
        self._trees: dict[str, list[tuple[bytes, Entry]]] = {}
        self._commits: dict[str, bytes] = {}
        self._known: dict[str, bytes] = {}  # read from the repository
        self._root = _Folder()

    def start(self, files: Mapping[str, Entry], tree: str) -> None:
        """The files of `tree`, which the repository has, so that nothing of it need be written.

        All is where `tree` is not as git writes trees: other tools left empty folders in some, and modes like 040000.
        """
        if self.tree(files) == tree:
            self._trees.clear()

    def know(self, ids: Sequence[str]) -> None:
        """Read these blobs at once, so that `read` need not ask for each. Those that are absent stay so."""
        self._known.update(self._repo.read_blobs(ids))

    def read(self, blob: str) -> bytes | None:
        """The content of a blob; None where the repository lacks it."""
        if blob not in self._blobs and blob not in self._known:
            self.know([blob])
        return self._blobs.get(blob, self._known.get(blob))

    def blob(self, data: bytes) -> str:
        name = blob_id(data)
        self._blobs[name] = data
        return name

    def tree(self, files: Mapping[str, Entry | None]) -> str:
        """The tree of all files given so far; None removes one. Folders that did not change keep their ids."""
        for path, entry in files.items():
            *folders, name = encode(path).split(b"/")
            self._root.put(folders, name, entry)
        return self._tree(self._root)

    def commit(self, tree: str, parent: str, message: str, author: str, date: str) -> str:
        """A commit whose id depends on nothing but the arguments. `author` is "Name <address>"."""
        name, _, address = author.rpartition(" <")
        when = _date(date)
        lines = (
            f"tree {tree}",
            f"parent {parent}",
            f"author {_clean(name)} <{_clean(address)}> {when}",
            f"committer {COMMITTER} {when}",
        )
        data = "\n".join((*lines, "", message)).encode()
        commit = _id(b"commit", data)
        self._commits[commit] = data
        return commit

    def write(self) -> None:
        """Everything that was made. Raises GitFailed."""
        self._write("blob", self._blobs)
        rows = []
        for entries in self._trees.values():
            for name, entry in entries:
                rows.append(b"%s %s %s\t%s" % (entry.mode.encode(), _kind(entry), entry.id.encode(), name))
            rows.append(b"")
        listed = b"".join(row + b"\0" for row in rows)
        self._require(list(self._trees), self._repo.line("mktree", "-z", "--missing", "--batch", stdin=listed))
        self._write("commit", self._commits)

    def _tree(self, folder: _Folder) -> str:
        if not folder.id:
            entries = [*folder.files.items(), *((n, Entry("40000", self._tree(f))) for n, f in folder.folders.items())]
            entries.sort(key=lambda item: item[0] + b"/" if item[1].mode == "40000" else item[0])
            rows = (b"%s %s\0%s" % (entry.mode.encode(), name, bytes.fromhex(entry.id)) for name, entry in entries)
            folder.id = _id(b"tree", b"".join(rows))
            self._trees[folder.id] = entries
        return folder.id

    def _write(self, kind: str, objects: Mapping[str, bytes]) -> None:
        paths = []
        for number, data in enumerate(objects.values()):
            paths.append(self._scratch / f"{kind}-{number}")
            paths[-1].write_bytes(data)
        if paths:
            stdin = b"".join(encode(str(path)) + b"\n" for path in paths)
            made = self._repo.line("hash-object", "-t", kind, "-w", "--no-filters", "--stdin-paths", stdin=stdin)
            self._require(list(objects), made)

    def _require(self, expected: list[str], made: str) -> None:
        if made.split() != expected:
            raise GitFailed("git gave an object another id than it has to have.", "The disk or the memory is damaged?")


def _id(kind: bytes, data: bytes) -> str:
    return hashlib.sha1(b"%s %d\0" % (kind, len(data)) + data).hexdigest()


def _kind(entry: Entry) -> bytes:
    return {"40000": b"tree", "160000": b"commit"}.get(entry.mode, b"blob")


def _clean(word: str) -> str:
    return "".join(letter for letter in word.strip(_CRUD) if letter not in "\n<>")


def _date(date: str) -> str:
    """ "seconds zone" as it is, or the date of a mail in that form."""
    if re.fullmatch(r"\d+ [+-]\d+", date):
        return date
    when = parsedate_to_datetime(date)
    return f"{int(when.timestamp())} {when:%z}"
