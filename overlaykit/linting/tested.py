"""The `Tested-By:` trailer: a test that pytest collects and runs. Whether it fails without the patch, `make ablation`
tells.

    Tested-By: tests/FILE.py::test_function, or tests/FILE.py::TestClass::test_method
"""

from __future__ import annotations

import ast
from pathlib import Path, PurePosixPath

from ..enclosing import parse_python
from ..nearest import did_you_mean

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def missing_test(project: Path, value: str) -> str:
    """Why pytest would find or run no test of this name; "" when it would."""
    name, *parts = value.split("::")
    file, path = project / name, PurePosixPath(name)
    inside = path.parts[:1] == ("tests",) and ".." not in path.parts and file.resolve().is_relative_to(project)
    if not parts or not inside or path.suffix != ".py":
        return f"{value} is not of the form tests/FILE.py::test_function"
    try:
        node: ast.AST = parse_python(file.read_bytes())
    except (OSError, SyntaxError) as error:
        return f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"
    if not (path.stem.startswith("test_") or path.stem.endswith("_test")):
        return f"{name} is no file of tests: pytest looks into test_*.py and *_test.py"
    parts[-1] = parts[-1].partition("[")[0]
    for number, part in enumerate(parts, 1):
        kinds = _FUNCTIONS if number == len(parts) else ast.ClassDef
        found = {child.name: child for child in ast.iter_child_nodes(node) if isinstance(child, kinds)}
        if part not in found:
            return f"{name} has no {'::'.join(parts)}. {did_you_mean(part, found)}"
        node = found[part]
        why = _why_no_test(node)
        if why:
            return f"{part} {why}"
    return ""


def _why_no_test(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    words = {word for decorator in node.decorator_list for word in _words(decorator)}
    if words & {"skip", "fixture"}:
        return "is no test: it is a fixture" if "fixture" in words else "is always skipped"
    if isinstance(node, ast.ClassDef):
        collected = node.name.startswith("Test") or node.bases  # unittest.TestCase may be among the bases
        return "" if collected else "holds no tests: its name does not start with Test"
    if not node.name.startswith("test"):
        return "is no test: its name does not start with test"
    says = [item for item in node.body if not isinstance(item, ast.Pass) and not _is_constant(item)]
    return "" if says else "is empty, so it cannot fail"


def _words(decorator: ast.expr) -> list[str]:
    """["pytest", "mark", "skip"] for @pytest.mark.skip("why")."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(called).split(".")


def _is_constant(node: ast.stmt) -> bool:
    """A docstring, or `...`."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
