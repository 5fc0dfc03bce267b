"""A conflict as a maintainer reads it: the patch and what it wants, the place, both sides, who, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .culprits import Culprit


class Kind(Enum):
    """What is in the way; the text is for people."""

    CONTENT = "both changed these lines"
    LINE_ENDS = "upstream converted the line ends"
    DELETED_UPSTREAM = "upstream deleted the file"
    RENAMED_UPSTREAM = "upstream renamed the file"
    DELETED_BY_PATCH = "the patch deletes a file that upstream changed"
    ADDED_BY_BOTH = "upstream has a file of this name too"
    MODE = "upstream changed what kind of file it is"
    LEFT_OUT = "an earlier patch, which was left out, changes these lines"


@dataclass(frozen=True)
class Conflict:
    """One place where a patch does not merge. Excerpts are a few lines each, without line ends."""

    patch: str  # file name
    subject: str
    why: str  # first paragraph of the patch's message
    path: str  # as the index of the stopped rebase has it
    kind: Kind
    line: int  # of the `<<<<<<<` in the file in the worktree; 0: the whole file, or markers already edited
    function: str  # what the lines belong to in upstream's version; empty at top level
    upstream: tuple[str, ...]
    base: tuple[str, ...]
    patched: tuple[str, ...]
    culprits: tuple[Culprit, ...]  # newest first; empty: no upstream commit, see the hint
    hint: str

    @property
    def where(self) -> str:
        at = f"{self.path}:{self.line}" if self.line else self.path
        return f"{at} in {self.function}" if self.function else at

    def __str__(self) -> str:
        about = f"{self.patch} ({self.subject})" + (f"\n  wants: {self.why}" if self.why else "")
        rows = [about, f"  {self.where}: {self.kind.value}"]
        sides = (("upstream", self.upstream), ("before", self.base), ("the patch", self.patched))
        if any(lines for _, lines in sides):
            rows += [f"    {name + ':':<11}{text}" for name, lines in sides for text in lines or ("(nothing)",)]
        rows += [f"  touched by {culprit}" for culprit in self.culprits]
        return "\n".join([*rows, f"  {self.hint}"])
