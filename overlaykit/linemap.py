"""Where lines of one version of a text are in another version."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def split_lines(data: bytes) -> list[str]:
    """Lines with their line ends, as git counts them; bytes that are not UTF-8 become surrogates."""
    return re.findall(r"[^\n]*\n|[^\n]+", data.decode("utf-8", "surrogateescape"))


def carry(old: Sequence[str], new: Sequence[str], first: int, last: int) -> tuple[int, int]:
    """The lines of `new` that stand where lines first..last of `old` stood; 1-based.

    last == first - 1 means the gap before `first`; the answer may be such a gap too. What was added at the
    edge of the lines is not part of them, what was added between them is.
    """
    start, end = first - 1, last
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    low, high = 0, len(new)
    for block in blocks:
        inside = block.a <= start < block.a + block.size
        if start < end and inside:
            low = block.b + start - block.a  # the first line is still there
        elif block.a + block.size <= start:
            low = block.b + block.size
        elif start == end and block.a < start < block.a + block.size:
            low = block.b + start - block.a
    for block in reversed(blocks):
        inside = block.a < end <= block.a + block.size
        if start < end and inside:
            high = block.b + end - block.a
        elif block.size and block.a >= end:
            high = block.b
        elif start == end and block.a < end < block.a + block.size:
            high = block.b + end - block.a
    return low + 1, max(low, high)
