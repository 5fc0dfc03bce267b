"""What a function or class takes, read from its syntax: as text to compare, and whether a call fits."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

from .pymodules import Found, Modules, State
from .pyuses import Call, dotted

_BINDING = ("property", "staticmethod", "classmethod", "cached_property")


class _Text:
    """A default, shown as it is written."""

    def __init__(self, node: ast.AST) -> None:
        self._text = ast.unparse(node)

    def __repr__(self) -> str:
        return self._text


def describe(modules: Modules, found: Found) -> str:
    """E.g. "(self, x, y=1)", with the decorators that change how it is called; "" where it is unknown."""
    node = _callable(modules, found)
    signature = signature_of(node) if node else None
    if node is None or signature is None:
        return ""
    return "".join(f"@{name} " for name in _binding(node)) + str(signature)


def why_not(modules: Modules, found: Found, call: Call, on_object: bool = False) -> str:
    """Why a call does not fit, in Python's words; "" where it fits or where that cannot be known.

    `on_object`: `found` is a method that is called on an object.
    """
    node = _callable(modules, found)
    signature = signature_of(node) if node else None
    if node is None or signature is None or not call.exact:
        return ""
    words = _binding(node)
    if "property" in words or "cached_property" in words:
        return "it is a property"
    given = (
        isinstance(found.node, ast.ClassDef) or "classmethod" in words or (on_object and "staticmethod" not in words)
    )
    try:
        signature.bind(*[None] * (call.positional + given), **dict.fromkeys(call.keywords))
    except TypeError as error:
        return str(error)
    return ""


def signature_of(node: ast.AST) -> inspect.Signature | None:
    """Of a function, or of a dataclass by its fields. Annotations are left out: they change no call."""
    try:
        if isinstance(node, ast.ClassDef):
            return inspect.Signature(list(_fields(node)))
        assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        return inspect.Signature(list(_parameters(node.args)))
    except ValueError:  # two arguments of one name, say: Python itself would refuse the file
        return None


def _parameters(args: ast.arguments) -> Iterator[inspect.Parameter]:
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    for number, (arg, default) in enumerate(zip(plain, defaults)):
        positional_only = number < len(args.posonlyargs)
        kind = inspect.Parameter.POSITIONAL_ONLY if positional_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
        yield _parameter(arg.arg, kind, default)
    if args.vararg:
        yield _parameter(args.vararg.arg, inspect.Parameter.VAR_POSITIONAL, None)
    for arg, default in zip(args.kwonlyargs, args.kw_defaults):
        yield _parameter(arg.arg, inspect.Parameter.KEYWORD_ONLY, default)
    if args.kwarg:
        yield _parameter(args.kwarg.arg, inspect.Parameter.VAR_KEYWORD, None)


def _fields(node: ast.ClassDef) -> Iterator[inspect.Parameter]:
    yield _parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD, None)
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            yield _parameter(field.target.id, inspect.Parameter.POSITIONAL_OR_KEYWORD, field.value)


def _parameter(name: str, kind: inspect._ParameterKind, default: ast.AST | None) -> inspect.Parameter:
    return inspect.Parameter(name, kind, default=_Text(default) if default else inspect.Parameter.empty)


def _callable(modules: Modules, found: Found) -> ast.AST | None:
    """The function that a call of `found` runs, or a dataclass."""
    node = found.node
    if found.state is not State.FOUND or found.instance:
        return None
    if isinstance(node, ast.ClassDef):
        init = modules.member(found, "__init__")
        if init.node is None and "dataclass" in _decorators(node):
            return node
        return init.node
    return node


def _binding(node: ast.AST) -> list[str]:
    return [name for name in _decorators(node) if name in _BINDING]


def _decorators(node: ast.AST) -> list[str]:
    """Their last names, calls or not: dataclass for @dataclasses.dataclass(frozen=True)."""
    expressions = getattr(node, "decorator_list", [])
    return [
        dotted(e.func if isinstance(e, ast.Call) else e)[-1:][0] for e in expressions if dotted(getattr(e, "func", e))
    ]
