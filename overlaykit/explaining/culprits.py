"""Which upstream commits did it: touched these lines, renamed or removed this file, moved this code elsewhere.

`old` and `new` are upstream commits. Where `new` is not a descendant of `old` (an older upstream, another branch),
the commits that going from one to the other takes back count too.
`git log -L` runs without rename detection, from rename to rename: see whereabouts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from ..gitrepo import Repo
from ..lines import printable, split_lines
from ..plan import is_ancestor
from .linemap import carry
from .whereabouts import NO_FETCH, literal, names_of, read_file, rename_commits, renamed_to

# Settings and options that could add to the output of git log, or run something.
_LOG = ("log", "-z", "--no-show-signature", "--no-decorate", "--no-notes", "--no-color", "--no-mailmap", "--no-follow")


@dataclass(frozen=True)
class Culprit:
    """One upstream commit."""

    commit: str
    date: str  # YYYY-MM-DD, of the author
    author: str
    subject: str

    def __str__(self) -> str:
        return f"{self.commit[:12]} {self.date} {self.author}: {self.subject}"


def who_touched(
    repo: Repo, old: str, new: str, path: str, first: int, last: int, gone: Sequence[str] = ()
) -> tuple[Culprit, ...]:
    """The upstream commits between that touched lines first..last of `path` as it is in `new`; newest first.

    Lines are 1-based; last == first - 1 is the gap before `first`. Who deleted what stood there counts too: `gone`
    are lines of which the caller knows that they did.
    """
    found = describe(repo, touched_by(repo, old, new, path, first, last) if first <= last else [])
    before = next((name for name, later in renamed_to(repo, old, new).items() if later == path), path)
    there, here = read_file(repo, old, before), read_file(repo, new, path)
    if there is not None and here is not None:
        then, now = split_lines(there), split_lines(here)
        start, end = carry(now, then, first, last)
        if start <= end and not is_ancestor(repo, old, new):
            found += describe(repo, touched_by(repo, new, old, before, start, end))
        # `git log -L` sees no deletion at the edge of the lines, and not every branch. So ask for lines of which one
        # version has more than the other: for those that can be recognized, or else for all.
        lines = dict.fromkeys((*then[start - 1 : end], *now[first - 1 : last], *gone))
        differ = [line for line in lines if then.count(line) != now.count(line)]
        names = (*names_of(repo, old, new, path), before)
        for some in ([line for line in differ if max(then.count(line), now.count(line)) == 1], differ):
            if some and (some is not differ or not found):
                found += who_changed(repo, old, new, names, _counting(some))
    return newest_first(repo, old, new, found)


def who_changed(
    repo: Repo, old: str, new: str, paths: Iterable[str], view: Callable[[bytes | None], Hashable]
) -> tuple[Culprit, ...]:
    """The commits between that changed what `view` sees of a file; newest first.

    `paths` are the names that the file has had; view(None) stands for no file.
    """
    names = [path for path in dict.fromkeys(paths) if "\n" not in path]
    if not names:
        return ()
    # Without --full-history git leaves out a branch whose merge changed nothing: one that took a change back.
    rows = repo.line("rev-list", "--full-history", "--parents", f"{old}...{new}", "--", *literal(names)).split("\n")
    commits = [row.split() for row in rows if row]
    versions = list(dict.fromkeys(commit for row in commits for commit in row))
    wanted = [f"{commit}:{name}" for commit in versions for name in names]
    ids = repo.having(**NO_FETCH).resolve(*wanted)
    blobs = repo.having(**NO_FETCH).read_blobs(blob for blob in ids if blob)
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
        found = repo.line(*_LOG, *options, scope, "--", *literal([path])).strip("\0\n")
        if found:
            return describe(repo, [found])[0]
    return None


def describe(repo: Repo, commits: Iterable[str]) -> tuple[Culprit, ...]:
    """What people want to know of commits, in the same order."""
    ids = list(commits)
    if not ids:
        return ()
    text = repo.line(*_LOG, "-s", "--no-walk=unsorted", "--format=%H%x1f%as%x1f%an%x1f%s", "--stdin", stdin=_rows(ids))
    return tuple(Culprit(*map(printable, row.split("\x1f", 3))) for row in text.split("\0") if row)


def newest_first(repo: Repo, old: str, new: str, culprits: Iterable[Culprit]) -> tuple[Culprit, ...]:
    """Each of the culprits once, in the order of history."""
    found = {culprit.commit: culprit for culprit in culprits}
    if len(found) < 2:
        return tuple(found.values())
    order = repo.line("rev-list", "--topo-order", f"{old}...{new}").split("\n")
    return tuple(found[commit] for commit in order if commit in found)


def touched_by(repo: Repo, stop: str, tip: str, path: str, first: int, last: int) -> list[str]:
    """Ids of the commits in stop..tip that touched lines of `path` as it is in `tip`, from rename to rename."""
    renames = {(commit, after): before for commit, before, after in rename_commits(repo, stop, tip, path)}
    found: list[str] = []
    while True:
        here = read_file(repo, tip, path)
        if here is None:
            return found
        start, end = _clamped(first, last, here.count(b"\n") + (not here.endswith(b"\n")))
        if not end:
            return found
        options = ("--no-renames", "-s", "--format=%H", f"-L{start},{end}:{path}")
        told = repo.status_of(*_LOG, *options, tip, f"^{stop}", env=NO_FETCH)
        if told.status:  # a version of the file is missing from this clone: all commits that touched the file
            told = repo.status_of("rev-list", tip, f"^{stop}", "--", *literal([path]))
        steps = told.output.replace(b"\0", b"\n").decode().split()
        renamed = next((commit for commit in steps if (commit, path) in renames), None)
        if renamed is None:
            return found + steps
        # To `git log` without renames, that commit wrote the whole file. Look what it did to these lines.
        before = renames[renamed, path]
        then, earlier = read_file(repo, renamed, path), read_file(repo, f"{renamed}^", before)
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


def _counting(lines: Sequence[str]) -> Callable[[bytes | None], tuple[int, ...]]:
    def view(data: bytes | None) -> tuple[int, ...]:
        there = Counter(split_lines(data or b""))
        return tuple(there[line] for line in lines)

    return view


def _rows(items: Iterable[str]) -> bytes:
    return "".join(f"{item}\n" for item in items).encode()
