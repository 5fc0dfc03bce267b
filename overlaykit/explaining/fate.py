"""What became of a patch on its way to another upstream: which of its lines a maintainer has to look at."""

from __future__ import annotations

from enum import Enum

from ..patchfile import FileChange, Patch


class Fate(Enum):
    """From nothing to look at, to everything; the text is for people."""

    SAME = "same"  # no line differs; at most blob ids, because the file changed far away
    MOVED = "moved"  # the same lines elsewhere: line numbers, hunks or the path differ
    CONTEXT = "context only"  # lines around the change differ, the change does not
    CHANGED = "changed"  # what the patch adds or removes differs
    LANDED = "landed"  # nothing is left of it: upstream has it


def fate(before: Patch, after: Patch | None) -> Fate:
    """Compare a patch with what a rebase made of it; None where nothing was left."""
    if after is None or not after.files:
        return Fate.LANDED
    pairs = _pairs(before, after)
    if pairs is None or any(_change(one) != _change(other) for one, other in pairs):
        return Fate.CHANGED
    if any(_lines(one) != _lines(other) or _modes(one) != _modes(other) for one, other in pairs):
        return Fate.CONTEXT
    if any(_places(one) != _places(other) for one, other in pairs):
        return Fate.MOVED
    return Fate.SAME


def _pairs(before: Patch, after: Patch) -> list[tuple[FileChange, FileChange]] | None:
    """The same file in both, under another name if need be; None where the files do not correspond."""
    left = {change.path: change for change in after.files}
    pairs = [(change, left.pop(change.path)) for change in before.files if change.path in left]
    kept = {change.path for change, _ in pairs}
    for change in (change for change in before.files if change.path not in kept):
        alike = [path for path, other in left.items() if _change(other) == _change(change)]
        if not alike:
            return None
        pairs.append((change, left.pop(alike[0])))
    return None if left else pairs


def _change(change: FileChange) -> tuple[object, ...]:
    """What the patch does to the file, wherever it does it."""
    lines = tuple(line for hunk in change.hunks for line in hunk.lines if line[0] != " ")
    modes = _modes(change) if change.old_mode != change.new_mode else None
    return lines, modes


def _lines(change: FileChange) -> tuple[str, ...]:
    return tuple(line for hunk in change.hunks for line in hunk.lines)


def _modes(change: FileChange) -> tuple[str | None, str | None]:
    return change.old_mode, change.new_mode


def _places(change: FileChange) -> tuple[object, ...]:
    starts = tuple((hunk.old_start, hunk.old_len, hunk.new_start, hunk.new_len) for hunk in change.hunks)
    return change.path, starts
