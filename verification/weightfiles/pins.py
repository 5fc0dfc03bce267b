"""The sums of files that nobody published a sum of, from the first time that they were found good.

They are kept in weights-pins.json beside the files, so that they go where the files go. Where that folder cannot be
written: $XDG_CACHE_HOME/minigpt4-ascend/pins-….json, without that variable ~/.cache/minigpt4-ascend/.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from overlaykit.errors import TryAgain

NAME = "weights-pins.json"


@dataclass(frozen=True)
class Pin:
    sha256: str
    origin: str = ""  # the repository that it was fetched from; "" for a file that was there
    announced: bool = False  # the server announced this sum


class Pins:
    """The pins of one folder. Raises TryAgain where their file is spoilt: to forget them would accept any change."""

    def __init__(self, folder: Path) -> None:
        name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minigpt4-ascend"
        self.places = (folder / NAME, cache / f"pins-{name}.json")
        self.pins: dict[str, Pin] = {}
        self.path = self.places[0]
        for path in reversed(self.places):  # what lies beside the files counts more
            found = _read(path)
            if found:
                self.pins.update(found)
                self.path = path

    def origin(self) -> str:
        """The repository that files of this folder were fetched from, or ""."""
        return next((pin.origin for pin in self.pins.values() if pin.origin), "")

    def add(self, new: Mapping[str, Pin]) -> None:
        """Pin `new` as well, by name."""
        if new:
            self._save({**self.pins, **new})

    def drop(self, name: str) -> None:
        """Forget the pin of a file that was given up."""
        if name in self.pins:
            self._save({other: pin for other, pin in self.pins.items() if other != name})

    def _save(self, pins: dict[str, Pin]) -> None:
        """In the first place that can be written; where none can, the next run sees the files for the first time."""
        for path in self.places:
            try:
                _write(path, pins)
            except OSError:
                continue
            self.pins, self.path = pins, path
            return


def _read(path: Path) -> dict[str, Pin]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    try:
        return {name: Pin(**pin) for name, pin in json.loads(text)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TryAgain(
            f"{path} is not readable ({str(error).splitlines()[0]}).",
            "It keeps the sums of files that nobody published a sum of; without it a changed file is not noticed.",
            "Mend it, or delete it to accept the files as they are.",
        ) from error


def _write(path: Path, pins: Mapping[str, Pin]) -> None:
    about = "SHA-256 of files whose sum nobody published, as first seen. Delete a file's entry to accept another one."
    content = {"about": about, "files": {name: vars(pin) for name, pin in sorted(pins.items())}}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
