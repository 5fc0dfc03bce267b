"""Names of files in a tree: the folders above them, and which names other systems take for the same."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath


def folded(path: str) -> str:
    """Equal for names that are one on macOS or Windows: they differ in case, or in how accents are written."""
    return unicodedata.normalize("NFC", path).casefold()


def parents(path: str) -> list[str]:
    """The folders above `path`, the outermost first."""
    return [parent.as_posix() for parent in PurePosixPath(path).parents][-2::-1]
