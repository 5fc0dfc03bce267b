"""Python source as definitions that can be compared: what a function, a class or a statement means, not how it looks.

Positions, comments and docstrings do not count. The text form is made here, and not by `ast.dump`, because that
differs between versions of Python, and decisions about it are kept in patches for years.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ..enclosing import parse_python
from ..lines import split_lines

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Symbol:
    """A function or method, a class without its functions, or ("module") a statement outside of all these."""

    name: str  # dotted
    node: ast.stmt

    @property
    def first(self) -> int:
        decorators = getattr(self.node, "decorator_list", ())
        return min([self.node.lineno, *(item.lineno for item in decorators)])

    @property
    def lines(self) -> tuple[int, int]:
        return self.first, self.node.end_lineno or self.node.lineno

    @property
    def is_function(self) -> bool:
        return isinstance(self.node, _FUNCTIONS)

    @property
    def is_import(self) -> bool:
        return isinstance(self.node, _IMPORTS)

    @cached_property
    def text(self) -> str:
        """Equal exactly for symbols that mean the same."""
        return canonical(_own_part(self.node))

    @cached_property
    def uses(self) -> frozenset[str]:
        """The names from outside that its code reads, the roots of dotted ones."""
        return frozenset(_used(_own_part(self.node)))


class Module:
    """One version of a file."""

    def __init__(self, data: bytes, tree: ast.Module) -> None:
        self.lines = split_lines(data)
        found = list(_symbols(tree, ""))
        self._all = found
        self.symbols = {symbol.name: symbol for symbol in found}  # of two with one name the last, as in Python
        self.loose = [Symbol("module", node) for node in tree.body if not isinstance(node, _DEFINITIONS)]
        self.bindings = dict(item for node in _statements(tree) for item in _bound(node))
        self.imports = dict(item for node in _statements(tree) if isinstance(node, _IMPORTS) for item in _bound(node))
        self.statements = frozenset(symbol.text for symbol in self.loose)

    @staticmethod
    def read(data: bytes | None) -> Module | None:
        """None for no file, and for what is not Python to this interpreter."""
        return _read(data) if data is not None else None

    def at(self, line: int) -> Symbol | None:
        """The outermost function around a line, else the innermost class, else the statement at module level."""
        around = [symbol for symbol in self._all if symbol.first <= line <= symbol.lines[1]]
        functions = [symbol for symbol in around if symbol.is_function]
        if around:
            return functions[0] if functions else around[-1]
        return next((symbol for symbol in self.loose if symbol.first <= line <= symbol.lines[1]), None)


@lru_cache(maxsize=256)
def _read(data: bytes) -> Module | None:
    try:
        return Module(data, parse_python(data))
    except SyntaxError:
        return None


def not_python(data: bytes) -> int:
    """The first line that this interpreter cannot read as Python; 0 where it can, 1 where it does not say."""
    try:
        parse_python(data)
    except SyntaxError as error:
        return error.lineno or 1
    return 0


def defined_as(name: str) -> Callable[[bytes | None], Hashable]:
    """A view of a file: the text of one definition in it."""

    def view(data: bytes | None) -> Hashable:
        module = Module.read(data)
        symbol = module.symbols.get(name) if module else None
        return symbol.text if symbol else None

    return view


def statement_texts(data: bytes | None) -> frozenset[str]:
    """The statements outside of definitions."""
    module = Module.read(data)
    return module.statements if module else frozenset()


def digest(text: str) -> str:
    """Twelve hex digits for a canonical text; zeros for none."""
    return hashlib.sha1(text.encode("utf-8", "surrogatepass")).hexdigest()[:12] if text else "0" * 12


def canonical(node: object) -> str:
    """A syntax tree as text, the same in every version of Python."""
    if isinstance(node, ast.AST):
        fields = []
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(node, _DEFINITIONS):
                value = _without_docstring(value)
            if name == "values" and isinstance(node, ast.JoinedStr):  # Python 3.12 ends some with an empty string
                value = [item for item in value if not (isinstance(item, ast.Constant) and item.value == "")]
            # What later versions of Python added is empty where the source does not use it.
            if name not in ("ctx", "kind", "type_comment") and value is not None and value != []:
                fields.append(f"{name}={canonical(value)}")
        return f"{type(node).__name__}({', '.join(sorted(fields))})"
    if isinstance(node, list):
        return "[" + ", ".join(map(canonical, node)) + "]"
    return repr(node)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body


def _own_part(node: ast.stmt) -> ast.stmt:
    """A class without the functions and classes in it, each of which is a symbol of its own."""
    if not isinstance(node, ast.ClassDef):
        return node
    kept = [child for child in node.body if not isinstance(child, _DEFINITIONS)]
    return ast.ClassDef(**{**dict(ast.iter_fields(node)), "body": kept})


def _used(node: ast.AST) -> set[str]:
    names = [item for item in ast.walk(node) if isinstance(item, ast.Name)]
    own = {item.id for item in names if not isinstance(item.ctx, ast.Load)} if isinstance(node, _FUNCTIONS) else set()
    own |= {item.arg for item in ast.walk(node) if isinstance(item, ast.arg)}
    outer = {name for item in ast.walk(node) if isinstance(item, ast.Global) for name in item.names}
    return {item.id for item in names if item.id not in own - outer}


def _symbols(node: ast.AST, prefix: str) -> Iterator[Symbol]:
    """Outer ones first. Functions inside functions are part of them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _DEFINITIONS):
            yield Symbol(prefix + child.name, child)
            if isinstance(child, ast.ClassDef):
                yield from _symbols(child, f"{prefix}{child.name}.")
        elif isinstance(child, (ast.stmt, ast.excepthandler)):
            yield from _symbols(child, prefix)


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """What runs when a module is imported: also under if, try and with, not inside definitions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, (ast.stmt, ast.excepthandler)) and not isinstance(child, _DEFINITIONS):
            yield from _statements(child)


def _bound(node: ast.stmt) -> Iterable[tuple[str, str]]:
    """(name, what it is bound to) of one statement."""
    if isinstance(node, ast.Import):
        return [(alias.asname or alias.name.partition(".")[0], f"import {alias.name}") for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        source = f"from {'.' * node.level}{node.module or ''} import"
        return [(alias.asname or alias.name, f"{source} {alias.name}") for alias in node.names]
    if isinstance(node, _DEFINITIONS):
        return [(node.name, canonical(node))]
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [item for target in targets for item in ast.walk(target) if isinstance(item, ast.Name)]
        return [(item.id, canonical(node)) for item in names if isinstance(item.ctx, ast.Store)]
    return []
