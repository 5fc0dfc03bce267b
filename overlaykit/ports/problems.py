"""What check_ports reports, and the two sides that it compares: the patched upstream before and after."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Callable

from ..explaining.culprits import Culprit, who_changed
from ..explaining.whereabouts import names_of
from ..gitrepo import Entry, Repo


class PortKind(Enum):
    """What upstream did to the overlay or to the rules."""

    COLLISION = "upstream has a file of the overlay's name"
    FILE_GONE = "a rule's file is gone"
    KEY_MOVED = "a rule's key is elsewhere"
    KEY_GONE = "a rule's key is gone"
    KEY_UNFIT = "a rule's value cannot be replaced"
    IMPORT_GONE = "a name that overlay code uses is gone"
    TAKEN = "upstream uses a name that a patch takes away"
    SIGNATURE = "what overlay code calls or overrides takes other arguments"


@dataclass(frozen=True)
class PortProblem:
    """`where` is the place in this project: "overlay/x.py:12" or "configs/paths.yaml: llama_model".

    For TAKEN it is a place of upstream's.
    """

    kind: PortKind
    where: str
    what: str
    culprits: tuple[Culprit, ...] = ()  # upstream's commits, newest first
    hint: str = ""


class Files:
    """The files of one tree; contents are read when they are first asked for, those of one suffix together."""

    def __init__(self, repo: Repo, treeish: str) -> None:
        self.entries: Mapping[str, Entry] = repo.tree(treeish)
        self._repo = repo
        self._read: dict[str, dict[str, bytes]] = {}

    def __contains__(self, path: str) -> bool:
        return path in self.entries

    def ending(self, suffix: str) -> dict[str, bytes]:
        """Path -> content of all plain files whose names end so."""
        if suffix not in self._read:
            plain = {path: e.id for path, e in self.entries.items() if path.endswith(suffix) and e.mode[:3] == "100"}
            blobs = self._repo.read_blobs(plain.values())
            self._read[suffix] = {path: blobs[blob] for path, blob in plain.items() if blob in blobs}
        return self._read[suffix]

    def yaml(self) -> dict[str, bytes]:
        return {**self.ending(".yaml"), **self.ending(".yml")}


@dataclass(frozen=True)
class Sides:
    """The patched upstream before and after, and the history between their bases."""

    repo: Repo
    old: Files
    new: Files
    old_base: str
    new_base: str
    renamed: Mapping[str, str]  # path before -> path after

    def who(self, path: str, view: Callable[[bytes | None], Hashable], follow: bool = False) -> tuple[Culprit, ...]:
        """Upstream's commits that changed what `view` sees in a file (None: there is none), newest first.

        `follow`: the file's other names count too.
        """
        paths = names_of(self.repo, self.old_base, self.new_base, path) if follow else (path,)
        return who_changed(self.repo, self.old_base, self.new_base, paths, view)
