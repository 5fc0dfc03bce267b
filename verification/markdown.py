"""Generated parts of the READMEs: what stands between two marker comments is rewritten, the rest is not touched."""

from __future__ import annotations

import re
from pathlib import Path

from overlaykit.errors import FixTheProjectFile


def insert(path: Path, name: str, text: str) -> None:
    """Put `text` between `<!-- NAME:begin -->` and `<!-- NAME:end -->`, which must be there once each."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = path.read_text(encoding="utf-8")
    if old.count(begin) != 1 or old.count(end) != 1:
        raise FixTheProjectFile(f"{path} needs the lines {begin} and {end} once each.", "Generated text goes between.")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    path.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", old), encoding="utf-8")
