"""The closest known name to one that does not exist, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The most similar of `known`; empty when nothing is similar enough to be what was meant."""
    matches = difflib.get_close_matches(word, sorted(known), 1, cutoff=0.5)
    return matches[0] if matches else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that names the nearest, or else everything there is."""
    known = sorted(known)
    guess = nearest(word, known)
    return f"Did you mean {guess}?" if guess else f"There is: {', '.join(known) or 'nothing'}."
