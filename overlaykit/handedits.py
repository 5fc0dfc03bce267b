"""The user's own edits of YAML files that rules own.

Editing the YAML by hand is a legitimate way to configure: a changed value of an owned key becomes a setting.
Everything else that the user changed in such a file stays a local change on top of what we commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .configs import Rule, Rules, Value, read_values, rewrite
from .errors import OverlayError
from .gitrepo import Entry, Repo
from .survey import look


@dataclass(frozen=True)
class HandEdit:
    """One edited file: what was committed, what the user made of it, and the owned values that they changed."""

    path: str
    committed: bytes
    mine: bytes
    values: Mapping[str, str]
    left: tuple[str, ...] = ()  # names of values that cannot be settings, e.g. empty ones: they stay local edits


def find_hand_edits(repo: Repo, rules: Rules, committed: Mapping[str, Entry]) -> tuple[HandEdit, ...]:
    """Files of the rules that differ from `committed` (the tree of HEAD). Files that are not YAML are left out."""
    assert repo.worktree is not None
    edits = []
    for path in rules.files:
        seen = look(repo, path)
        if (
            path not in committed
            or not isinstance(seen, Entry)
            or seen.mode == "120000"
            or seen.id == committed[path].id
        ):
            continue
        mine = (repo.worktree / path).read_bytes()
        old = repo.read_blobs([committed[path].id]).get(committed[path].id, b"")
        edits.append(HandEdit(path, old, mine, *changed_values(old, mine, rules, path)))
    return tuple(edits)


def carry_over(
    repo: Repo, edit: HandEdit, rules: Rules, values: Mapping[str, Value], new: bytes, scratch: Path
) -> bytes | None:
    """What the worktree should hold once `new` is committed: the user's other edits and our values.

    None when their edits and ours touch the same lines.
    """
    owned = tuple(rule for rule in rules.of(edit.path) if rule.name not in edit.left)
    base, mine = (_with_values(data, owned, values) for data in (edit.committed, edit.mine))
    if base == new:
        return mine
    if mine == base:
        return new
    sides = []
    for name, data in (("mine", mine), ("base", base), ("new", new)):
        sides.append(scratch / f"merge-{name}")
        sides[-1].write_bytes(data)
    result = repo.status_of("merge-file", "-p", *map(str, sides))
    return result.output if result.status == 0 else None


def changed_values(old: bytes, mine: bytes, rules: Rules, path: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Owned values that differ between two versions of a file: those that become settings, and the names of others."""
    changed: dict[str, str] = {}
    left: list[str] = []
    for rule in rules.of(path):
        was, now = _value(old, rule), _value(mine, rule)
        if not was or not now or (type(was[0]), was[0]) == (type(now[0]), now[0]):
            continue
        setting = {rule.name: str(now[0])}
        try:
            kept = rules.resolve(setting)[rule.name] == now[0]
        except OverlayError:
            kept = False
        if kept:
            changed.update(setting)
        else:
            left.append(rule.name)
    return changed, tuple(left)


def _value(data: bytes, rule: Rule) -> tuple[object] | None:
    """In a tuple, for the value itself may be None; None when the file lacks the key or is not YAML."""
    try:
        return (read_values(data, [rule])[rule.name],)
    except OverlayError:
        return None


def _with_values(data: bytes, rules: tuple[Rule, ...], values: Mapping[str, Value]) -> bytes:
    for rule in rules:
        if _value(data, rule):  # a key that a patch will add is not there yet
            data = rewrite(data, [rule], values)
    return data
