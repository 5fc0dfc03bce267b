"""The places where both sides of a merge changed the same lines, computed anew from the three texts.

The markers that a stopped rebase leaves in a file cannot be told from a user's own line of seven `=`, and the user
may have edited them already. So the same merge is made again here, with markers that occur in none of the texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..gitrepo import Repo
from ..lines import split_lines
from ..tempfolder import temporary_folder
from .linemap import carry

# As `git rebase` merges; older versions of git do not know all of it.
_STYLES = (("--zdiff3", "--diff-algorithm=histogram"), ("--zdiff3",), ("--diff3",))
_USAGE = 129  # exit status of git for an option it does not know
_RUNS = re.compile(rb"^(?:<{7,}|\|{7,}|={7,}|>{7,})", re.MULTILINE)
_FAILED = 128  # below: the number of conflicts


@dataclass(frozen=True)
class Region:
    """One conflict. Lines have their line ends."""

    line: int  # of its first marker in the merged text, 1-based
    first: int  # upstream's lines in upstream's text, 1-based; last == first - 1 where upstream has none
    last: int
    upstream: tuple[str, ...]
    base: tuple[str, ...]
    patch: tuple[str, ...]


def find_regions(repo: Repo, upstream: bytes, base: bytes, patch: bytes) -> tuple[Region, ...] | None:
    """Where merging `patch` into `upstream` conflicts; None for what cannot be merged line by line."""
    size = 1 + max((len(run) for text in (upstream, base, patch) for run in _RUNS.findall(text)), default=6)
    merged = _merge(repo, size, (upstream, base, patch))
    if merged is None:
        return None
    found, taken = _read(split_lines(merged), size)
    whole = split_lines(upstream)
    return tuple(
        Region(line, *carry(taken, whole, start + 1, start + len(sides[0])), *map(tuple, sides))
        for line, start, sides in found
    )


def marker_lines(text: bytes, regions: Sequence[Region]) -> list[int]:
    """The line of each region's first marker in the file that the rebase left; 0 where somebody has edited it since."""
    lines = split_lines(text)
    marked = [number for number, line in enumerate(lines, 1) if line.startswith("<<<<<<< ")]
    found = []
    for region in regions:
        exact = next((at for at in marked if _starts(lines, at, region)), 0)
        marked = [at for at in marked if at > exact]
        found.append(exact)
    return found


def _starts(lines: Sequence[str], at: int, region: Region) -> bool:
    """Whether upstream's side of this very region follows the marker in line `at`."""
    end = at + len(region.upstream)
    return tuple(lines[at:end]) == region.upstream and "".join(lines[end : end + 1]).startswith(("|||||||", "======="))


def _merge(repo: Repo, size: int, texts: Sequence[bytes]) -> bytes | None:
    with temporary_folder() as folder:
        names = [str(folder / name) for name in ("upstream", "base", "patch")]
        for name, text in zip(names, texts):
            Path(name).write_bytes(text)
        for style in _STYLES:
            options = ("-p", "-q", *style, f"--marker-size={size}", "-L", "upstream", "-L", "base", "-L", "patch")
            done = repo.status_of("merge-file", *options, *names)
            if done.status != _USAGE:
                break
    return done.output if done.status < _FAILED else None


def _read(lines: Sequence[str], size: int) -> tuple[list[tuple[int, int, list[list[str]]]], list[str]]:
    """The conflicts as (marker line, index, three sides), and the text with upstream's side taken everywhere."""
    marks = {"<" * size: 0, "|" * size: 1, "=" * size: 2}
    found: list[tuple[int, int, list[list[str]]]] = []
    taken: list[str] = []
    side = None
    for number, line in enumerate(lines, 1):
        mark = line[:size]
        if mark == "<" * size:
            found.append((number, len(taken), [[], [], []]))
        if mark in marks:
            side = marks[mark]
        elif mark == ">" * size:
            side = None
        elif side is None:
            taken.append(line)
        else:
            found[-1][2][side].append(line)
            if side == 0:
                taken.append(line)
    return found, taken
