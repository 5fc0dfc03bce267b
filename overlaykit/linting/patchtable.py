"""patches/README.md: a table of the patches, made from their trailers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..patchfile import Patch
from .hooks import parse_hooks

_HEAD = """<!-- Generated from the patches: python apply.py lint --fix -->

# Patches

Applied in this order; `series` is the list. What each one is for, where it enters upstream, and when it may go:

| Patch | Why | Hooks | Upstream | Drop when | Test that fails without it |
|---|---|---|---|---|---|
"""
_EMPTY = "—"


def render(series: Iterable[Patch]) -> str:
    """The file's text. A patch without a trailer, or with one that cannot be read, gets what there is."""
    return _HEAD + "".join(f"| {' | '.join(_row(patch))} |\n" for patch in series)


def _row(patch: Patch) -> list[str]:
    def trailer(key: str) -> str:
        return ", ".join(patch.trailers.get(key, ()))

    return [
        f"[{patch.name[:4]}]({patch.name}) {_text(patch.subject)}",
        _text(patch.why),
        _hooks(trailer("Hooks")),
        _text(trailer("Upstream")),
        _text(trailer("Drop-When")),
        _code(trailer("Tested-By")),
    ]


def _hooks(text: str) -> str:
    try:
        hooks = parse_hooks(text)
    except ValueError:
        return _text(text)
    cells = (f"{_code(hook.path)}{': ' if hook.symbols else ''}{_text(', '.join(hook.symbols), '')}" for hook in hooks)
    return "<br>".join(cells) or _EMPTY


def _code(text: str) -> str:
    """A code span of one table cell; Markdown takes `|` for the next cell even there."""
    if not text or "\\" in text:  # a backslash there would free the `|` behind it
        return _text(text)
    fence = "`" * (max(map(len, re.findall(r"`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def _text(text: str, empty: str = _EMPTY) -> str:
    """Words of a message on one line, shown as they are; only code spans and addresses keep their meaning."""
    parts = re.split(r"(`[^`\\]+`|https?://[^\s|<>\\]+)", " ".join(text.split()))
    escaped = (re.sub(r"([\\`*_{}\[\]<>#|~&!$@])", r"\\\1", part) for part in parts[0::2])
    kept = (part.replace("|", "\\|") for part in [*parts[1::2], ""])
    return "".join(one + other for one, other in zip(escaped, kept)) or empty
