"""What a patch may do: change plain files inside the tree, with hunks whose positions follow from each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .mail import broken

if TYPE_CHECKING:
    from .hunk import Hunk

MODES = ("100644", "100755")


def check_path(name: str, line: int, path: str) -> None:
    """Refuse paths that leave the tree or reach into .git; git refuses most of them too, but later."""
    for part in path.split("/"):
        # Names that some file system takes for .git: other case, trailing dots or spaces, Windows short name,
        # the streams of Windows.
        if part in ("", ".", "..") or part.lower().partition(":")[0].rstrip(". ") in (".git", "git~1") or "\\" in part:
            raise broken(name, line, f"dangerous path: {path}", "It leaves the tree or reaches into .git.", "")
    if not path.isprintable():
        raise broken(name, line, f"path with unprintable characters: {path!r}")


def check_modes(name: str, line: int, path: str, *modes: str | None) -> None:
    """Refuse symlinks and submodules: git would create a symlink to anywhere."""
    for mode in modes:
        if mode is not None and mode not in MODES:
            kind = {"120000": "a symlink", "160000": "a submodule", "": "no mode"}.get(mode, f"mode {mode}")
            raise broken(name, line, f"{path}: {kind}; only plain files (100644, 100755) may be patched")


def check_order(name: str, hunks: Sequence[Hunk]) -> None:
    """Hunks must not overlap, and the new start must follow from the old one: `git apply` trusts the new start."""
    end, shift = 0, 0
    for hunk in hunks:
        if hunk.context_before == len(hunk.lines):
            raise broken(name, hunk.line, f"{hunk.header}: this hunk changes nothing", "git am would refuse it.")
        old = hunk.old_start + (hunk.old_len == 0)
        new = hunk.new_start + (hunk.new_len == 0)
        if old <= end or new != old + shift:
            expected = f"expected to start behind old line {end} and at new line {old + shift}"
            raise broken(name, hunk.line, f"{hunk.header}: {expected}", "A hunk was edited, moved or dropped by hand.")
        end = old + hunk.old_len - 1
        shift += hunk.new_len - hunk.old_len


def miscounted(lines: Sequence[str]) -> int | None:
    """The index of the first hunk header that counts other lines than are below it."""
    start, old, new = None, 0, 0
    for at, line in enumerate(lines):
        header = re.match(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", line)
        if start is not None and (header or line.startswith("diff --git ") or line == "-- \n"):
            if (old, new) != (0, 0):
                return start
            start = None
        if header:
            start, old, new = at, int(header[1] or 1), int(header[2] or 1)
        elif start is not None:
            old -= line[0] in " -"
            new -= line[0] in " +"
    return start if (old, new) != (0, 0) else None
