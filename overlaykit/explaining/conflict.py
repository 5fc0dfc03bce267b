"""Why a rebase stopped, for a maintainer who did not write the patch: what it wants, who is in its way, what to do.

Looks at the index of a stopped `git rebase`: stage 1 is what the patch was made for, stage 2 upstream with the
patches before it, stage 3 what the patch makes of stage 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..enclosing import enclosing
from ..gitrepo import Entry, Repo, decode
from ..lines import printable, split_lines
from ..patchfile import Patch
from . import hints
from .culprits import Culprit, who_changed, who_removed, who_touched
from .linemap import carry
from .regions import Region, find_regions, marker_lines
from .told import Conflict, Kind
from .whereabouts import names_of, read_file, renamed_to

_SHOWN = 8  # lines of an excerpt
_FILES = ("100644", "100755")


@dataclass(frozen=True)
class _Stop:
    """What every explanation of one stop needs."""

    repo: Repo
    patch: Patch
    old: str
    new: str
    renames: Mapping[str, str]
    left_out: Sequence[Patch] = ()

    def conflict(self, path: str, kind: Kind, hint: str, culprits: Sequence[Culprit] = ()) -> Conflict:
        patch = self.patch
        return Conflict(
            patch.name, patch.subject, " ".join(patch.why.split()), path, kind, 0, "", (), (), (), tuple(culprits), hint
        )

    def before(self, path: str) -> str:
        """The name of the file in `old`."""
        return next((name for name, later in self.renames.items() if later == path), path)

    def names(self, path: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*names_of(self.repo, self.old, self.new, path), self.before(path))))

    def read(self, commit: str, path: str) -> bytes | None:
        return read_file(self.repo, commit, path)

    def behind(self, path: str) -> list[str]:
        """The patches that were left out and change this file."""
        names = {path, self.before(path)}
        return [patch.name for patch in self.left_out if names & {change.path for change in patch.files}]


def explain_conflicts(
    repo: Repo, patch: Patch, old: str, new: str, left_out: Sequence[Patch] = ()
) -> tuple[Conflict, ...]:
    """Every place where `patch` does not merge; `repo` is the worktree of a rebase that stopped at it.

    `old` and `new` are the upstream commits (full ids) between which the series is carried; `left_out` are patches
    before this one that were skipped.
    """
    stop = _Stop(repo, patch, old, new, renamed_to(repo, old, new), left_out)
    conflicts: list[Conflict] = []
    for path, stages in sorted(_unmerged(repo).items()):
        conflicts += _explain(stop, path, stages)
    return tuple(conflicts)


def _unmerged(repo: Repo) -> dict[str, dict[int, Entry]]:
    """Path -> stage -> entry."""
    found: dict[str, dict[int, Entry]] = {}
    for row in repo.git("ls-files", "-u", "-z", "--full-name", ":/").split(b"\0")[:-1]:
        about, _, path = row.partition(b"\t")
        mode, blob, stage = about.decode().split(" ")
        found.setdefault(decode(path), {})[int(stage)] = Entry(mode, blob)
    return found


def _explain(stop: _Stop, path: str, stages: Mapping[int, Entry]) -> list[Conflict]:
    blobs = stop.repo.read_blobs(entry.id for entry in stages.values() if entry.mode in _FILES)
    texts = {number: blobs.get(entry.id) for number, entry in stages.items()}
    base, upstream, patched = (texts.get(number) for number in (1, 2, 3))
    behind = stop.behind(path)
    if behind and 1 in stages and stop.read(stop.old, stop.before(path)) is None:  # one of these makes the file
        return [stop.conflict(path, Kind.LEFT_OUT, hints.left_out(behind))]
    if any(entry.mode not in _FILES for entry in stages.values()):
        return [stop.conflict(path, Kind.MODE, hints.KIND_OF_FILE, _changed_file(stop, path))]
    if set(stages) == {1, 3}:
        return _deleted_upstream(stop, path)
    if set(stages) == {1, 2}:
        hint = hints.deleted_by_patch(path, stop.old, stop.new)
        return [stop.conflict(path, Kind.DELETED_BY_PATCH, hint, _changed_file(stop, path))]
    if set(stages) == {2, 3}:
        same = upstream == patched
        culprits = who_changed(stop.repo, stop.old, stop.new, [path], lambda data: data is None)
        return [stop.conflict(path, Kind.ADDED_BY_BOTH, hints.added_by_both(path, same, bool(culprits)), culprits)]
    if base is None or upstream is None or patched is None:
        return [
            stop.conflict(path, Kind.RENAMED_UPSTREAM, hints.renamed(path, stop.renames), _changed_file(stop, path))
        ]
    conflicts = _content(stop, path, base, upstream, patched)
    # Older versions of git merge a file alone by another method than a whole tree, and may see no conflict.
    return conflicts or [stop.conflict(path, Kind.CONTENT, hints.MARKERS, _changed_file(stop, path))]


def _changed_file(stop: _Stop, path: str) -> tuple[Culprit, ...]:
    return who_changed(stop.repo, stop.old, stop.new, stop.names(path), lambda data: data)


# ---- a file that upstream no longer has under this name ----


def _deleted_upstream(stop: _Stop, path: str) -> list[Conflict]:
    """One conflict per hunk: a file may have been split, and its parts live in several places."""
    name = _own_name(stop.patch, path)
    removed = who_removed(stop.repo, stop.old, stop.new, name)
    culprits = [removed] if removed else []
    kind = Kind.RENAMED_UPSTREAM if name in stop.renames else Kind.DELETED_UPSTREAM
    folder = hints.FOLDER if name != path else ""
    text = split_lines(stop.read(stop.old, name) or b"")
    conflicts = []
    for hunk in (hunk for change in stop.patch.files if change.path == name for hunk in change.hunks):
        hint = folder + hints.deleted_upstream(stop.repo, stop.new, (path, name), hunk, stop.renames.get(name))
        function = enclosing(name, text, hunk.old_start + hunk.context_before) if text else ""
        base, patched = _excerpt(hunk.old_lines), _excerpt(hunk.new_lines)
        conflict = stop.conflict(path, kind, hint, culprits)
        conflicts.append(replace(conflict, function=function, base=base, patched=patched))
    return conflicts or [stop.conflict(path, kind, hints.NO_FILE, culprits)]


def _own_name(patch: Patch, path: str) -> str:
    """git puts a file for whose name upstream has a folder beside it, under another name: `NAME~COMMIT`."""
    name = path.rpartition("~")[0]
    return name if any(change.path == name for change in patch.files) else path


# ---- lines that both sides changed ----


def _content(stop: _Stop, path: str, base: bytes, upstream: bytes, patched: bytes) -> list[Conflict]:
    regions = find_regions(stop.repo, upstream, base, patched)
    if regions is None:
        return [stop.conflict(path, Kind.CONTENT, hints.NOT_TEXT, _changed_file(stop, path))]
    file = stop.repo.worktree / path if stop.repo.worktree else None
    text = file.read_bytes() if file and file.is_file() and not file.is_symlink() else b""
    lines = marker_lines(text, regions)
    if _crlf(upstream) != _crlf(base) and regions:
        return _line_ends(stop, path, (base, upstream, patched), lines)
    return [_region(stop, path, (base, upstream), upstream, region, line) for region, line in zip(regions, lines)]


def _region(
    stop: _Stop, path: str, texts: tuple[bytes, bytes], committed: bytes, region: Region, line: int
) -> Conflict:
    """`texts` are what was merged; `committed` is upstream's side with the line ends that it really has."""
    base, upstream = texts
    function = enclosing(path, split_lines(upstream), max(1, region.first))
    culprits = _culprits(stop, path, committed, region)
    hint = hints.content(stop.repo, stop.new, path, base, upstream, region)
    kind, behind = Kind.CONTENT, stop.behind(path)
    if not culprits and behind:
        kind, hint = Kind.LEFT_OUT, hints.left_out(behind)
    elif not culprits:
        earlier = hints.earlier_patches(stop.repo, stop.new, path, region.first, region.last)
        culprits = () if earlier else _changed_file(stop, path)
        hint += " " + earlier if earlier else " " + hints.WHOLE_FILE if culprits else ""
    if stop.before(path) != path:
        hint = f"Upstream renamed {stop.before(path)} to {path}. {hint}"
    return replace(
        stop.conflict(path, kind, hint, culprits),
        line=line,
        function=function,
        upstream=_excerpt(region.upstream),
        base=_excerpt(region.base),
        patched=_excerpt(region.patch),
    )


def _culprits(stop: _Stop, path: str, upstream: bytes, region: Region) -> tuple[Culprit, ...]:
    """Who wrote upstream's side, and who removed lines that the patch still expects."""
    here = stop.read(stop.new, path)
    if here is None:
        return ()
    first, last = carry(split_lines(upstream), split_lines(here), region.first, region.last)
    gone = [line for line in region.base if region.base.count(line) > region.upstream.count(line)]
    return who_touched(stop.repo, stop.old, stop.new, path, first, last, gone)


def _line_ends(stop: _Stop, path: str, texts: tuple[bytes, bytes, bytes], lines: Sequence[int]) -> list[Conflict]:
    """Upstream changed the end of every line: say so once, and show what conflicts besides."""
    culprits = who_changed(stop.repo, stop.old, stop.new, stop.names(path), lambda data: _crlf(data or b""))
    base, upstream, patched = (text.replace(b"\r\n", b"\n") for text in texts)
    regions = find_regions(stop.repo, upstream, base, patched) or ()
    hint = hints.line_ends(path, _crlf(texts[1]), bool(regions))
    about = replace(stop.conflict(path, Kind.LINE_ENDS, hint, culprits), line=lines[0])
    return [about, *(_region(stop, path, (base, upstream), texts[1], region, 0) for region in regions)]


def _crlf(data: bytes) -> bool:
    """Whether most lines end with CR LF."""
    return data.count(b"\r\n") * 2 > data.count(b"\n")


def _excerpt(lines: Sequence[str]) -> tuple[str, ...]:
    shown = [printable(text.rstrip("\r\n")) for text in lines]
    return (
        tuple(shown) if len(shown) <= _SHOWN else (*shown[: _SHOWN - 1], f"… and {len(shown) - _SHOWN + 1} more lines")
    )
