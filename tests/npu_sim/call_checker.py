"""Judge every use of torch_npu in a source file against the operations' real schemas, without importing it.

`problems(source, snapshot)` finds each `torch_npu.…`, `torch.ops.npu.…` and `torch.npu.…` and binds the arguments of
each call to the schema of every release in the snapshot (op_schemas.json): names, number of positional arguments,
keyword-only and required ones, and the types of literal values. What it cannot judge, it reports as a problem.
It shows that a call would be accepted, never what it computes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

# Names for which the port asks the installed release first: (name, the parameter it asks for). Releases without that
# parameter never see the call. llama_graph.NpuRecording.available is where it asks.
ASKED_FIRST = {"graph": "auto_dispatch_capture"}
PLAIN_VALUES = {"torch_npu.__version__"}
_LITERALS = {"int": (int,), "SymInt": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


class Parameter(NamedTuple):
    name: str
    kind: str  # as the schema writes it, "" for a Python function
    required: bool
    keyword_only: bool


class Use(NamedTuple):
    line: int
    name: str  # torch_npu.npu_rms_norm, torch.ops.npu.…, torch.npu.…
    call: ast.Call | None


def problems(source: str, snapshot: dict, takers: frozenset = frozenset()) -> list[str]:
    """One sentence per wrong or unjudged use, with its line. takers: see `module_takers`."""
    found = []
    for use in uses(ast.parse(source), takers):
        found += [f"line {use.line}: {use.name}: {problem}" for problem in _judge(use, snapshot)]
    return found


def module_takers(sources: list[str]) -> frozenset:
    """(function, place) of every parameter called torch_npu: the module may be handed over there, because what such
    a function does with the name is judged as a use of the module."""
    functions = [node for text in sources for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    return frozenset(
        (function.name, place)
        for function in functions
        for place, argument in enumerate(function.args.args)
        if argument.arg == "torch_npu"
    )


def uses(tree: ast.Module, takers: frozenset = frozenset()) -> Iterator[Use]:
    """Every use of torch_npu and of torch.npu; bare mentions of the module count too, unless it is handed to one of
    `takers` or something asks whether it has a name: `hasattr(torch.npu, "graph")`, `getattr(torch.npu, "x", None)`.
    """
    roots = {"torch": "torch", "torch_npu": "torch_npu", **_imported(tree)}
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    asked = {id(call.args[0]) for call in calls.values() if _asks(call)}
    asked |= {
        id(value)
        for call in calls.values()
        for place, value in enumerate(call.args)
        if (getattr(call.func, "attr", getattr(call.func, "id", "")), place) in takers
    }
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if id(node) in inner or not isinstance(node, (ast.Attribute, ast.Name)):
            continue
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            continue
        parts = _chain(node, roots)
        name = ".".join(parts)
        npu = parts[:1] == ["torch_npu"] or parts[:2] == ["torch", "npu"] or parts[:3] == ["torch", "ops", "npu"]
        if npu and id(node) not in asked:
            yield Use(node.lineno, name, calls.get(id(node)))


def _imported(tree: ast.Module) -> dict[str, str]:
    """{local name: what it stands for} of everything that comes from torch or torch_npu."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({part.asname: part.name for part in node.names if part.asname and _ours(part.name)})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and _ours(node.module):
            names.update({part.asname or part.name: f"{node.module}.{part.name}" for part in node.names})
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value
            if isinstance(value, ast.Call) and [getattr(part, "value", None) for part in value.args] == ["torch_npu"]:
                names[node.targets[0].id] = "torch_npu"  # importlib.import_module("torch_npu")
    return names


def _ours(module: str) -> bool:
    return module.split(".")[0] in ("torch", "torch_npu")


def _asks(call: ast.Call) -> bool:
    name = getattr(call.func, "id", "")
    wanted = {"hasattr": 2, "getattr": 3}.get(name)
    return len(call.args) == wanted and isinstance(call.args[1], ast.Constant)


def _chain(node: ast.AST, roots: dict[str, str]) -> list[str]:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in roots:
        return []
    return [*roots[node.id].split("."), *parts]


def _judge(use: Use, snapshot: dict) -> list[str]:
    if use.name in PLAIN_VALUES:
        return []
    if use.call is None:
        return ["used without being called: this cannot be judged"]
    if any(isinstance(part, ast.Starred) for part in use.call.args) or any(not part.arg for part in use.call.keywords):
        return ["called with * or **: this cannot be judged"]
    prefix = re.match(r"torch_npu\.npu\.|torch\.npu\.|torch_npu\.|torch\.ops\.npu\.", use.name)
    rest = use.name[prefix.end() :] if prefix else ""
    if not prefix or not rest:
        return ["unknown: this cannot be judged"]
    if prefix.group() in ("torch.npu.", "torch_npu.npu."):
        return _judge_api(rest, use.call, snapshot)
    return _judge_op(rest, use.call, snapshot)


def _judge_api(name: str, call: ast.Call, snapshot: dict) -> list[str]:
    found = []
    texts = {release: entry["text"] for entry in snapshot["api"].get(name, ()) for release in entry["releases"]}
    if not texts:
        return ["not among the functions of torch.npu in the snapshot: add it to API in snapshot_schemas.py"]
    for release in snapshot["releases"]:
        text = texts.get(release)
        if name in ASKED_FIRST and ASKED_FIRST[name] not in (text or ""):
            continue
        wrong = f"{release} has no such name" if text is None else _bind(call, _python_parameters(text))
        if wrong:
            found.append(wrong if text is None else f"{wrong} ({release}: {name}({text}))")
    return found[:1]


def _judge_op(name: str, call: ast.Call, snapshot: dict) -> list[str]:
    base, _, overload = name.partition(".")
    schemas = {release: entry["text"] for entry in snapshot["ops"].get(base, ()) for release in entry["releases"]}
    if not schemas:
        return ["not among the operations of the snapshot: add it to OPS in snapshot_schemas.py if it exists"]
    for release in snapshot["releases"]:
        if release not in schemas:
            return [f"{release} has no such operation"]
        wanted = f"{base}.{overload}(" if overload not in ("", "default") else f"{base}("
        texts = [text for text in schemas[release] if text.startswith(wanted) or not overload]
        if not texts:
            return [f"{release} has no overload {overload}"]
        wrong = [_bind(call, op_parameters(text)) for text in texts]
        if all(wrong):
            return [f"{wrong[0]} ({release}: {texts[0]})"]
    return []


def op_parameters(schema: str) -> list[Parameter]:
    """`name(Tensor self, *, int n=1) -> Tensor` -> its parameters."""
    inside = re.match(r"[\w.]+\((.*)\) -> ", schema).group(1)
    found, keyword_only = [], False
    for part in filter(None, re.split(r",\s*(?![^\[(]*[\])])", inside)):
        if part.strip() == "*":
            keyword_only = True
            continue
        left, _, default = part.partition("=")
        kind, _, name = left.strip().rpartition(" ")
        found.append(Parameter(name, kind, not default, keyword_only))
    return found


def _python_parameters(text: str) -> list[Parameter]:
    arguments = ast.parse(f"def f({text}): pass").body[0].args
    required = len(arguments.args) - len(arguments.defaults)
    found = [Parameter(part.arg, "", place < required, False) for place, part in enumerate(arguments.args)]
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults)
    return found + [Parameter(part.arg, "", default is None, True) for part, default in pairs]


def _bind(call: ast.Call, parameters: list[Parameter]) -> str:
    """'' where the call fits, else what is wrong with it."""
    places = [part for part in parameters if not part.keyword_only]
    if len(call.args) > len(places):
        return f"{len(call.args)} positional arguments, {len(places)} are accepted"
    given = dict(zip([part.name for part in places], call.args))
    known = {part.name for part in parameters}
    for keyword in call.keywords:
        if keyword.arg in ("self", "input") and places and places[0].name in ("self", "input"):
            return f"{keyword.arg}= is called self in some releases and input in others: pass it by position"
        if keyword.arg not in known:
            return f"unknown argument {keyword.arg!r}"
        if keyword.arg in given:
            return f"{keyword.arg!r} is given twice"
        given[keyword.arg] = keyword.value
    missing = [part.name for part in parameters if part.required and part.name not in given]
    if missing:
        return f"missing {', '.join(missing)}"
    wrong = [part for part in parameters if part.name in given and not _fits(given[part.name], part.kind)]
    return f"{wrong[0].name!r} must be {wrong[0].kind}" if wrong else ""


def _fits(value: ast.expr, kind: str) -> bool:
    """Whether a literal can stand for `kind`; anything but a literal is believed."""
    if not isinstance(value, ast.Constant) or not kind:
        return True
    if value.value is None:
        return kind.endswith("?")
    accepted = _LITERALS.get(kind.rstrip("?"), ())
    return isinstance(value.value, accepted) and not (isinstance(value.value, bool) and bool not in accepted)
