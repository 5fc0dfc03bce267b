"""What overlay code imports, calls and overrides of upstream's, and what became of it."""

from __future__ import annotations

import ast
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from ..explaining.culprits import Culprit
from ..nearest import nearest
from .problems import PortKind, PortProblem, Sides
from .pymodules import Found, Modules, State
from .pysign import describe, why_not
from .pyuses import Call, Use, Uses, module_of, read_uses

_Code = Mapping[str, bytes]


@dataclass(frozen=True)
class _Port:
    """One file of overlay/ and both sides that it may import from, itself included."""

    path: str
    uses: Uses
    sides: Sides
    old: Modules
    new: Modules
    overlay: _Code

    def where(self, line: int) -> str:
        return f"overlay/{self.path}:{line}"

    def from_upstream(self, *found: Found) -> bool:
        return not any(f.path in self.overlay for f in found)


def find_broken_uses(sides: Sides, overlay: Mapping[str, Path]) -> Iterator[PortProblem]:
    """Names that are gone, and functions, classes and overridden methods that take other arguments than before."""
    code = {path: file.read_bytes() for path, file in overlay.items() if path.endswith(".py")}
    old, new = (Modules({**side.ending(".py"), **code}, {**side.entries, **overlay}) for side in (sides.old, sides.new))
    for path, data in code.items():
        try:
            uses = read_uses(path, data)
        except SyntaxError:  # nothing that upstream did
            continue
        port = _Port(path, uses, sides, old, new, code)
        yield from _gone(port)
        yield from _changed(port)
        yield from _changed_methods(port)
        yield from _changed_overrides(port)


def _gone(port: _Port) -> Iterator[PortProblem]:
    told = set()
    for use in _uses_of_tree(port):
        was, now = port.old.find(use.names), port.new.find(use.names)
        name = use.names[: now.depth + 1]
        if not _is_lost(was, now) or name in told or not port.from_upstream(now):
            continue
        told.add(name)
        was = port.old.find(name)
        what = f"{'.'.join(name)} is gone." if was.state is State.FOUND else f"There is no {'.'.join(name)}."
        culprits = _who_dropped(port, was, now, name[-1])
        yield PortProblem(
            PortKind.IMPORT_GONE, port.where(use.line), what, culprits, _where_now(port, was, now, name[-1])
        )


def _changed(port: _Port) -> Iterator[PortProblem]:
    """Functions and classes that are used by their names."""
    calls: dict[tuple[str, ...], list[Call]] = {}
    lines: dict[tuple[str, ...], int] = {}
    for use in _uses_of_tree(port):
        calls.setdefault(use.names, []).extend([use.call] if use.call else [])
        lines.setdefault(use.names, use.line)
    for names, called in calls.items():
        was, now = port.old.find(names), port.new.find(names)
        through_object = any(port.new.find(names[:depth]).instance for depth in range(1, len(names)))
        yield from _compare(port, was, now, ".".join(names), lines[names], called, through_object)


def _changed_methods(port: _Port) -> Iterator[PortProblem]:
    """Methods of the classes that a file uses, where it calls something of that name on some object."""
    told = set()  # a method may be found through several classes that inherit it
    for names, cls in _classes_of(port).items():
        after = port.new.find(names)
        if not isinstance(after.node, ast.ClassDef):
            continue
        for method, called in port.uses.methods.items():
            was, now = port.old.member(cls, method), port.new.member(after, method)
            # A call that did not fit before either is of another class's method.
            fitting = [call for call in called if not why_not(port.old, was, call, True)]
            definition = was.path, was.local
            known = was.state is State.FOUND and was.node is not None and definition not in told
            if not known or not fitting or not port.from_upstream(was, now):
                continue
            told.add(definition)
            name = f"{names[-1]}.{method}"
            if _is_lost(was, now):
                what = f"{name} is gone, and a method of that name is called here."
                culprits, hint = _who_dropped(port, was, now, method), _where_now(port, was, now, method)
                yield PortProblem(PortKind.IMPORT_GONE, port.where(fitting[0].line), what, culprits, hint)
            else:
                yield from _compare(port, was, now, name, fitting[0].line, fitting, True)


def _classes_of(port: _Port) -> Mapping[tuple[str, ...], Found]:
    """The classes that a file names, and those of the objects that it names; one entry for each."""
    found: dict[tuple[str, tuple[str, ...]], tuple[tuple[str, ...], Found]] = {}
    for use in _uses_of_tree(port):
        for depth in range(2, len(use.names) + 1):
            cls = port.old.find(use.names[:depth])
            if isinstance(cls.node, ast.ClassDef) and port.from_upstream(cls):
                found.setdefault((cls.path, cls.local), (use.names[:depth], cls))
    return dict(found.values())


def _changed_overrides(port: _Port) -> Iterator[PortProblem]:
    for override in port.uses.overrides:
        old, new = port.old.find(override.base), port.new.find(override.base)
        if not isinstance(old.node, ast.ClassDef) or not isinstance(new.node, ast.ClassDef):
            continue
        for method, line in override.methods.items():
            was, now = port.old.member(old, method), port.new.member(new, method)
            name = ".".join((*override.base, method))
            if was.state is not State.FOUND or not port.from_upstream(was, now):
                continue
            if _is_lost(was, now):
                what = f"{override.name}.{method} overrides {name}, which is gone: nothing may call it any more."
                culprits, hint = _who_dropped(port, was, now, method), _where_now(port, was, now, method)
                yield PortProblem(PortKind.SIGNATURE, port.where(line), what, culprits, hint)
            else:
                yield from _compare(port, was, now, name, line, ())


def _compare(
    port: _Port, was: Found, now: Found, name: str, line: int, calls: Iterable[Call], on_object: bool = False
) -> Iterator[PortProblem]:
    if not port.from_upstream(was, now):
        return
    before, after = describe(port.old, was), describe(port.new, now)
    misfits = {call.line: why_not(port.new, now, call, on_object) for call in calls}
    broken = {line: why for line, why in misfits.items() if why}
    if not after or before == after or not (before or broken):
        return
    what = f"{name} takes {after} now" + (f", before it took {before}." if before else ".")
    hint = "; ".join(f"Line {line} no longer fits: {why}" for line, why in broken.items())
    if misfits and not broken:
        hint = "What is called here still fits; look whether it still means the same."
    culprits = _who(port, now, lambda modules, found: describe(modules, found))
    yield PortProblem(PortKind.SIGNATURE, port.where(next(iter(broken), line)), what, culprits, hint)


def _uses_of_tree(port: _Port) -> list[Use]:
    """Those of modules that the tree has; the others are of installed packages."""
    return [use for use in port.uses.names if port.old.holds(use.names[0]) or port.new.holds(use.names[0])]


def _is_lost(was: Found, now: Found) -> bool:
    return now.state is State.MISSING or (now.state is State.INHERITED and was.state is State.FOUND)


def _who(port: _Port, at: Found, view: Callable[[Modules, Found], Hashable]) -> tuple[Culprit, ...]:
    """The commits that changed what `view` says of a definition in its file."""
    path = at.path

    def of_file(data: bytes | None) -> Hashable:
        modules = Modules({path: data} if data is not None else {}, {})
        return view(modules, modules.find((*module_of(path), *at.local)))

    return port.sides.who(path, of_file, follow=True)


def _who_dropped(port: _Port, was: Found, now: Found, name: str) -> tuple[Culprit, ...]:
    def is_there(modules: Modules, found: Found) -> bool:
        return found.state is State.FOUND

    if was.module:
        return port.sides.who(was.path, lambda data: data is None)
    if was.state is not State.FOUND:
        return ()
    # Where it was defined; or else where it was imported to.
    return _who(port, was, is_there) or _who(port, Found(State.FOUND, now.path, local=(name,)), is_there)


def _where_now(port: _Port, was: Found, now: Found, name: str) -> str:
    if was.path in port.sides.renamed:
        return f"{was.path} is {port.sides.renamed[was.path]} now."
    files = port.sides.new.ending(".py")
    homes = [path for path, data in files.items() if name.encode() in data and name in port.new.defined(path)]
    if homes and not was.module:
        return f"{name} is defined in {', '.join(homes[:3])} now."
    guess = nearest(name, port.new.defined(now.path)) if now.path else ""
    return f"Did you mean {guess}?" if guess else ""
