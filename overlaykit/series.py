"""patches/series: which patches there are, in the order in which they apply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
    names, problems = examine_series(folder)
    if problems:
        raise problems[0]
    return tuple(read_patch(folder / name) for name in names)


def examine_series(folder: Path) -> tuple[tuple[str, ...], tuple[FixTheProjectFile, ...]]:
    """The listed names of files that exist, and everything that is wrong with the list."""
    series = folder / "series"
    text, problems = "", []
    try:
        text = series.read_text(encoding="utf-8") if series.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        return (), (FixTheProjectFile(f"{series} cannot be read: {error}"),)
    names: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        name = line.partition("#")[0].strip()
        problem = _problem(series, number, name, names) if name else None
        if problem:
            problems.append(problem)
        if name and _NAME.fullmatch(name) and name not in names and (folder / name).is_file():
            names.append(name)
    unlisted = sorted({path.name for path in folder.glob("*.patch")} - set(names))
    if unlisted:
        why = "A patch that is not listed would silently not be applied."
        what = f"{series} does not list {', '.join(unlisted)}"
        problems.append(FixTheProjectFile(what, why, "List it there, or delete it."))
    return tuple(names), tuple(problems)


def _problem(series: Path, number: int, name: str, names: list[str]) -> FixTheProjectFile | None:
    """What is wrong with one line, if anything; `names` precede it."""
    where = f"{series}:{number}"
    if not _NAME.fullmatch(name):
        return FixTheProjectFile(f"{where}: {name!r} is not of the form NNNN-words.patch")
    if names and name <= names[-1]:
        why = "`git am patches/*.patch` must give the same tree, and it applies them in the order of their names."
        return FixTheProjectFile(f"{where}: {name} does not come after {names[-1]}", why, "Renumber the patches.")
    if not (series.parent / name).is_file():
        return FixTheProjectFile(f"{where}: {name} does not exist", fix="Restore the file, or remove the line.")
    return None


def rewritten(old: bytes, renamed: Mapping[str, str | None], names: Sequence[str]) -> bytes:
    """The bytes `old` of a series with these names; comments stay where they are.

    A patch that is gone (None in `renamed`) leaves no line, a new one follows what precedes it.
    """
    lines = []
    for line in old.decode("utf-8").rstrip("\n").split("\n") if old.strip() else ():
        word = _listed(line)
        name = renamed.get(word, word)
        if name is not None:
            lines.append(line.replace(word, name, 1) if word else line)
    known = {_listed(line) for line in lines}
    for name in names:
        if name not in known:
            before = [at for at, line in enumerate(lines) if _listed(line) and _listed(line) < name]
            is_last = all(_listed(line) < name for line in lines)
            lines.insert(len(lines) if is_last else max(before, default=-1) + 1, name)
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _listed(line: str) -> str:
    return line.partition("#")[0].strip()
