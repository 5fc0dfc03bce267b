"""Names that patches take out of upstream's modules, and that upstream has begun to import elsewhere.

Within a patched file this is drift; here it is about the other files, which no patch touches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from .problems import Files, PortKind, PortProblem, Sides
from .pymodules import Modules, State
from .pyuses import read_uses


def find_taken(sides: Sides, overlay: Mapping[str, Path]) -> Iterator[PortProblem]:
    """Uses in new or changed files of upstream's that work there, and not on top of the patches."""
    before, after = sides.old.entries, sides.new.entries
    changed = [path for path in after if path.endswith(".py") and before.get(path) != after[path]]
    if not changed:
        return
    plain = Files(sides.repo, sides.new_base)
    ours = {path: file.read_bytes() for path, file in overlay.items() if path.endswith(".py")}
    theirs = Modules(plain.ending(".py"), plain.entries)
    patched = Modules({**sides.new.ending(".py"), **ours}, {**after, **overlay})
    for path in changed:
        was = _used(path, sides.old.ending(".py").get(path))
        for names, line in _used(path, sides.new.ending(".py").get(path)).items():
            now = patched.find(names)
            if names in was or now.state is not State.MISSING or theirs.find(names).state is not State.FOUND:
                continue
            name = ".".join(names[: now.depth + 1])
            culprits = sides.who(path, lambda data, path=path, names=names: names in _used(path, data))  # type: ignore[misc]
            hint = f"Keep the name in {now.path}, or patch {path} too."
            yield PortProblem(PortKind.TAKEN, f"{path}:{line}", f"There is no {name} with the patches.", culprits, hint)


def _used(path: str, data: bytes | None) -> dict[tuple[str, ...], int]:
    """Dotted name -> the first line that uses it."""
    try:
        uses = read_uses(path, data or b"").names
    except SyntaxError:
        return {}
    return {use.names: use.line for use in reversed(uses)}
