"""The name of what a line belongs to: a method in Python, a key in YAML, else the last line that is not indented."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence

_HEADS = {
    ".py": re.compile(r"(\s*)(?:async\s+def|def|class)\s+(\w+)"),
    ".yaml": re.compile(r"(\s*)([\w.-]+)\s*:(?:\s|$)"),
    ".yml": re.compile(r"(\s*)([\w.-]+)\s*:(?:\s|$)"),
}
_DEEPEST = 200
_ANY = re.compile(r"()([A-Za-z_$].*)")  # git's default for hunk headers


def enclosing(path: str, lines: Sequence[str], line: int) -> str:
    """The dotted name around the 1-based `line` of a file, e.g. "BaseModel.maybe_autocast"; "" at top level."""
    suffix = "." + path.rpartition(".")[2]
    if suffix == ".py":
        try:
            return enclosing_in(parse_python("".join(lines)), line)
        except SyntaxError:  # conflict markers, Python 2: fall back to reading indentation
            pass
    return _by_indentation(lines, line, _HEADS.get(suffix, _ANY))


def parse_python(source: str | bytes) -> ast.Module:
    """Any text; it is not run. Raises SyntaxError alone, also for a NUL byte, and for what is nested further than
    people write and than code that walks down a tree can follow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about upstream's escape sequences
        try:
            tree = ast.parse(source)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error) or "nested too deeply") from error
    level: list[ast.AST] = [tree]
    for _ in range(_DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise SyntaxError("nested too deeply")
    return tree


def enclosing_in(tree: ast.Module, line: int) -> str:
    """As `enclosing`, for a Python file that is parsed already."""
    return ".".join(_in_python(tree, line))


def _in_python(tree: ast.AST, line: int) -> list[str]:
    for node in ast.iter_child_nodes(tree):
        start = getattr(node, "lineno", None)
        if start is None:
            names = _in_python(node, line)  # an operator or a context: no position, no children that matter
            if names:
                return names
            continue
        start = min([start, *(item.lineno for item in getattr(node, "decorator_list", ()))])
        if start <= line <= (getattr(node, "end_lineno", None) or start):
            own = [node.name] if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) else []
            return own + _in_python(node, line)
    return []


def _by_indentation(lines: Sequence[str], line: int, head: re.Pattern[str]) -> str:
    """Walk upwards; each head that is indented less than everything below it encloses the line."""
    names: list[str] = []
    depth = None
    for text in reversed(lines[:line]):
        if not text.strip():
            continue
        indent = len(text.expandtabs()) - len(text.expandtabs().lstrip())
        match = head.match(text)
        if match and (depth is None or indent < depth):
            names.insert(0, match[2].strip())
        if depth is None or indent < depth:
            depth = indent
        if depth == 0:
            break
    return ".".join(names)
