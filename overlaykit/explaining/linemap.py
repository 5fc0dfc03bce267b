"""Where lines of one version of a text are in another version."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_LONG = 20_000  # lines; from there on speed counts more than the lines that occur everywhere


def carry(old: Sequence[str], new: Sequence[str], first: int, last: int) -> tuple[int, int]:
    """The lines of `new` that stand where lines first..last of `old` stood; 1-based.

    last == first - 1 means the gap before `first`; the answer may be such a gap too. What was added at the
    edge of the lines is not part of them, what was added between them is.
    """
    start, end = first - 1, last
    low, high = 0, len(new)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=len(old) > _LONG)
    blocks = matcher.get_matching_blocks()[:-1]
    for block in blocks:
        if block.a < start or (block.a == start < end):
            low = block.b + min(start - block.a, block.size)
    for block in reversed(blocks):
        stop = block.a + block.size
        if stop > end or (stop == end > start):
            high = block.b + max(end - block.a, 0)
    return low + 1, max(low, high)
