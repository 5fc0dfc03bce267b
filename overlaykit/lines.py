"""Text as git sees it, and the lines that a hunk changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .hunk import Hunk


def split_lines(data: bytes) -> list[str]:
    """Lines with their line ends, as git counts them; bytes that are not UTF-8 become surrogates."""
    return re.findall(r"[^\n]*\n|[^\n]+", data.decode("utf-8", "surrogateescape"))


def printable(text: str) -> str:
    """Text of upstream's for a terminal: no control characters, which could do more than show."""
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in readable)


@dataclass(frozen=True)
class ChangedLine:
    at: int  # line of the patch file
    place: int  # line of the old file for a removed line, of the new file for an added one
    added: bool
    text: str  # without the sign


def changed_lines(hunk: Hunk) -> Iterator[ChangedLine]:
    """The removed and added lines, with where they are in the patch and in the file."""
    old, new = hunk.old_start + (hunk.old_len == 0), hunk.new_start + (hunk.new_len == 0)
    at = hunk.line
    for line in hunk.lines:
        at += 1
        if line[0] != " ":
            yield ChangedLine(at, new if line[0] == "+" else old, line[0] == "+", line[1:])
        old += line[0] in " -"
        new += line[0] in " +"
        at += not line.endswith("\n")  # "\ No newline at end of file" follows
