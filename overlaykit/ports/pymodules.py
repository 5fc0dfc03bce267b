"""Python modules as files of a tree: where a dotted name is defined, as far as syntax tells. Nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import PurePosixPath

from ..enclosing import parse_python
from .pyuses import bound_names, dotted, imported, module_of, package_of, within


class State(Enum):
    FOUND = "found"
    MISSING = "missing"
    INHERITED = "not here, but a base class from elsewhere may have it"
    UNKNOWN = "only running the code could tell"


@dataclass(frozen=True)
class Found:
    """How far a name leads: `depth` parts of it were followed, the last of them to `path`."""

    state: State
    path: str = ""  # the file that defines it, or that should
    node: ast.AST | None = None  # its class or function, where that is known
    depth: int = 0
    module: tuple[str, ...] = ()  # set where the name is a module
    instance: bool = False  # it is an object of class `node`
    local: tuple[str, ...] = ()  # its name in that file, e.g. ("Class", "method"); () for a module


@dataclass(frozen=True)
class _Module:
    bindings: Mapping[str, tuple[ast.AST, ...]] = field(default_factory=dict)
    stars: tuple[tuple[str, ...], ...] = ()  # from … import *
    public: frozenset[str] | None = None  # __all__, where it can be read
    dynamic: bool = False  # may hold names that nobody can see


_OPAQUE = _Module(dynamic=True)
_EMPTY = _Module()
_NATIVE = (".so", ".pyd")
_Seen = frozenset[tuple[str, str]]


class Modules:
    """Of the files of one tree by path; `others`: paths of further files, such as compiled modules."""

    def __init__(self, files: Mapping[str, bytes], others: Mapping[str, object]) -> None:
        self._files = files
        paths = [PurePosixPath(path) for path in (*files, *others)]
        self._folders = {parent.parts for path in paths for parent in path.parents}
        self._parts = {PurePosixPath(path).parts for path in files}
        self._native = {(*path.parent.parts, path.name.split(".")[0]) for path in paths if path.suffix in _NATIVE}
        self._parsed: dict[str, _Module] = {}

    def holds(self, top: str) -> bool:
        """Whether the root has a module of that name, or a folder with modules: others are no packages."""
        return any((top,) in (parts[:1], (parts[0].partition(".")[0],)) for parts in self._parts)

    def find(self, names: tuple[str, ...], seen: _Seen = frozenset()) -> Found:
        """Follow a dotted name from the root of the tree."""
        if not self._is_module(names[:1]):
            return Found(State.MISSING)
        at = self._at_module(names[:1])
        for depth, name in enumerate(names[1:], 1):
            if at.module:
                below = self._in_module(at.module, name, seen)
            elif isinstance(at.node, ast.ClassDef):
                below = self.member(at, name, seen)
            else:
                below = Found(State.UNKNOWN, at.path)
            if below.state is not State.FOUND:
                return replace(below, depth=depth)
            at = below
        return replace(at, depth=len(names))

    def member(self, at: Found, name: str, seen: _Seen = frozenset()) -> Found:
        """An attribute of a class, or of an object of it; also of its bases."""
        node = at.node
        assert isinstance(node, ast.ClassDef)
        if (at.path, node.name) in seen:
            return Found(State.UNKNOWN, at.path)
        seen |= {(at.path, node.name)}
        own = [n for n in within(node) if name in bound_names(n)]
        if own or name in _attributes(node):
            method = own[0] if len(own) == 1 and isinstance(own[0], (ast.FunctionDef, ast.AsyncFunctionDef)) else None
            return Found(State.FOUND, at.path, method, local=(node.name, name))
        bases = [self._value(at.path, base, seen) for base in node.bases]
        found = [self.member(base, name, seen) for base in bases if isinstance(base.node, ast.ClassDef)]
        for state in (State.FOUND, State.UNKNOWN, State.INHERITED):
            if any(f.state is state for f in found):
                return next(f for f in found if f.state is state)
        if {"__getattr__", "__getattribute__"} & {name for n in within(node) for name in bound_names(n)}:
            return Found(State.UNKNOWN, at.path)
        inherits = len(found) < len([base for base in node.bases if dotted(base) != ("object",)])
        return Found(State.INHERITED if inherits else State.MISSING, at.path)

    def defined(self, path: str) -> set[str]:
        """What a file binds at its top level, imports aside."""
        bindings = self._read(path).bindings
        return {name for name, nodes in bindings.items() if not isinstance(nodes[0], (ast.Import, ast.ImportFrom))}

    def _is_module(self, names: tuple[str, ...]) -> bool:
        return names in self._native or names in self._folders or "/".join(names) + ".py" in self._files

    def _at_module(self, names: tuple[str, ...]) -> Found:
        return Found(State.FOUND, self._path(names), module=names)

    def _path(self, names: tuple[str, ...]) -> str:
        """The file of a module. For a folder without __init__.py it is the one that it does not have."""
        package, module = "/".join((*names, "__init__.py")), "/".join(names) + ".py"
        return module if module in self._files and package not in self._files else package

    def _in_module(self, module: tuple[str, ...], name: str, seen: _Seen) -> Found:
        path = self._path(module)
        found = _OPAQUE if module in self._native else self._read(path)
        nodes = found.bindings.get(name, ())
        if (path, name) in seen:
            return Found(State.UNKNOWN, path)
        seen |= {(path, name)}
        if nodes:
            one = self._bound(path, nodes[0], name, seen) if len(nodes) == 1 else None
            return one or Found(State.FOUND, path, local=(name,))
        if self._is_module((*module, name)):
            return self._at_module((*module, name))
        dynamic = found.dynamic
        for star in found.stars:
            if not self._is_module(star[:1]):
                dynamic = True  # another project's names
                continue
            below = self.find((*star, name), seen)
            if below.state is State.FOUND and self._exports(star, name):
                return below
            dynamic |= below.state is State.UNKNOWN
        return Found(State.UNKNOWN if dynamic else State.MISSING, path)

    def _exports(self, module: tuple[str, ...], name: str) -> bool:
        public = self._read(self._path(module)).public
        return not name.startswith("_") if public is None else name in public

    def _bound(self, path: str, node: ast.AST, name: str, seen: _Seen) -> Found | None:
        """What one binding of a name in a module stands for; None where that cannot be told."""
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            return Found(State.FOUND, path, node, local=(name,))
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            target = dict(imported(node, package_of(path))).get(name, ())
            below = self.find(target, seen) if target else None
            return below if below and below.state is State.FOUND else None
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            of = self._value(path, node.value.func, seen)
            if isinstance(of.node, ast.ClassDef) and not of.instance:
                return replace(of, instance=True)
        return None

    def _value(self, path: str, expression: ast.AST, seen: _Seen) -> Found:
        """What `a` or `a.b` in a file's top level stands for."""
        names = dotted(expression)
        module = module_of(path)
        at = self._in_module(module, names[0], seen) if names and module else Found(State.UNKNOWN, path)
        for name in names[1:]:
            if at.state is State.FOUND and at.module:
                at = self._in_module(at.module, name, seen)
            elif at.state is State.FOUND and isinstance(at.node, ast.ClassDef):
                at = self.member(at, name, seen)
            else:
                return Found(State.UNKNOWN, path)
        return at

    def _read(self, path: str) -> _Module:
        if path not in self._parsed:
            self._parsed[path] = _parse(path, self._files[path]) if path in self._files else _EMPTY
        return self._parsed[path]


def _parse(path: str, data: bytes) -> _Module:
    try:
        tree = parse_python(data)
    except SyntaxError:  # for another Python, or no Python at all
        return _OPAQUE
    bindings: dict[str, list[ast.AST]] = {}
    stars = []
    for node, name, target in _bindings(tree, package_of(path)):
        if name == "*":
            stars.append(target)
        else:
            bindings.setdefault(name, []).append(node)
    calls = {dotted(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    hidden = "__getattr__" in bindings or bool(calls & {("globals",), ("exec",)}) or _touches_sys_modules(tree)
    return _Module({name: tuple(nodes) for name, nodes in bindings.items()}, tuple(stars), _public(tree), hidden)


def _bindings(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[ast.AST, str, tuple[str, ...]]]:
    values = {id(target): node for node in within(tree) if isinstance(node, ast.Assign) for target in node.targets}
    for node in within(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((node, name, target) for name, target in imported(node, package))
        else:
            yield from ((values.get(id(node), node), name, ()) for name in bound_names(node))
    for node in ast.walk(tree):  # a function that says `global name`
        if isinstance(node, ast.Global):
            yield from ((node, name, ()) for name in node.names)


def _attributes(node: ast.ClassDef) -> set[str]:
    """What the methods of a class store in `self`."""
    stored = (n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
    return {n.attr for n in stored if isinstance(n.value, ast.Name)}


def _public(tree: ast.Module) -> frozenset[str] | None:
    for node in within(tree):
        if isinstance(node, ast.Assign) and [dotted(target) for target in node.targets] == [("__all__",)]:
            try:
                return frozenset(map(str, ast.literal_eval(node.value)))
            except (ValueError, TypeError):
                return None
    return None


def _touches_sys_modules(tree: ast.Module) -> bool:
    return any(dotted(node) == ("sys", "modules") for node in ast.walk(tree))
