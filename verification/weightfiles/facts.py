"""configs/weights.yaml as values. The one place that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from overlaykit.errors import FixTheProjectFile

HUB = "https://huggingface.co"
BY_HAND = "https://drive.google.com/"
ENCODER = "encoder"  # made, never fetched


@dataclass(frozen=True)
class Other:
    """A file that is often there instead of the right one, and how to know it: the first of these that is set."""

    what: str
    bytes: int | None = None
    sha256: str | None = None
    tensor: str | None = None
    shape: tuple[int, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FileFacts:
    """One file: its size and sum where they are published, and direct addresses."""

    name: str  # inside its folder, or the file's own
    bytes: int | None = None
    sha256: str | None = None
    urls: tuple[str, ...] = ()
    about: int = 0  # bytes, roughly, where the size is not published
    optional: bool = False


@dataclass(frozen=True)
class Entry:
    """What is known of one key. A folder has `repositories`, and `files` beside its shards; else `file` is the file."""

    key: str
    name: str
    source: str
    file: FileFacts
    path: str | None  # below model_path
    repositories: tuple[str, ...] = ()
    index: str | None = None
    files: tuple[FileFacts, ...] = ()
    known_shards: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # every {} filled in
    vocabulary_tensors: tuple[str, ...] = ()
    others: tuple[Other, ...] = ()

    @property
    def folder(self) -> bool:
        return bool(self.repositories)

    def url(self, repository: str, name: str) -> str:
        return f"{HUB}/{repository}/resolve/main/{name}"


def read_facts(path: Path) -> dict[str, Entry]:
    """Every key of configs/weights.yaml. Raises FixTheProjectFile."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {key: _entry(key, facts) for key, facts in content.items()}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise FixTheProjectFile(f"{path} does not describe the weight files.", reason) from error


def _entry(key: str, facts: Mapping[str, Any]) -> Entry:
    urls, about = tuple(facts.get("urls", ())), int(facts.get("about", 0))
    file = FileFacts(facts["name"], facts["bytes"], facts["sha256"], urls, about or facts["bytes"] or 0)
    return Entry(
        key=key,
        name=facts["name"],
        source=facts["source"],
        file=file,
        path=facts.get("path"),
        repositories=tuple(facts.get("repositories", ())),
        index=facts.get("index"),
        files=tuple(FileFacts(name, **(known or {})) for name, known in facts.get("files", {}).items()),
        known_shards=facts.get("known_shards", {}),
        config=facts.get("config", {}),
        tensors=_fill_in(facts.get("tensors", {}), facts.get("layers", 0)),
        vocabulary_tensors=tuple(facts.get("vocabulary_tensors", ())),
        others=tuple(_other(found) for found in facts.get("others", ())),
    )


def _fill_in(tensors: Mapping[str, list[int]], layers: int) -> dict[str, tuple[int, ...]]:
    filled = {}
    for name, shape in tensors.items():
        for number in range(layers) if "{}" in name else (0,):
            filled[name.replace("{}", str(number))] = tuple(shape)
    return filled


def _other(found: Mapping[str, Any]) -> Other:
    facts = {name: value for name, value in found.items() if name not in ("is", "shape")}
    return Other(found["is"], shape=tuple(found.get("shape", ())), **facts)
