"""The `Hooks:` trailer: which files a patch changes and which functions, methods or classes in them.

    Hooks: minigpt4/models/base_model.py (imports, BaseModel.init_llm), train.py

At module level of a Python file the name is `imports` for import statements and `module` for anything else; a file
without names is changed at module level only. New and deleted files, and files that are not Python, need no names.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..enclosing import enclosing, enclosing_in, parse_python
from ..lines import ChangedLine, changed_lines, split_lines
from ..nearest import did_you_mean
from ..patchfile import FileChange, Patch
from .finding import Finding, LintRule

IMPORTS, MODULE = "imports", "module"
_SYMBOL = re.compile(r"[\w.-]+")
_IMPORT = re.compile(r"\s*(?:import|from)\s")


@dataclass(frozen=True)
class Hook:
    path: str
    symbols: tuple[str, ...]


def parse_hooks(text: str) -> tuple[Hook, ...]:
    """Read the value of the trailer. Raises ValueError, with words for people."""
    hooks: list[Hook] = []
    at = 0
    while at < len(text):
        match = re.compile(r"\s*([^\s(),]+)\s*(?:\(([^()]*)\))?\s*(,|$)").match(text, at)
        if not match:
            raise ValueError(f"cannot be read from here: {text[at:].strip()!r}")
        symbols = tuple(part.strip() for part in match[2].split(",")) if match[2] is not None else ()
        for symbol in symbols:
            if not _SYMBOL.fullmatch(symbol):
                raise ValueError(f"{symbol!r} is no name of a function, method or class")
        if match[1] in [hook.path for hook in hooks]:
            raise ValueError(f"{match[1]} is named twice")
        hooks.append(Hook(match[1], symbols))
        at = match.end()
        if match[3] and not text[at:].strip():
            raise ValueError("it ends with a comma")
    return tuple(hooks)


def check_paths(patch: Patch, hooks: Sequence[Hook], where: str, line: int) -> Iterator[Finding]:
    """The trailer and the diff must name the same files."""
    changed, named = {change.path for change in patch.files}, {hook.path for hook in hooks}
    for path in sorted(named - changed):
        yield Finding(where, line, LintRule.HOOKS, f"the patch does not change {path}", did_you_mean(path, changed))
    for path in sorted(changed - named):
        yield Finding(where, line, LintRule.HOOKS, f"{path} is changed, but not named", "Add it to Hooks.")


def check_symbols(change: FileChange, hook: Hook, old: bytes, new: bytes, where: str, line: int) -> Iterator[Finding]:
    """The names must be the places that the lines of `change` belong to; `old` and `new` are the file's contents."""
    before, after = _Places(change.path, old), _Places(change.path, new)
    known = {IMPORTS, MODULE} | before.names() | after.names() if before.python else set(hook.symbols)
    for symbol in (symbol for symbol in hook.symbols if symbol not in known):
        why = did_you_mean(symbol, known)
        yield Finding(where, line, LintRule.HOOKS, f"{change.path} has no {symbol}, before or after", why)
    if change.old_path is None or change.new_path is None or not (hook.symbols or before.python):
        return
    touched: dict[str, ChangedLine] = {}
    for changed in (each for hunk in change.hunks for each in changed_lines(hunk)):
        name = (after if changed.added else before).of(changed.place) if changed.text.strip() else ""
        if name:
            touched.setdefault(name, changed)
    for symbol in hook.symbols:
        if symbol in known and not any(_covers(symbol, name) for name in touched):
            fix = f"It changes: {', '.join(sorted(touched)) or 'nothing with a name'}."
            yield Finding(where, line, LintRule.HOOKS, f"the patch changes nothing in {symbol} of {change.path}", fix)
    for name, changed in touched.items():
        named = any(_covers(symbol, name) for symbol in hook.symbols)
        if not named and (hook.symbols or name not in (IMPORTS, MODULE)):
            fix = f"Write it into the trailer: {change.path} ({', '.join((*hook.symbols, name))})"
            yield Finding(where, changed.at, LintRule.HOOKS, f"this line is in {name}, which Hooks does not name", fix)


def _covers(symbol: str, name: str) -> bool:
    return name == symbol or name.startswith(symbol + ".")


class _Places:
    """The names of one version of a file, and which of them a line belongs to."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.python = path.endswith(".py")
        self.lines = split_lines(data)
        self.tree: ast.Module | None = None
        if self.python:
            with suppress(SyntaxError):  # another Python's syntax: names are then found by indentation
                self.tree = parse_python("".join(self.lines))

    def names(self) -> set[str]:
        """Every function, method and class of a Python file, dotted."""
        if self.tree is None:
            return {enclosing(self.path, self.lines, number) for number in range(1, len(self.lines) + 1)} - {""}
        return set(_definitions(self.tree, ""))

    def of(self, line: int) -> str:
        """The dotted name, `imports`, `module`, or "" for a line at top level that is no statement."""
        if self.tree is None:
            name = enclosing(self.path, self.lines, line)
            at_top = IMPORTS if _IMPORT.match(self.lines[line - 1]) else MODULE
            return name or (at_top if self.python else "")
        name = enclosing_in(self.tree, line)
        if name:
            return name
        statement = _statement(self.tree, line)
        if statement is None:
            return ""
        return IMPORTS if isinstance(statement, (ast.Import, ast.ImportFrom)) else MODULE


def _statement(node: ast.AST, line: int) -> ast.stmt | None:
    """The innermost statement around a line."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.ExceptHandler)) and child.lineno <= line <= (child.end_lineno or line):
            return _statement(child, line) or (child if isinstance(child, ast.stmt) else None)
    return None


def _definitions(node: ast.AST, prefix: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        name = f"{prefix}{child.name}" if named else ""  # type: ignore[attr-defined]
        if name:
            yield name
        yield from _definitions(child, f"{name}." if name else prefix)
