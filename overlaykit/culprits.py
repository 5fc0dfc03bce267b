"""Which upstream commits did it: touched these lines, renamed or removed this file, moved this code elsewhere.

`old` and `new` are upstream commits. Where `new` is not a descendant of `old` (an older upstream, another branch),
the commits that going from one to the other takes back count too.

git's own rename detection looks into every file of a commit, and fails where a clone lacks pictures. So renames
are looked for among files of the same kind only, and `git log -L` runs without them, from rename to rename.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from .enclosing import enclosing
from .gitrepo import Repo, decode
from .linemap import carry, split_lines

# Settings and options that could add to the output of git log, or run something.
_LOG = ("log", "-z", "--no-show-signature", "--no-decorate", "--no-notes", "--no-color", "--no-mailmap")
_NO_FETCH = {"GIT_NO_LAZY_FETCH": "1"}  # an explanation is not worth a download
_MANY = 1000


@dataclass(frozen=True)
class Culprit:
    """One upstream commit."""

    commit: str
    date: str  # YYYY-MM-DD, of the author
    author: str
    subject: str

    def __str__(self) -> str:
        return f"{self.commit[:12]} {self.date} {self.author}: {self.subject}"


@dataclass(frozen=True)
class Place:
    """A line of a file, and the function it stands in."""

    path: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" + (f" in {self.function}" if self.function else "")


def who_touched(repo: Repo, old: str, new: str, path: str, first: int, last: int) -> tuple[Culprit, ...]:
    """The upstream commits between that touched lines first..last of `path` as it is in `new`; newest first.

    Lines are 1-based; last == first - 1 is the gap before `first`, where lines may have been deleted.
    """
    found = _touched(repo, new, old, path, first, last)
    if _is_ancestor(repo, old, new):
        return describe(repo, found)
    before = next((name for name, later in renamed_to(repo, old, new).items() if later == path), path)
    there, here = _read(repo, old, before), _read(repo, new, path)
    if there is not None and here is not None:
        lines = carry(split_lines(here), split_lines(there), first, last)
        found += [commit for commit in _touched(repo, old, new, before, *lines) if commit not in found]
    return describe(repo, found)


def who_changed(
    repo: Repo, old: str, new: str, paths: Iterable[str], view: Callable[[bytes | None], Hashable]
) -> tuple[Culprit, ...]:
    """The commits between that changed what `view` sees of a file; newest first.

    `paths` are the names that the file has had; view(None) stands for no file.
    """
    names = [path for path in dict.fromkeys(paths) if "\n" not in path]
    if not names:
        return ()
    rows = repo.line("rev-list", "--parents", f"{old}...{new}", "--", *_literal(names)).split("\n")
    commits = [row.split() for row in rows if row]
    versions = list(dict.fromkeys(commit for row in commits for commit in row))
    wanted = [f"{commit}:{name}" for commit in versions for name in names]
    ids = repo.having(**_NO_FETCH).resolve(*wanted)
    blobs = repo.having(**_NO_FETCH).read_blobs(blob for blob in ids if blob)
    views = {blob: view(data) for blob, data in blobs.items()}
    nothing = view(None)
    seen: dict[str, Hashable] = {}
    for number, commit in enumerate(versions):
        here = [blob for blob in ids[number * len(names) :][: len(names)] if blob in views]
        seen[commit] = views[str(here[0])] if here else nothing
    guilty = [row[0] for row in commits if row[1:] and all(seen[row[0]] != seen[parent] for parent in row[1:])]
    return describe(repo, guilty)


def who_removed(repo: Repo, old: str, new: str, path: str) -> Culprit | None:
    """The last commit between that removed `path`, or whose taking back removes it."""
    for scope, letter in ((f"{old}..{new}", "D"), (f"{new}..{old}", "A")):
        options = ("--no-renames", f"--diff-filter={letter}", "-1", "-s", "--format=%H")
        found = repo.line(*_LOG, *options, scope, "--", *_literal([path])).strip("\0\n")
        if found:
            return describe(repo, [found])[0]
    return None


def renamed_to(repo: Repo, old: str, new: str) -> Mapping[str, str]:
    """Old path -> new path of the files that were renamed between two trees, and changed by less than half."""
    raw = repo.git("diff-tree", "-r", "-z", "--no-renames", "--diff-filter=AD", "--raw", "--no-abbrev", old, new)
    fields = raw.split(b"\0")
    gone = {decode(path): about.decode().split(" ") for about, path in zip(fields[0::2], fields[1::2])}
    if len({about[4] for about in gone.values()}) < 2:
        return {}
    blobs = [about[3] if about[4] == "A" else about[2] for about in gone.values()]
    present = repo.having(**_NO_FETCH).resolve(*blobs)
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
    pairs = {(before, after) for _, before, after in _rename_commits(repo, old, new, path)}
    for name in names:
        names += sorted({other for pair in pairs if name in pair for other in pair} - set(names))
    return tuple(names)


def describe(repo: Repo, commits: Iterable[str]) -> tuple[Culprit, ...]:
    """What people want to know of commits, in the same order."""
    ids = list(commits)
    if not ids:
        return ()
    text = repo.line(*_LOG, "-s", "--no-walk=unsorted", "--format=%H%x1f%as%x1f%an%x1f%s", "--stdin", stdin=_rows(ids))
    return tuple(Culprit(*row.split("\x1f", 3)) for row in text.split("\0") if row)


def _touched(repo: Repo, tip: str, stop: str, path: str, first: int, last: int) -> list[str]:
    """Ids of the commits in stop..tip that touched lines of `path` as it is in `tip`, from rename to rename."""
    renames = {(commit, after): before for commit, before, after in _rename_commits(repo, stop, tip, path)}
    found: list[str] = []
    while True:
        here = _read(repo, tip, path)
        if here is None:
            return found
        start, end = _clamped(first, last, here.count(b"\n") + (not here.endswith(b"\n")))
        if not end:
            return found
        options = ("--no-renames", "-s", "--format=%H", f"-L{start},{end}:{path}")
        told = repo.status_of(*_LOG, *options, tip, f"^{stop}", env=_NO_FETCH)
        if told.status:  # a version of the file is missing from this clone: all commits that touched the file
            told = repo.status_of("rev-list", tip, f"^{stop}", "--", *_literal([path]))
        steps = told.output.replace(b"\0", b"\n").decode().split()
        renamed = next((commit for commit in steps if (commit, path) in renames), None)
        if renamed is None:
            return found + steps
        # To `git log` without renames, that commit wrote the whole file. Look what it did to these lines.
        before = renames[renamed, path]
        then, earlier = _read(repo, renamed, path), _read(repo, f"{renamed}^", before)
        if then is None or earlier is None:
            return found + steps
        new_lines, old_lines = split_lines(then), split_lines(earlier)
        first, last = carry(split_lines(here), new_lines, first, last)
        was = carry(new_lines, old_lines, first, last)
        same = new_lines[first - 1 : last] == old_lines[was[0] - 1 : was[1]]
        found += [commit for commit in steps if commit != renamed or not same]
        (first, last), path, tip = was, before, f"{renamed}^"


def _clamped(first: int, last: int, size: int) -> tuple[int, int]:
    """A range that `git log -L` takes; for a gap the lines at its two sides."""
    if last < first:
        first, last = last, first
    return max(1, min(first, size)), min(last, size)


def _rename_commits(repo: Repo, old: str, new: str, path: str) -> list[tuple[str, str, str]]:
    """(commit, old path, new path) of every rename between, among files of the same kind as `path`; newest first."""
    suffix = PurePosixPath(path).suffix
    scope = f":(top,glob)**/*{suffix}" if suffix.isascii() and suffix[1:].isalnum() else f":(top,literal){path}"
    commits = repo.git("rev-list", f"{old}...{new}", "--", scope)
    text = repo.status_of(
        "diff-tree",
        "--stdin",
        "-r",
        "-M",
        "-z",
        "--diff-filter=R",
        "--name-status",
        "--",
        scope,
        stdin=commits,
        env=_NO_FETCH,
    )
    fields = iter(decode(text.output).split("\0"))
    found, commit = [], ""
    for field in fields:
        if re.fullmatch("[0-9a-f]{40}", field):
            commit = field
        elif field:
            found.append((commit, next(fields), next(fields)))
    return found


def _places(repo: Repo, new: str, text: str, kind: str, limit: int) -> tuple[Place, ...]:
    """Lines that are `text` but for indentation; () when there are files without end of them."""
    options = ("-z", "-l", "-I", "-F", "--full-name", "--no-color")
    found = repo.status_of("grep", *options, "-e", text, new, "--", f":(top,glob)**/*{kind}", env=_NO_FETCH)
    names = [name.partition(":")[2] for name in decode(found.output).split("\0") if name]
    places = []
    for name in names[: limit + 1]:
        lines = split_lines(_read(repo, new, name) or b"")
        for number, line in enumerate(lines, 1):
            if line.strip() == text:
                places.append(Place(name, number, enclosing(name, lines, number)))
    return tuple(places)


def _read(repo: Repo, commit: str, path: str) -> bytes | None:
    if "\n" in path:  # git's batches have one name a line
        return None
    blob = repo.having(**_NO_FETCH).resolve(f"{commit}:{path}")[0]
    return repo.having(**_NO_FETCH).read_blobs([blob]).get(blob) if blob else None


def _is_ancestor(repo: Repo, old: str, new: str) -> bool:
    return repo.status_of("merge-base", "--is-ancestor", old, new).status == 0


def _literal(paths: Iterable[str]) -> list[str]:
    return [f":(top,literal){path}" for path in paths]


def _rows(items: Iterable[str]) -> bytes:
    return "".join(f"{item}\n" for item in items).encode()
