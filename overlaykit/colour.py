"""Colour for people at a terminal, none for anything else (https://no-color.org)."""

from __future__ import annotations

import os
import sys

_CODES = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1", "dim": "2"}


def paint(text: str, colour: str) -> str:
    """`text` in a colour, or as it is where standard output is no terminal or NO_COLOR is set."""
    if not is_wanted():
        return text
    return f"\033[{_CODES[colour]}m{text}\033[0m"


def is_wanted() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
