"""Where a file or its lines are in another version of upstream.

git's own rename detection looks into every file of a commit, and fails where a clone lacks pictures. So renames
are looked for among the files that are there, and from commit to commit among files of the same kind only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..enclosing import enclosing
from ..gitrepo import Repo, decode
from ..lines import printable, split_lines

NO_FETCH = {"GIT_NO_LAZY_FETCH": "1"}  # an explanation is not worth a download
_MANY = 1000


@dataclass(frozen=True)
class Place:
    """A line of a file, and the function it stands in."""

    path: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{printable(self.path)}:{self.line}" + (f" in {self.function}" if self.function else "")


def renamed_to(repo: Repo, old: str, new: str) -> Mapping[str, str]:
    """Old path -> new path of the files that were renamed between two trees, and changed by less than half."""
    raw = repo.git("diff-tree", "-r", "-z", "--no-renames", "--diff-filter=AD", "--raw", "--no-abbrev", old, new)
    fields = raw.split(b"\0")
    gone = {decode(path): about.decode().split(" ") for about, path in zip(fields[0::2], fields[1::2])}
    if len({about[4] for about in gone.values()}) < 2:
        return {}
    blobs = [about[3] if about[4] == "A" else about[2] for about in gone.values()]
    present = repo.having(**NO_FETCH).resolve(*blobs)
    absent = [path for path, blob in zip(gone, present) if blob is None]
    # Identical files need no reading; too many absent ones would not fit into a command line.
    options = ["-M100%"] if len(absent) > _MANY else ["-M", f"-l{_MANY}"]
    leave_out = [f":(top,exclude,literal){path}" for path in absent] if len(absent) <= _MANY else []
    text = repo.git(
        "diff-tree", "-r", "-z", "--name-status", "--diff-filter=R", *options, old, new, "--", ":/", *leave_out
    )
    names = [decode(field) for field in text.split(b"\0")]
    return dict(zip(names[1::3], names[2::3]))


def moved_lines(repo: Repo, new: str, lines: Sequence[str], kind: str = ".py", limit: int = 3) -> tuple[Place, ...]:
    """Where the most telling of `lines` stands in `new`, in files named *`kind`; () when nowhere or all over.

    Indentation does not count: code that moves into a function or a class is indented anew.
    """
    for text in telling(lines)[:3]:
        places = _places(repo, new, text, kind, limit)
        if places:
            return places if len(places) <= limit else ()
    return ()


def telling(lines: Iterable[str]) -> list[str]:
    """Lines that can be recognized elsewhere, stripped, the longest first."""
    stripped = dict.fromkeys(line.strip() for line in lines)
    return sorted((text for text in stripped if sum(map(str.isalnum, text)) >= 10), key=len, reverse=True)


def names_of(repo: Repo, old: str, new: str, path: str) -> tuple[str, ...]:
    """`path` and the other names under which the commits between know the file."""
    names = [path]
    pairs = {(before, after) for _, before, after in rename_commits(repo, old, new, path)}
    for name in names:
        names += sorted({other for pair in pairs if name in pair for other in pair} - set(names))
    return tuple(names)


def rename_commits(repo: Repo, old: str, new: str, path: str) -> list[tuple[str, str, str]]:
    """(commit, old path, new path) of the renames between, among files of the same kind as `path`; newest first."""
    suffix = PurePosixPath(path).suffix
    kind = suffix.isascii() and suffix[1:].isalnum()
    scope = f":(top,glob)**/*{suffix}" if kind else ":/"
    same = "-M" if kind else "-M100%"  # identical files are found without reading them
    commits = repo.git("rev-list", "--full-history", f"{old}...{new}", "--", scope)
    options = ("--stdin", "-r", same, "-z", "--diff-filter=R", "--name-status")
    # A file that this clone lacks ends the list early; what was found until then is still true.
    told = repo.status_of("diff-tree", *options, "--", scope, stdin=commits, env=NO_FETCH)
    fields = iter(decode(told.output).split("\0"))
    found, commit = [], ""
    for field in fields:
        if re.fullmatch("[0-9a-f]{40}", field):
            commit = field
        elif re.fullmatch("R[0-9]+", field):
            found.append((commit, next(fields, ""), next(fields, "")))
    return found


def read_file(repo: Repo, commit: str, path: str) -> bytes | None:
    """The file's bytes; None where the commit, or this clone, has no such file."""
    if "\n" in path:  # git's batches have one name a line
        return None
    blob = repo.having(**NO_FETCH).resolve(f"{commit}:{path}")[0]
    return repo.having(**NO_FETCH).read_blobs([blob]).get(blob) if blob else None


def literal(paths: Iterable[str]) -> list[str]:
    """Pathspecs that mean these very paths."""
    return [f":(top,literal){path}" for path in paths]


def files_with(repo: Repo, new: str, text: str, kind: str) -> list[str]:
    """The files of a commit, named *`kind`, that hold this text within a line."""
    options = ("-z", "-l", "-I", "-F", "--full-name", "--no-color")
    told = repo.status_of("grep", *options, "-e", text, new, "--", f":(top,glob)**/*{kind}", env=NO_FETCH)
    return [name.partition(":")[2] for name in decode(told.output).split("\0") if name]


def _places(repo: Repo, new: str, text: str, kind: str, limit: int) -> tuple[Place, ...]:
    """Lines that are `text` but for indentation."""
    places = []
    for name in files_with(repo, new, text, kind)[: limit + 1]:
        lines = split_lines(read_file(repo, new, name) or b"")
        numbers = [number for number, line in enumerate(lines, 1) if line.strip() == text]
        places += [Place(name, number, enclosing(name, lines, number)) for number in numbers]
    return tuple(places)
