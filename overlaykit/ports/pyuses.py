"""What one Python file uses of other modules: imports, dotted names below them, calls, and methods it overrides.

Read from the syntax alone. A name counts as an imported one only where nothing else in its scope binds it, so what
is found is certain, and what is uncertain is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Optional

from ..enclosing import parse_python

_DEFS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_MISSING = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
Targets = dict[str, Optional[tuple[str, ...]]]  # name in a scope -> what it was imported as; None: something else


@dataclass(frozen=True)
class Call:
    line: int
    positional: int
    keywords: tuple[str, ...]
    exact: bool  # without *args and **kwargs


@dataclass(frozen=True)
class Use:
    """Modules from the outermost, then attributes: ("package", "module", "Class"). And how it is called, if it is."""

    line: int
    names: tuple[str, ...]
    call: Call | None = None


@dataclass(frozen=True)
class Override:
    """A class that derives from an imported one, and the lines of its methods by name."""

    name: str
    base: tuple[str, ...]
    methods: Mapping[str, int] = field(hash=False)


@dataclass(frozen=True)
class Uses:
    names: tuple[Use, ...]
    overrides: tuple[Override, ...]
    methods: Mapping[str, tuple[Call, ...]] = field(hash=False)  # x.NAME(…) where nobody knows what x is


def read_uses(path: str, data: bytes) -> Uses:
    """Of the file at `path` in the tree. Raises SyntaxError for what is no Python."""
    module = parse_python(data)
    reader = _Reader(package_of(path), _optional_imports(module))
    reader.read_scope(module, ())
    return Uses(tuple(reader.uses), tuple(reader.overrides), {name: tuple(c) for name, c in reader.methods.items()})


def package_of(path: str) -> tuple[str, ...]:
    """Where the relative imports of a file start: ("a", "b") for a/b/c.py and for a/b/__init__.py."""
    return PurePosixPath(path).parent.parts


def module_of(path: str) -> tuple[str, ...]:
    """The name of a file as a module: ("a", "b") for a/b.py and for a/b/__init__.py."""
    parts = PurePosixPath(path).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(node: ast.Import | ast.ImportFrom, package: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name bound, names of what it is bound to). The name is "*" for `from … import *`, with the module's names."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            parts = tuple(alias.name.split("."))
            yield (alias.asname, parts) if alias.asname else (parts[0], parts[:1])
    elif node.level <= len(package):  # more dots lead out of the tree
        start = package[: len(package) - node.level + 1] if node.level else ()
        module = (*start, *(node.module or "").split(".")) if node.module else start
        for alias in node.names:
            yield ("*", module) if alias.name == "*" else (alias.asname or alias.name, (*module, alias.name))


def within(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of one scope in order: definitions inside it appear, but not what is in them."""
    todo = list(ast.iter_child_nodes(scope))[::-1]
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, (*_DEFS, ast.ClassDef)):
            todo += list(ast.iter_child_nodes(node))[::-1]


def bound_names(node: ast.AST) -> Iterator[str]:
    """The names that this one node binds in its scope, imports aside."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name
    elif isinstance(node, (ast.Global, ast.Nonlocal)):
        yield from node.names
    elif type(node).__name__ in ("MatchAs", "MatchStar", "MatchMapping"):  # from Python 3.10 on
        yield getattr(node, "name", None) or getattr(node, "rest", None) or "_"


def dotted(node: ast.AST) -> tuple[str, ...]:
    """("a", "b", "c") for the expression a.b.c; () for any other."""
    if isinstance(node, ast.Name):
        return (node.id,)
    above = dotted(node.value) if isinstance(node, ast.Attribute) else ()
    return (*above, node.attr) if isinstance(node, ast.Attribute) and above else ()


class _Reader:
    def __init__(self, package: tuple[str, ...], optional: set[int]) -> None:
        self.package = package
        self.optional = optional
        self.uses: list[Use] = []
        self.overrides: list[Override] = []
        self.methods: dict[str, list[Call]] = {}

    def read_scope(self, scope: ast.AST, above: tuple[Targets, ...]) -> None:
        """`above`: the scopes that are seen from here; those of classes are not seen from their methods."""
        own = self._targets(scope)
        seen = (*above, own)
        inner = above if isinstance(scope, ast.ClassDef) else seen
        outside = {id(node) for node in _evaluated_outside(scope)}
        for child in ast.iter_child_nodes(scope):
            if id(child) not in outside:
                self._visit(child, seen, inner)

    def _targets(self, scope: ast.AST) -> Targets:
        targets: Targets = {}
        if isinstance(scope, _DEFS):
            targets.update((node.arg, None) for node in ast.walk(scope.args) if isinstance(node, ast.arg))
        for node in within(scope):
            found: Iterable[tuple[str, tuple[str, ...] | None]]
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found = [(n, None if id(node) in self.optional else t) for n, t in imported(node, self.package)]
            else:
                found = [(name, None) for name in bound_names(node)]
            for name, target in found:
                targets[name] = target if targets.get(name, target) == target else None
        return targets

    def _visit(self, node: ast.AST, seen: tuple[Targets, ...], inner: tuple[Targets, ...]) -> None:
        children = ast.iter_child_nodes(node)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node)
        elif isinstance(node, (*_DEFS, ast.ClassDef)):
            if isinstance(node, ast.ClassDef):
                self._derive(node, seen)
            for outside in _evaluated_outside(node):
                self._visit(outside, seen, inner)
            self.read_scope(node, inner)
            return
        elif isinstance(node, ast.Call):
            children = self._call(node, seen)
        elif isinstance(node, (ast.Attribute, ast.Name)):
            names = _resolve(dotted(node), seen)
            if names:
                self.uses.append(Use(node.lineno, names))
                return
        for child in children:
            self._visit(child, seen, inner)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if id(node) in self.optional:
            return
        if isinstance(node, ast.Import):
            self.uses += [Use(node.lineno, tuple(alias.name.split("."))) for alias in node.names]
        else:
            self.uses += [Use(node.lineno, target) for _, target in imported(node, self.package)]

    def _call(self, node: ast.Call, seen: tuple[Targets, ...]) -> Iterator[ast.AST]:
        """Note a call; what is left of it to visit."""
        keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
        starred = any(isinstance(arg, ast.Starred) for arg in node.args) or len(keywords) < len(node.keywords)
        call = Call(node.lineno, len(node.args), keywords, not starred)
        called = dotted(node.func)
        names = _resolve(called, seen)
        first = node.args[0] if node.args else None
        if called[-1:] == ("import_module",) and isinstance(first, ast.Constant) and isinstance(first.value, str):
            parts = tuple(first.value.split("."))
            self.uses += [Use(node.lineno, parts)] if all(parts) else []
        if names:
            self.uses.append(Use(node.lineno, names, call))
        elif isinstance(node.func, ast.Attribute):
            self.methods.setdefault(node.func.attr, []).append(call)
            yield node.func.value
        else:
            yield node.func
        yield from (*node.args, *node.keywords)

    def _derive(self, node: ast.ClassDef, seen: tuple[Targets, ...]) -> None:
        methods = {n.name: n.lineno for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}
        for base in node.bases:
            names = _resolve(dotted(base), seen)
            if names:
                self.overrides.append(Override(node.name, names, methods))


def _resolve(names: tuple[str, ...], seen: tuple[Targets, ...]) -> tuple[str, ...]:
    """What a dotted name stands for if its first part was imported, else ()."""
    for targets in reversed(seen):
        if names and names[0] in targets:
            target = targets[names[0]]
            return (*target, *names[1:]) if target else ()
    return ()


def _evaluated_outside(node: ast.AST) -> list[ast.AST]:
    """The parts of a definition that belong to the scope around it: decorators, bases, defaults, annotations."""
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases, *node.keywords]
    if isinstance(node, ast.Lambda):
        return [node.args]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [*node.decorator_list, node.args, *([node.returns] if node.returns else [])]
    return []


def _optional_imports(module: ast.AST) -> set[int]:
    """Imports that may fail: in a `try` that carries on without them, or under contextlib.suppress."""
    found: set[int] = set()
    for node in ast.walk(module):
        tried = isinstance(node, ast.Try) and any(map(_carries_on, node.handlers))
        suppressed = isinstance(node, ast.With) and any(_names(i.context_expr) & _MISSING for i in node.items)
        body = node.body if isinstance(node, (ast.Try, ast.With)) and (tried or suppressed) else []
        found.update(id(n) for part in body for n in ast.walk(part) if isinstance(n, (ast.Import, ast.ImportFrom)))
    return found


def _carries_on(handler: ast.ExceptHandler) -> bool:
    catches = handler.type is None or bool(_names(handler.type) & _MISSING)
    return catches and not any(isinstance(node, ast.Raise) for part in handler.body for node in ast.walk(part))


def _names(node: ast.AST) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
