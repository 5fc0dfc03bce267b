"""Which definitions that a patch depends on are not what they were: four versions of one Python file compared.

`old` and `new` are upstream's, `pre` is what the patch was applied to, `post` what it made of that. No git here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from ..hunk import Hunk, apply_hunks
from ..lines import changed_lines, printable
from .linemap import carry
from .pyast import Module, Symbol, defined_as, not_python, statement_texts

View = Callable[["bytes | None"], Hashable]
MODULE = "module"


@dataclass(frozen=True)
class Finding:
    """One definition that changed."""

    symbol: str
    what: str  # a clause about it
    text: str  # its canonical text in `new`; empty where it is gone
    lines: tuple[int, int] | None  # in `new`
    view: View  # of a version of the file: differs where this changed


def find_changes(
    old: bytes, new: bytes, pre: bytes, hunks: Sequence[Hunk], elsewhere: Callable[[str], Sequence[str]]
) -> Iterator[Finding]:
    """`elsewhere(name)`: the texts of the definitions of that last name in other files of the new upstream."""
    modules = [Module.read(data) for data in (old, new, pre, apply_hunks(pre, tuple(hunks)))]
    before, after, applied, result = modules
    if before is None or after is None or applied is None or result is None:
        broken = [(which, line) for which, data in (("old", old), ("new", new)) for line in [not_python(data)] if line]
        told = "; ".join(f"line {line} of upstream's {which} version is not Python" for which, line in broken)
        if old != new:
            what = f"cannot be compared, and the file changed ({told or 'the patch breaks it'})"
            yield Finding(MODULE, what, str(new), None, lambda data: data)
        return
    changed = sorted((line for hunk in hunks for line in changed_lines(hunk)), key=lambda line: line.added)
    touched = [(result if line.added else applied, line.place) for line in changed]
    there = [(module, symbol) for module, line in touched for symbol in [module.at(line)] if symbol]
    names = dict.fromkeys(symbol.name for _, symbol in there if symbol.name != MODULE)
    for name in names:
        yield from _definition(name, before, after, elsewhere)
    statements = list(_statements(before, after, [item for item in there if item[1].name == MODULE]))
    yield from statements
    for finding in _uses(before, after, _rebound(applied, result), {finding.text for finding in statements}):
        if finding.symbol not in names:
            yield finding


# ---- definitions: functions, methods, classes without their functions ----


def _definition(
    name: str, before: Module, after: Module, elsewhere: Callable[[str], Sequence[str]]
) -> Iterator[Finding]:
    was, now = before.symbols.get(name), after.symbols.get(name)
    view = defined_as(name)
    if was is None:  # the patch, or one before it, adds it
        if now is not None:
            what = "is added by the patch, and upstream now has its own"
            yield Finding(name, what, now.text, now.lines, view)
    elif now is None:
        last = name.rpartition(".")[2]
        moved = [symbol for other, symbol in after.symbols.items() if other.rpartition(".")[2] == last]
        if was.text in [symbol.text for symbol in moved] or was.text in elsewhere(last):
            return
        if len(moved) == 1:
            what = f"is {moved[0].name} now, and changed"
            yield Finding(name, what, moved[0].text, moved[0].lines, view)
        else:
            yield Finding(name, "is gone", "", None, view)
    elif was.text != now.text:
        yield Finding(name, "changed", now.text, now.lines, view)


# ---- module level ----


def _statements(before: Module, after: Module, there: Sequence[tuple[Module, Symbol]]) -> Iterator[Finding]:
    """Statements that the patch changes a part of, and upstream another part."""
    seen: set[str] = set()
    for module, symbol in there:
        first, last = carry(module.lines, before.lines, *symbol.lines)
        was = before.at(first) if first <= last else None
        if was is None or was.name != MODULE or was.is_import or was.text in seen:
            continue
        seen.add(was.text)
        if was.text in after.statements:
            continue
        start, end = carry(before.lines, after.lines, *was.lines)
        now = after.at(start) if start <= end else None
        head = printable(before.lines[was.first - 1].strip())
        view = _holds(was.text)
        if now is None or now.name != MODULE:
            yield Finding(MODULE, f"statement `{head}` is gone", "", None, view)
        else:
            yield Finding(MODULE, f"statement `{head}` changed", now.text, now.lines, view)


def _uses(before: Module, after: Module, names: frozenset[str], told: set[str]) -> Iterator[Finding]:
    """Code that has to do with names which the patch binds, binds to something else, or takes away."""
    for name in sorted(names & set(before.imports) & set(after.imports)):
        if before.imports[name] != after.imports[name]:
            what = f"has `{after.imports[name]}` now, where it had `{before.imports[name]}`"
            yield Finding(MODULE, what, after.imports[name], None, _imports(name))
    for symbol in after.symbols.values():
        was = before.symbols.get(symbol.name)
        if was is not None and was.text == symbol.text:
            continue
        alike = [other for other in before.symbols.values() if other.text == symbol.text]
        used, then = symbol.uses & names, was.uses & names if was else frozenset()
        view = defined_as(symbol.name)
        if used - then and not alike:
            what = f"uses {_list(used - then)} now, which the patch changes"
            yield Finding(symbol.name, what, symbol.text, symbol.lines, view)
        elif was is not None and (used or then):
            what = f"changed, and has to do with {_list(used | then)}, which the patch changes"
            yield Finding(symbol.name, what, symbol.text, symbol.lines, view)
    for statement in after.loose:
        used = statement.uses & names
        if used and not statement.is_import and statement.text not in before.statements | told:
            what = f"has a new statement that uses {_list(used)}, which the patch changes"
            yield Finding(MODULE, what, statement.text, statement.lines, _holds(statement.text))


def _rebound(applied: Module, result: Module) -> frozenset[str]:
    """Names that the patch binds to something else. A function whose body it changes keeps its name."""
    names = set(applied.bindings) | set(result.bindings)
    changed = {name for name in names if applied.bindings.get(name) != result.bindings.get(name)}
    return frozenset(name for name in changed if not (name in applied.symbols and name in result.symbols))


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _holds(text: str) -> View:
    def view(data: bytes | None) -> Hashable:
        return text in statement_texts(data)

    return view


def _imports(name: str) -> View:
    def view(data: bytes | None) -> Hashable:
        module = Module.read(data)
        return module.imports.get(name) if module else None

    return view
