"""One `@@` block of a patch, and what it makes of a file."""

from __future__ import annotations

from dataclasses import dataclass

from .lines import split_lines


@dataclass(frozen=True)
class Hunk:
    """One `@@` block. Starts are 1-based, as in the header; a start is one less when its length is 0."""

    line: int  # of the `@@` line in the patch file
    old_start: int
    old_len: int
    new_start: int
    new_len: int
    section: str  # what git wrote after the second @@
    lines: tuple[str, ...]  # with ' ', '-' or '+' in front; the newline is missing where the file ends without one

    @property
    def header(self) -> str:
        counts = f"@@ -{self.old_start},{self.old_len} +{self.new_start},{self.new_len} @@"
        return f"{counts} {self.section}".rstrip()

    @property
    def old_lines(self) -> tuple[str, ...]:
        return tuple(line[1:] for line in self.lines if line[0] in " -")

    @property
    def new_lines(self) -> tuple[str, ...]:
        return tuple(line[1:] for line in self.lines if line[0] in " +")

    @property
    def context_before(self) -> int:
        """How many lines of context precede the first change."""
        return next((at for at, line in enumerate(self.lines) if line[0] != " "), len(self.lines))


def apply_hunks(data: bytes, hunks: tuple[Hunk, ...]) -> bytes | None:
    """`data` with the hunks at the very lines that they name; None where other lines stand there.

    As for git, a hunk without context at its end is one at the end of the file.
    """
    lines = split_lines(data)
    length = len(lines)
    for hunk in reversed(hunks):
        start = hunk.old_start - (hunk.old_len > 0)
        end = start + hunk.old_len
        if tuple(lines[start:end]) != hunk.old_lines or (hunk.lines[-1][0] != " " and end != length):
            return None
        lines[start:end] = hunk.new_lines
    return "".join(lines).encode("utf-8", "surrogateescape")
