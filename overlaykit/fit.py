"""Why a patch does not fit: what a maintainer reads when upstream has moved on.

`git apply` says "patch does not apply" and a line number. This says which function, which line was expected and
which one is there, where the lines went, and what to do. It only explains; whether a patch applies is git's word,
plus one rule of ours: the file must be the very one the patch was made from, because git tolerates offsets.
"""

from __future__ import annotations

import difflib
import shlex
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .enclosing import enclosing
from .gitrepo import blob_id
from .hunk import Hunk
from .lines import split_lines
from .nearest import nearest
from .patchfile import FileChange, Patch

RECORD_AGAIN = "If the change is still right there, record the patch again on this upstream."


@dataclass(frozen=True)
class Misfit:
    """One reason why a patch does not fit. Lines are shown without their newline."""

    patch: str  # file name
    path: str
    hunk: tuple[int, str] | None  # number within the file from 1, and the `@@` header; None: the whole file
    function: str  # what the hunk's lines belong to now, e.g. "BaseModel.maybe_autocast"; empty at top level
    line: int  # 1-based line of the file as it is now where `expected` should stand; 0: the whole file
    expected: str
    found: str
    hint: str  # what became of the lines, and what to do next

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        inside = f" in {self.function}" if self.function else ""
        number = f", hunk {self.hunk[0]} ({self.hunk[1]})" if self.hunk else ""
        return (
            f"{self.patch}: {where}{inside}{number}\n"
            f"  expected: {self.expected}\n  found:    {self.found}\n  {self.hint}"
        )


@dataclass(frozen=True)
class _Difference:
    line: int  # 1-based, in the file as it is now
    expected: str | None
    found: str | None  # None: behind the last line
    kept: int = 0  # old lines that are still there


def explain(patch: Patch, read_blob: Callable[[str], bytes | None], paths: Sequence[str] = ()) -> tuple[Misfit, ...]:
    """Every reason why `patch` does not fit; empty when each file is exactly the one that the patch was made from.

    read_blob(path) is the file in the tree to which the patch is applied, earlier patches included, or None.
    paths, if given, are all paths of that tree: a missing file is then compared with them.
    """
    misfits: list[Misfit] = []
    for change in patch.files:
        data = read_blob(change.path)
        if change.old_path is None:
            misfits += _explain_new_file(patch, change, data)
        elif data is None:
            misfits.append(_file(patch, change, "this file", "no such file", _where_it_went(change.path, paths)))
        else:
            misfits += _explain_file(patch, change, data)
    return tuple(misfits)


def _file(patch: Patch, change: FileChange, expected: str, found: str, hint: str) -> Misfit:
    return Misfit(patch.name, change.path, None, "", 0, expected, found, hint)


def _explain_new_file(patch: Patch, change: FileChange, data: bytes | None) -> list[Misfit]:
    if data is None:
        return []
    if blob_id(data) == change.new_blob:
        hint = "Upstream has the very same file now: drop it from the patch."
    else:
        hint = "Upstream now has a file of this name: read it, then rename ours or patch theirs."
    return [_file(patch, change, "no such file", f"a file with blob {blob_id(data)}", hint)]


def _where_it_went(path: str, paths: Sequence[str]) -> str:
    history = f"See who removed it and why: git log --follow --diff-filter=DR -- {path}"
    name = path.rpartition("/")[2]
    same_name = [other for other in paths if other.rpartition("/")[2] == name]
    guess = nearest(path, same_name) or (same_name[0] if same_name else nearest(path, paths))
    return f"The most similar path is {guess}. {history}" if guess else history


def _explain_file(patch: Patch, change: FileChange, data: bytes) -> list[Misfit]:
    lines = split_lines(data)
    misfits = []
    for number, hunk in enumerate(change.hunks, 1):
        explained = _explain_hunk(change.path, lines, hunk)
        if explained:
            there, place, hint = explained
            function = enclosing(change.path, lines, place)
            expected, found = _shown(there.expected), _shown(there.found)
            at = (number, hunk.header)
            misfits.append(Misfit(patch.name, change.path, at, function, there.line, expected, found, hint))
    found_blob = blob_id(data)
    if misfits or found_blob == change.old_blob:
        return misfits
    if found_blob == change.new_blob:
        hint = "The file already is what this patch makes of it: the patch has landed upstream, or was applied before."
    else:
        hint = (
            "Every hunk fits, but the file changed elsewhere. Read what changed, for it may change what the patch "
            f"means: git diff {change.old_blob} {found_blob}  Then record the patch again."
        )
    return [_file(patch, change, f"blob {change.old_blob}", f"blob {found_blob}", hint)]


def _explain_hunk(path: str, lines: Sequence[str], hunk: Hunk) -> tuple[_Difference, int, str] | None:
    """The first difference, the line whose function to name, and the hint; None for a hunk that stands in place."""
    old, start = hunk.old_lines, hunk.old_start - 1
    if not old or tuple(lines[start : start + len(old)]) == old:
        return None
    moved = find_lines(lines, old, start)
    if moved is not None:
        hint = f"All its lines are {_distance(moved - start)}, from line {moved + 1}. {RECORD_AGAIN}"
        return _first_difference(lines, old, start), moved + hunk.context_before + 1, hint
    landed = find_lines(lines, hunk.new_lines, hunk.new_start - 1) if hunk.new_lines else None
    if landed is not None:
        hint = f"Upstream already has what this hunk makes of it, from line {landed + 1}: drop the hunk."
        return _first_difference(lines, old, landed), landed + hunk.context_before + 1, hint
    best = _align(lines, old, start)
    if best is None:
        difference = _first_difference(lines, old, start)
        telling = shlex.quote(max(old, key=lambda text: len(text.strip())).strip())
        hint = f"Hardly any of its lines is left. Find the commit that removed them: git log -S {telling} -- {path}"
    else:
        difference = _first_break(lines, old, best)
        hint = _changed_hint(path, lines, old, best, start, difference)
    return difference, difference.line, hint


def _changed_hint(
    path: str, lines: Sequence[str], old: Sequence[str], best: int, start: int, difference: _Difference
) -> str:
    place = f"from line {best + 1}"
    if best != start:
        place = f"{_distance(best - start)}, {place}"
    parts = [f"{difference.kept} of its {len(old)} old lines are still there, {place}."]
    expected, found = difference.expected or "", difference.found or ""
    elsewhere = [at for at, text in enumerate(lines) if text == expected and abs(at - best) > len(old)]
    if expected.split() == found.split():
        parts.append("Only white space differs.")
    elif len(elsewhere) == 1 and expected.strip():
        function = enclosing(path, lines, elsewhere[0] + 1)
        inside = f" in {function}" if function else ""
        parts.append(f"The expected line is now line {elsewhere[0] + 1}{inside}.")
    parts.append(f"Who changed it: git log -L {best + 1},{min(best + len(old), len(lines))}:{path}")
    return " ".join(parts)


def find_lines(lines: Sequence[str], wanted: Sequence[str], near: int) -> int | None:
    """Index of the occurrence of `wanted` that is nearest to index `near`."""
    size = len(wanted)
    starts = [at for at in range(len(lines) - size + 1) if tuple(lines[at : at + size]) == tuple(wanted)]
    return min(starts, key=lambda at: abs(at - near), default=None)


def _align(lines: Sequence[str], old: Sequence[str], near: int) -> int | None:
    """Where most of the old lines still are: each line votes for the offsets at which it occurs, rare lines more."""
    places: dict[str, list[int]] = {}
    for at, text in enumerate(lines):
        places.setdefault(text, []).append(at)
    votes: defaultdict[int, float] = defaultdict(float)
    for index, text in enumerate(old):
        for at in places.get(text, ()) if text.strip() else ():
            votes[at - index] += 1 / len(places[text]) ** 2
    if not votes:
        return None
    best = max(0, max(votes, key=lambda start: (votes[start], -abs(start - near))))
    # A closing bracket that both have in common is no trace of the hunk.
    return best if _first_break(lines, old, best).kept * 4 >= len(old) else None


def _first_difference(lines: Sequence[str], old: Sequence[str], start: int) -> _Difference:
    """Line by line from index `start`."""
    for offset, expected in enumerate(old):
        found = lines[start + offset] if start + offset < len(lines) else None
        if found != expected:
            break
    return _Difference(min(start + offset, len(lines)) + 1, expected, found)


def _first_break(lines: Sequence[str], old: Sequence[str], start: int) -> _Difference:
    """Around index `start`, but lines may have been added or removed in between."""
    low = max(0, start - len(old))
    window = lines[low : start + 2 * len(old)]
    blocks = difflib.SequenceMatcher(None, window, old, autojunk=False).get_matching_blocks()
    first = blocks[0]
    if first.b == 0 and first.size:
        here, there = first.size, first.a + first.size  # adjacent blocks do not exist, so the lines differ from here
    else:
        here, there = 0, max(0, first.a - first.b)  # the first line of the hunk is gone
    found = lines[low + there] if low + there < len(lines) else None
    expected = old[here] if here < len(old) else None
    return _Difference(low + there + 1, expected, found, sum(block.size for block in blocks))


def _distance(lines: int) -> str:
    count = f"{abs(lines)} line{'' if abs(lines) == 1 else 's'}"
    return f"{count} {'lower' if lines > 0 else 'higher'}"


def _shown(text: str | None) -> str:
    if text is None:
        return "(end of the file)"
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return readable[:-1] if readable.endswith("\n") else readable + "  (no newline at the end of the file)"
