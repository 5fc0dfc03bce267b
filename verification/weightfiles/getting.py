"""Fetch what is missing or wrong, without ever mixing two models and without losing what somebody may want.

A wrong file that is in the way is renamed to NAME.replaced; only pages, pointers and empty files are deleted. The
beginning of a published file, whoever fetched it, is continued. A folder comes from one repository as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from overlaykit.errors import TryAgain
from verification.download.fetch import Fetched, Patience, Wanted, fetch
from verification.download.part import appeared, free_name
from verification.download.progress import Quiet
from verification.download.sums import sha256_of
from verification.present import WHOLE_OR_INDEX
from verification.report import Outcome
from verification.weightfiles.facts import Entry, FileFacts
from verification.weightfiles.files import Finding
from verification.weightfiles.folder import SHARD, safe_names
from verification.weightfiles.pins import Pin, Pins
from verification.weightfiles.recognise import recognise

WORTHLESS = ("empty", "lfs-pointer", "drive-page", "web-page")
SPOILT = (*WORTHLESS, "truncated", "damaged", "archive")  # no file of another model: to be replaced, file by file


class Getter:
    """Fetches for one run. `sums`: of what it fetched; `troubles`: what it could not, one text each."""

    def __init__(self, show: Quiet, patience: Patience | None = None) -> None:
        self.show, self.patience = show, patience
        self.sums: dict[Path, str] = {}
        self.troubles: list[str] = []

    def get(self, entry: Entry, path: Path, findings: Sequence[Finding]) -> None:
        """Whatever of `findings`, the lines of this key, can be mended by fetching."""
        bad = [found for found in findings if found.outcome in (Outcome.NOT_RUN, Outcome.FAILED)]
        if not bad:
            return
        try:
            refuse_to_replace(bad)
            if entry.folder:
                self._folder(entry, path, findings)
            elif entry.file.urls:
                set_aside(bad[0], entry.file, self.show)
                self._fetch(entry.file, path, entry.file.urls)
        except TryAgain as trouble:
            self.troubles.append(str(trouble))
        except BrokenPipeError:  # nobody reads what this says: not about a file
            raise
        except OSError as error:
            what = f"{path} could not be written: {error.strerror} ({error.filename})."
            self.troubles.append(f"{what}\nGive yourself the right to, or name another folder with --model-path.")

    def _fetch(self, facts: FileFacts, path: Path, urls: tuple[str, ...]) -> Fetched:
        def trouble(part: Path) -> str:
            found = recognise(part, path.name)
            return f"what it sends is not {path.name}: {found.what}" if found else ""

        done = fetch(Wanted(path, urls, facts.bytes, facts.sha256, trouble), self.show, self.patience)
        self.show.say(f"{path} is here: {done.bytes:,} bytes, sha256 {done.sha256}")
        self.sums[path] = done.sha256
        return done

    def _folder(self, entry: Entry, folder: Path, findings: Sequence[Finding]) -> None:
        other = next((f for f in findings if f.outcome is Outcome.FAILED and f.kind not in SPOILT), None)
        if other:
            raise TryAgain(f"Nothing was fetched into {folder}.", f"{other.path.name}: {other.what}.", other.fix)
        pins = Pins(folder)
        for found in findings:
            if found.outcome is Outcome.FAILED:
                pin = pins.pins.get(found.path.name)
                if pin and sha256_of(found.path) == pin.sha256:  # it came like that: its sum is not one to ask for
                    pins.drop(found.path.name)
                set_aside(found, FileFacts(found.path.name), self.show)
        wanted = self._missing(entry, folder)
        if any(facts.name.endswith(SHARD) for facts in wanted):
            refuse_strangers(folder, pins)
        origins = (pins.origin(),) if pins.origin() else entry.repositories
        reasons = []
        for number, repository in enumerate(origins, 1):
            try:
                self._from(repository, entry, folder, wanted[:1], pins)
            except TryAgain as trouble:
                reasons.append(trouble.why)
                if number == len(origins):
                    raise TryAgain(trouble.what, "\n".join(reasons), trouble.fix) from trouble
                continue
            self._from(repository, entry, folder, self._missing(entry, folder), pins)
            return

    def _missing(self, entry: Entry, folder: Path) -> list[FileFacts]:
        """The files that are not there, the index first: it names the shards."""
        indexes = [FileFacts(entry.index)] if entry.index and not _has_tensors(folder) else []
        names = [*indexes, *entry.files]
        for index in sorted(folder.glob("*.index.json")):
            names += [FileFacts(name) for name in safe_names(index)]
        return [facts for facts in names if not (folder / facts.name).exists()]

    def _from(self, repository: str, entry: Entry, folder: Path, wanted: Iterable[FileFacts], pins: Pins) -> None:
        for facts in wanted:
            path, pin = folder / facts.name, pins.pins.get(facts.name)
            known = replace(facts, sha256=facts.sha256 or (pin.sha256 if pin else None))
            try:
                done = self._fetch(known, path, (entry.url(repository, facts.name),))
            except TryAgain as trouble:
                if not facts.optional:
                    raise
                self.show.say(f"{facts.name} is not needed and was not fetched: {trouble.why}")
                continue
            if not facts.sha256:
                pins.add({facts.name: Pin(done.sha256, repository, done.announced)})


def _has_tensors(folder: Path) -> bool:
    """An index, or one file that holds everything."""
    names = (*WHOLE_OR_INDEX, *(f"{name}.index.json" for name in WHOLE_OR_INDEX))
    return any((folder / name).exists() for name in names)


def refuse_strangers(folder: Path, pins: Pins) -> None:
    """Raise TryAgain if there are shards that this command did not fetch: new ones may be of another model."""
    known = {name for name, pin in pins.pins.items() if pin.origin}
    strange = sorted(path.name for path in folder.glob("*") if path.name.endswith(SHARD) and path.name not in known)
    if strange:
        raise TryAgain(
            f"Nothing was fetched into {folder}.",
            f"{', '.join(strange)}: nobody knows which download they are of, and shards of two do not fit together.",
            "Finish that download where it was begun, or move these files away and run this again.",
        )


def set_aside(found: Finding, facts: FileFacts, show: Quiet) -> None:
    """Clear the way for a new file. `facts`: what is known of the right one."""
    path = found.path
    if found.outcome is not Outcome.FAILED or not (path.is_file() or path.is_symlink()):
        return
    part = path.with_name(path.name + ".part")
    if found.kind in WORTHLESS:
        now = recognise(path)
        if now is None or now.kind not in WORTHLESS:  # the check may be minutes old
            raise appeared(path)
        path.unlink()
        show.say(f"{path} is gone: it was {found.what}")
    elif found.kind == "truncated" and facts.sha256 and not os.path.lexists(part) and _is_beginning(path, facts):
        part.with_name(part.name + ".json").unlink(missing_ok=True)  # of an earlier part
        os.replace(path, part)
        show.say(f"{path} goes on from where it was cut off")
    else:
        aside = free_name(path)
        os.replace(path, aside)
        show.say(f"{path} is now {aside.name}: it was {found.what}")


def _is_beginning(path: Path, facts: FileFacts) -> bool:
    """Could it be the beginning of the right file, and may it be written to? Not where it has a second name."""
    size = path.stat().st_size
    return size < (facts.bytes or 0) and not path.is_symlink() and path.stat().st_nlink == 1


def refuse_to_replace(bad: Sequence[Finding]) -> None:
    """Raise TryAgain for what only its owner can tell the worth of."""
    for found in bad:
        if os.path.islink(found.path) and not os.path.exists(found.path):
            what = f"It is a link to {os.readlink(found.path)}, which is not there: is that disk mounted?"
            raise TryAgain(f"{found.path} was not fetched.", what, "Mount it, or delete the link, and run this again.")
        if found.kind in ("folder", "unreadable"):
            raise TryAgain(f"{found.path} was not fetched.", f"It is {found.what}.", found.fix)


def bytes_to_get(
    entries: Mapping[str, Entry], paths: Mapping[str, Path], findings: Sequence[Finding]
) -> list[tuple[Path, int]]:
    """Where something is to be fetched, and how many bytes it will have at most."""
    result = []
    for key in dict.fromkeys(f.key for f in findings if f.outcome in (Outcome.NOT_RUN, Outcome.FAILED)):
        entry, path = entries[key], paths[key]
        if entry.folder:
            spoilt = {f.path for f in findings if f.outcome is Outcome.FAILED}
            ends = (*SHARD, *(f"{end}.part" for end in SHARD))
            files = [file for file in path.glob("*") if file.name.endswith(ends) and file not in spoilt]
            here = sum(file.stat().st_size for file in files)
            result.append((path / "folder", max(entry.file.about - here, 0)))
        elif entry.file.urls:
            result.append((path, entry.file.bytes or 0))
    return result
