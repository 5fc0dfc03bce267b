"""patches/series: which patches there are, in the order in which they apply."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import FixTheProjectFile
from .patchfile import Patch, read_patch

_NAME = re.compile(r"[0-9]{4}-[A-Za-z0-9._-]+\.patch")


def read_series(folder: str | Path) -> tuple[Patch, ...]:
    """The patches that `folder`/series lists, one file name per line; `#` starts a comment.

    The list is complete: an unlisted *.patch or a listed one that is missing raises FixTheProjectFile.
    No series and no patches is an empty overlay.
    """
    folder = Path(folder)
    series = folder / "series"
    names = _listed(series) if series.exists() else []
    unlisted = sorted({path.name for path in folder.glob("*.patch")} - set(names))
    if unlisted:
        why = "A patch that is not listed would silently not be applied."
        raise FixTheProjectFile(f"{series} does not list {', '.join(unlisted)}", why, "List it there, or delete it.")
    return tuple(read_patch(folder / name) for name in names)


def _listed(series: Path) -> list[str]:
    try:
        text = series.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FixTheProjectFile(f"{series} cannot be read: {error}") from error
    names: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        where = f"{series}:{number}"
        if not _NAME.fullmatch(name):
            raise FixTheProjectFile(f"{where}: {name!r} is not of the form NNNN-words.patch")
        if names and name <= names[-1]:
            why = "`git am patches/*.patch` must give the same tree, and it applies them in the order of their names."
            raise FixTheProjectFile(f"{where}: {name} does not come after {names[-1]}", why, "Renumber the patches.")
        if not (series.parent / name).is_file():
            raise FixTheProjectFile(f"{where}: {name} does not exist", fix="Restore the file, or remove the line.")
        names.append(name)
    return names
