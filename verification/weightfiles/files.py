"""One file against what is known of it: there, whole, of the published size and sum; and if not, what it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from verification.download.progress import Quiet
from verification.download.sums import sha256_of
from verification.report import Outcome
from verification.weightfiles.facts import BY_HAND, Entry, FileFacts, Other
from verification.weightfiles.recognise import Trouble, is_old_torch, recognise
from verification.weightfiles.tensors import Shapes, compare, shapes

SYNTHETIC = "synthetic"  # of random numbers: neither size, shapes nor sum is compared


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    key: str
    path: Path
    outcome: Outcome
    kind: str = "ok"  # one word for programs: missing, truncated, other, ...
    what: str = ""
    fix: str = ""
    bytes: int | None = None
    sha256: str | None = None
    told_by: str = ""  # what the sum was compared with, or why it was not


class Sums:
    """The sum of a file, computed once: a download has it already."""

    def __init__(self, show: Quiet | None = None, known: Mapping[Path, str] | None = None) -> None:
        self.show, self._known = show or Quiet(), dict(known or {})

    def of(self, path: Path) -> str:
        if path not in self._known:
            self.show.start(f"sha256 of {path.name}", path.stat().st_size, 0)
            try:
                self._known[path] = sha256_of(path, self.show)
            finally:
                self.show.stop()
        return self._known[path]


def check_file(entry: Entry, path: Path, every: Iterable[Entry], sums: Sums, synthetic: bool) -> Finding:
    """A key that is one file. `every`: all entries, to know a file that lies in another one's place."""
    begun = look(entry, entry.file, path, how_to_get(entry, path))
    if begun.outcome is not Outcome.PASSED:
        return begun
    size = begun.bytes or 0
    if synthetic:
        return Finding(entry.key, path, Outcome.NOTE, SYNTHETIC, bytes=size, told_by=SYNTHETIC)
    if size == entry.file.bytes:
        digest = sums.of(path)
        if digest == entry.file.sha256:
            return Finding(entry.key, path, Outcome.PASSED, bytes=size, sha256=digest, told_by="published")
    else:
        digest = None
    trouble = name_it(entry, path, size, every)
    fix = trouble.fix or how_to_get(entry, path)
    return Finding(entry.key, path, Outcome.FAILED, trouble.kind, trouble.what, fix, size, digest)


def look(entry: Entry, facts: FileFacts, path: Path, get: str) -> Finding:
    """Is it there, and a weight file by its bytes? `get`: how to get it."""
    if not path.exists():
        part = path.with_name(path.name + ".part")
        here = f"; {part.stat().st_size / 1e6:,.1f} MB of it are here" if part.exists() else ""
        what = "a link to nothing" if path.is_symlink() else f"not there{here}"
        outcome = Outcome.NOTE if facts.optional else Outcome.NOT_RUN
        return Finding(entry.key, path, outcome, "missing", what, get)
    if not path.is_file():
        fix = f"Move it away. {get}"
        return Finding(entry.key, path, Outcome.FAILED, "folder", "a folder, where a file should be", fix)
    size = path.stat().st_size
    try:
        trouble = recognise(path)
    except OSError as error:
        fix = f"Give yourself the right to read it, or check the disk. {get}"
        return Finding(entry.key, path, Outcome.NOT_RUN, "unreadable", f"not readable: {error.strerror}", fix, size)
    if trouble is None:
        return Finding(entry.key, path, Outcome.PASSED, bytes=size)
    if trouble.kind == "truncated" and facts.bytes:
        trouble = Trouble(trouble.kind, f"{trouble.what} ({size:,} of {facts.bytes:,} bytes)")
    fix = f"{trouble.fix}. {get}" if trouble.fix else get
    return Finding(entry.key, path, Outcome.FAILED, trouble.kind, trouble.what, fix, size)


def name_it(entry: Entry, path: Path, size: int, every: Iterable[Entry]) -> Trouble:
    """What a file of the wrong size or sum is. By its size first, then by what is inside."""
    known = [other for other in entry.others if other.bytes and other.bytes != entry.file.bytes]
    known += [Other(f"{other.name}, under this name", other.file.bytes) for other in every if other.key != entry.key]
    named = next((other.what for other in known if other.bytes == size), None)
    if named:
        return Trouble("other", f"{named}: {size:,} bytes, not {entry.file.bytes or 0:,}")
    inside = shapes(path)
    if isinstance(inside, Trouble):
        if entry.file.bytes and size < entry.file.bytes and is_old_torch(path):
            return Trouble("truncated", f"cut off: {size:,} of {entry.file.bytes:,} bytes")
        return inside
    return _by_shapes(entry, size, inside)


def _by_shapes(entry: Entry, size: int, inside: Shapes | None) -> Trouble:
    measured = "the right size and the wrong content: damaged on its way, or changed"
    if size != entry.file.bytes:
        measured = f"{size:,} bytes, not {entry.file.bytes or 0:,}"
    if inside is None:
        return Trouble("wrong", f"{measured} (not opened: that takes torch)")
    for other in entry.others:
        right = entry.tensors.get(other.tensor or "") == other.shape
        if other.tensor and not right and inside.get(other.tensor) == other.shape:
            return Trouble("other", f"{other.what} ({other.tensor} is {list(other.shape)}); {measured}")
    wrong = compare(inside, entry.tensors)
    if wrong:
        return Trouble("other", f"another file: {wrong}; {measured}")
    what = "every tensor has the right shape, but it is not the published file (your own training, or damaged)"
    return Trouble("changed", f"{what}: {measured}")


def how_to_get(entry: Entry, path: Path) -> str:
    """The option, or the link where only a person in a browser can fetch it."""
    if entry.file.urls or entry.folder:
        return f"Fetch it with --download --only {entry.key}, or by hand: {entry.source}"
    if entry.source.startswith(BY_HAND):
        return f"By hand: open {entry.source}, confirm the download, and save it as {path}"
    return f"Get it: {entry.source}"
