"""Overlay paths that upstream takes, and rules whose file or key upstream moved or dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Optional

from ..configs import Rule, Rules, unfit
from ..errors import FixTheProjectFile
from ..gitrepo import blob_id
from ..names import folded, parents
from ..nearest import did_you_mean
from ..yamltext import Document, Value
from .problems import PortKind, PortProblem, Sides

Keys = Optional[Mapping[str, Value]]  # None: the file is not there, or is no YAML


def find_collisions(sides: Sides, overlay: Mapping[str, Path]) -> Iterator[PortProblem]:
    """Overlay files whose name, as a file or as a folder, upstream has; as a Mac or Windows compares names."""
    taken = {folded(path): path for path in sides.new.entries}
    folders = {folded(parent): parent for path in sides.new.entries for parent in parents(path)}
    for path, file in overlay.items():
        parent = next((parent for parent in parents(path) if folded(parent) in taken), None)
        if folded(path) in taken:
            found = taken[folded(path)]
            if sides.new.entries[found].id == blob_id(file.read_bytes()):
                hint = f"It is the same file. Delete overlay/{path}."
            else:
                hint = f"Keep one: delete overlay/{path} and patch upstream's, or give the overlay's another name."
            yield _collision(sides, path, found, f"Upstream has a file {found}.", hint)
        elif folded(path) in folders:
            found = folders[folded(path)]
            inside = next(taken for taken in sides.new.entries if taken.startswith(found + "/"))
            yield _collision(sides, path, inside, f"Upstream has a folder {found}.", "Give the overlay's another name.")
        elif parent:
            found = taken[folded(parent)]
            yield _collision(sides, path, found, f"Upstream has a file {found}.", f"overlay/{parent} is a folder.")


def find_lost_keys(sides: Sides, rules: Rules) -> Iterator[PortProblem]:
    """Rules whose value can no longer be replaced, with the place where it may be now."""
    defaults = rules.resolve({})
    for file in rules.files:
        names = ", ".join(rule.name for rule in rules.of(file))
        if file not in sides.new:
            yield _lost_file(sides, file, names, rules.of(file))
            continue
        data = sides.new.yaml().get(file)
        keys = _keys(file, data)
        if data is None or keys is None:
            yield PortProblem(
                PortKind.KEY_UNFIT,
                f"configs/paths.yaml: {names}",
                f"{file} is no YAML file any more: {_why_unreadable(file, data)}",
                sides.who(file, lambda data, file=file: _keys(file, data) is None, follow=True),  # type: ignore[misc]
            )
            continue
        present = [rule for rule in rules.of(file) if rule.key in keys]
        yield from (_lost_key(sides, rule, keys) for rule in rules.of(file) if rule.key not in keys)
        yield from _unfit(sides, data, present, defaults)


def _lost_file(sides: Sides, file: str, names: str, rules: tuple[Rule, ...]) -> PortProblem:
    now = sides.renamed.get(file)
    if now:
        keys = _keys(now, sides.new.yaml().get(now)) or {}
        lost = [rule.key for rule in rules if rule.key not in keys]
        hint = f"It is {now} now: write that in configs/paths.yaml."
        hint += f" It has no {', '.join(lost)}." if lost else ""
    else:
        places = {place for rule in rules for place in _places(sides, rule)}
        hint = _now_at(places) or did_you_mean(file, sides.new.yaml())
    culprits = sides.who(file, lambda data: data is None)
    return PortProblem(
        PortKind.FILE_GONE, f"configs/paths.yaml: {names}", f"Upstream has no {file} now.", culprits, hint
    )


def _lost_key(sides: Sides, rule: Rule, keys: Mapping[str, Value]) -> PortProblem:
    def has_key(data: bytes | None) -> bool:
        return rule.key in (_keys(rule.file, data) or {})

    places = _places(sides, rule)
    kind = PortKind.KEY_MOVED if places else PortKind.KEY_GONE
    hint = _now_at(places)
    if not hint:
        last = rule.key.rpartition(".")[2]
        others = [
            f"{path}: {key}"
            for path, data in sides.new.yaml().items()
            for key in _keys(path, data) or {}
            if key.rpartition(".")[2] == last
        ]
        hint = f"Also named so: {'; '.join(others[:3])}." if others else did_you_mean(rule.key, keys)
    what = f"{rule.file} has no key {rule.key} now."
    return PortProblem(kind, f"configs/paths.yaml: {rule.name}", what, sides.who(rule.file, has_key, follow=True), hint)


def _unfit(sides: Sides, data: bytes, rules: Iterable[Rule], defaults: Mapping[str, Value]) -> Iterator[PortProblem]:
    for rule in rules:

        def fits(data: bytes | None, rule: Rule = rule) -> bool:
            return data is not None and not _why_unfit(rule, data, defaults)

        why = _why_unfit(rule, data, defaults)
        if why:
            where = f"configs/paths.yaml: {rule.name}"
            yield PortProblem(PortKind.KEY_UNFIT, where, why, sides.who(rule.file, fits, follow=True))


def _why_unfit(rule: Rule, data: bytes, defaults: Mapping[str, Value]) -> str:
    error = unfit(data, rule, defaults[rule.name])
    return " ".join(filter(None, (error.what, error.why))) if error else ""


def _places(sides: Sides, rule: Rule) -> list[tuple[str, str]]:
    """(file, key) where this value seems to be now: keys that upstream has added. The likeliest ones come first."""
    was = (_keys(rule.file, sides.old.yaml().get(rule.file)) or {}).get(rule.key)
    parent, _, last = rule.key.rpartition(".")
    before = {after: path for path, after in sides.renamed.items()}
    found = []
    for path, data in sides.new.yaml().items():
        old = _keys(path, sides.old.yaml().get(before.get(path, path))) or {}
        for key, value in (_keys(path, data) or {}).items():
            if key in old:
                continue
            same_place = path == rule.file and key.rpartition(".")[0] == parent
            renamed = same_place and value == was and isinstance(was, str) and was != ""
            if key == rule.key or key.rpartition(".")[2] == last or renamed:
                found.append((path != rule.file, key != rule.key, path, key))
    return [(path, key) for *_, path, key in sorted(found)]


def _now_at(places: Iterable[tuple[str, str]]) -> str:
    listed = [f"{path}: {key}" for path, key in places]
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"It seems to be {'; '.join(listed[:3])}{more} now." if listed else ""


def _keys(path: str, data: bytes | None) -> Keys:
    if data is None:
        return None
    try:
        document = Document(path, data)
    except FixTheProjectFile:
        return None
    keys: dict[str, Value] = {}
    for key in document.scalar_keys():
        try:
            keys[key] = document.value(key)
        except FixTheProjectFile:  # twice in the file, or no plain value: it is there all the same
            keys[key] = None
    return keys


def _why_unreadable(path: str, data: bytes | None) -> str:
    if data is None:
        return "it is a link or a submodule."
    try:
        Document(path, data)
    except FixTheProjectFile as error:
        return error.what
    return ""


def _collision(sides: Sides, path: str, found: str, what: str, hint: str) -> PortProblem:
    culprits = sides.who(found, lambda data: data is None)
    return PortProblem(PortKind.COLLISION, f"overlay/{path}", what, culprits, hint)
