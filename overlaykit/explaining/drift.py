"""What a patch changes may still be there word for word, and mean something else, because the code around changed.

For every definition that a patch changes lines of: is it, in the new upstream, still what it was in the old one?
And for every name that a patch binds anew or takes away at module level: has upstream got new uses of it? Both are
asked of the two upstream trees, without the patches; so a patch that merged cleanly is looked at like any other.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..gitrepo import Repo
from ..patchfile import FileChange, Patch
from ..plan import is_ancestor
from .culprits import Culprit, newest_first, touched_by, who_changed
from .meaning import Finding, find_changes
from .pyast import Module, digest
from .whereabouts import files_with, names_of, read_file

_KEY = "Drift-Reviewed"


@dataclass(frozen=True)
class Drift:
    """One definition that a patch depends on, and that upstream changed."""

    patch: str  # file name, before the rebase
    path: str  # in the new upstream
    symbol: str  # "BaseModel.init_llm"; "module" for statements outside of definitions
    what: str  # what happened to it, a clause or several
    culprits: tuple[Culprit, ...]  # newest first
    look: str  # a command, for the workspace, that shows the difference
    digest: str  # of the definition in the new upstream; zeros where it is gone

    @property
    def decision(self) -> str:
        """The value of the trailer that accepts exactly this."""
        return f"{self.path} {self.symbol} {self.digest}"

    def __str__(self) -> str:
        rows = [f"{self.patch}: {self.path}: {self.symbol} {self.what}"]
        return "\n".join([*rows, *(f"  {culprit}" for culprit in self.culprits), f"  see: {self.look}"])


def accepted(patch: Patch, drift: Drift) -> bool:
    """Whether the patch says that a maintainer has read this very code and found the patch still right."""
    return drift.decision in patch.trailers.get(_KEY, ())


def record(message: str, drifts: Iterable[Drift]) -> str:
    """The commit message with these decisions; an older one about the same definition is replaced."""
    decisions = list(dict.fromkeys(f"{_KEY}: {drift.decision}" for drift in drifts))
    if not decisions:
        return message
    heads = tuple(f"{decision.rpartition(' ')[0]} " for decision in decisions)
    lines = [line for line in message.rstrip("\n").split("\n") if not line.startswith(heads)]
    last = "\n".join(lines).rstrip("\n").rpartition("\n\n")[2].split("\n")
    trailers = len(last) < len(lines) and all(re.match(r"[A-Za-z0-9][A-Za-z0-9-]*:[ \t]|[ \t]", line) for line in last)
    text = "\n".join(lines).rstrip("\n")
    return text + ("\n" if trailers else "\n\n") + "\n".join(decisions) + "\n"


def find_drift(
    repo: Repo, old: str, new: str, before: Patch, after: Patch, parent_before: str, renames: Mapping[str, str]
) -> tuple[Drift, ...]:
    """What changed between the upstream commits `old` and `new` in the definitions that a patch depends on.

    `before` was made for the tree of `parent_before`; `after` is what the rebase made of it; `renames` maps paths
    of `old` to paths of `new`. Only Python files are looked at. One Drift per file and definition.
    """
    found: list[Drift] = []
    for change in before.files:
        if change.path.endswith(".py") and change.old_path and change.new_path:
            new_path = _new_path(repo, new, change, after, renames)
            found += _in_file(repo, old, new, before.name, change, parent_before, new_path)
    return tuple(found)


def _new_path(repo: Repo, new: str, change: FileChange, after: Patch, renames: Mapping[str, str]) -> str:
    """Where upstream has the file now; where it has not, the file to which somebody carried the change."""
    path = renames.get(change.path, change.path)
    if read_file(repo, new, path) is not None:
        return path
    paths = [other.path for other in after.files if other.path.endswith(".py")]
    alike = [other for other in paths if other.rpartition("/")[2] == change.path.rpartition("/")[2]]
    return (*alike, *paths, path)[0]


def _in_file(repo: Repo, old: str, new: str, patch: str, change: FileChange, parent: str, new_path: str) -> list[Drift]:
    path = change.path
    was, now, pre = read_file(repo, old, path), read_file(repo, new, new_path), read_file(repo, parent, path)
    if was is None or now is None or pre is None or was == now:
        return []  # nothing changed; or an earlier patch makes the file, and upstream has no part in it

    def elsewhere(name: str) -> list[str]:
        return [text for head in (f"def {name}(", f"class {name}") for text in _definitions(repo, new, name, head)]

    by_symbol: dict[str, list[Finding]] = {}
    for finding in find_changes(was, now, pre, change.hunks, elsewhere):
        by_symbol.setdefault(finding.symbol, []).append(finding)
    names = dict.fromkeys((*names_of(repo, old, new, new_path), path))
    drifts = []
    for symbol, findings in by_symbol.items():
        guilty = [culprit for item in findings for culprit in who_changed(repo, old, new, names, item.view)]
        culprits = newest_first(repo, old, new, guilty)
        what = ", ".join(dict.fromkeys(item.what for item in findings))
        look = _look(repo, old, new, path, new_path, findings, culprits)
        text = "\n".join(dict.fromkeys(item.text for item in findings if item.text))
        drifts.append(Drift(patch, new_path, symbol, what, culprits, look, digest(text)))
    return drifts


def _definitions(repo: Repo, new: str, name: str, head: str) -> list[str]:
    """The texts of the definitions of this last name, in all Python files of a commit that hold `head`."""
    modules = [Module.read(read_file(repo, new, path)) for path in files_with(repo, new, head, ".py")]
    symbols = [symbol for module in modules if module for symbol in module.symbols.values()]
    return [symbol.text for symbol in symbols if symbol.name.rpartition(".")[2] == name]


def _look(
    repo: Repo, old: str, new: str, path: str, new_path: str, findings: Sequence[Finding], culprits: Sequence[Culprit]
) -> str:
    """The history of the definition where `git log -L` can show it, else all that changed in the file."""
    lines = next((item.lines for item in findings if item.lines), None)
    if lines and path == new_path and is_ancestor(repo, old, new):
        shown = touched_by(repo, old, new, path, *lines)  # it leaves out branches that took a change back
        if {culprit.commit for culprit in culprits} <= set(shown):
            # Without --no-renames git reads every file of a commit, also pictures that a clone may lack.
            where = shlex.quote(f"{lines[0]},{lines[1]}:{path}")
            return f"git log --no-renames -L {where} {old[:12]}..{new[:12]}"
    return f"git diff {shlex.quote(f'{old[:12]}:{path}')} {shlex.quote(f'{new[:12]}:{new_path}')}"
