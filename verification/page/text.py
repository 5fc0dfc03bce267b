"""Text that can be shown: an answer of a model may hold any character, and a path names its user."""

from __future__ import annotations

import contextlib
import unicodedata
from pathlib import Path

# They turn the direction of what follows, or cannot be seen: with them a text can look like another one.
_MISLEADING = {
    *"\u200e\u200f\u061c\u2028\u2029\ufeff",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
}


def visible(text: str) -> str:
    r"""The text with every control character as its escape (\x08), except the line break and the tab.

    So it can be written as UTF-8 and as HTML: half of a surrogate pair and the non-characters are escaped too.
    """
    return "".join(_escape(character) if _hidden(character) else character for character in text)


def _hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    nothing = ord(character) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF
    return nothing or character in _MISLEADING or unicodedata.category(character) in ("Cc", "Cs")


def _escape(character: str) -> str:
    return (
        character.encode("unicode_escape").decode("ascii")
        if not character.isprintable()
        else f"\\u{ord(character):04x}"
    )


def shown(text: str) -> str:
    """As visible, and the user's home folder as ~: a report is sent to others."""
    with contextlib.suppress(RuntimeError):  # a user without a home
        home = str(Path.home())
        if len(Path(home).parts) > 1:
            text = text.replace(f"{home}/", "~/").replace(f"{home}\\", "~\\")
    return visible(text)


def power(exponent: float) -> str:
    """10 to a whole exponent, as a label: 10⁻⁵."""
    digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}"


def compact(count: int) -> str:
    """A count in at most four characters: 950, 1.2k, 35k, 2.1M."""
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= size:
            value = count / size
            return f"{value:.1f}{letter}" if value < 9.95 else f"{value:.0f}{letter}"
    return str(count)


def duration(seconds: float) -> str:
    """A time with three digits: 1.52 s, 84.1 ms, 320 µs."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            value = seconds / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
