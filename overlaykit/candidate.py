"""The project as it would be on the new base: written to a scratch folder, read back and built before it counts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .build import Built
from .errors import FixTheProjectFile, OverlayError
from .gitrepo import Repo
from .patchtable import render
from .plan import build_project
from .project import Project, read_project


@dataclass(frozen=True)
class Candidate:
    """`files` are what to install: relative path -> bytes, None deletes. `seen`: what they replace."""

    project: Project
    built: Built
    files: Mapping[str, bytes | None]
    seen: Mapping[str, bytes | None]


def make_candidate(
    repo: Repo, project: Project, commit: str, patches: Mapping[str, bytes], expected: str, scratch: Path
) -> Candidate:
    """`project` with its pin at `commit` and these patches.

    `expected`: a commit whose tree the patches must give, files that this clone lacks aside. Whatever `build` and
    `read_project` refuse is raised.
    """
    folder = scratch / "project"
    for part in ("overlay", "configs"):
        shutil.copytree(project.root / part, folder / part)
    names = [patch.name for patch in project.series]
    files: dict[str, bytes | None] = dict.fromkeys((f"patches/{name}" for name in names if name not in patches), None)
    files.update({f"patches/{name}": raw for name, raw in patches.items()})
    files["patches/series"] = _series((project.root / "patches" / "series").read_bytes(), names, patches)
    files["configs/upstream.yaml"] = _with(project.lock_file.read_bytes(), "commit", commit)
    _write(folder, files)
    (scratch / "built").mkdir()
    built = build_project(repo, read_project(folder), {}, scratch / "built")
    _require_same(repo, built.patches[-1].id if built.patches else built.base, expected)
    files["configs/upstream.yaml"] = _with(files["configs/upstream.yaml"] or b"", "result", f'"{built.overlay.tree}"')
    files["patches/README.md"] = render(read_project(folder).series).encode()
    _write(folder, files)
    seen = {path: _read(project.root / path) for path in files}
    return Candidate(read_project(folder), built, files, seen)


def _series(old: bytes, names: list[str], patches: Mapping[str, bytes]) -> bytes:
    """patches/series with its comments: lines of patches that are gone go, new ones follow what precedes them."""
    kept = [line for line in old.decode("utf-8").splitlines() if _listed(line) not in set(names) - set(patches)]
    known = {_listed(line) for line in kept}
    for name in patches:
        if name not in known:
            before = [at for at, line in enumerate(kept) if _listed(line) and _listed(line) < name]
            kept.insert(max(before, default=len(kept) - 1) + 1, name)
    return "".join(f"{line}\n" for line in kept).encode()


def _listed(line: str) -> str:
    return line.partition("#")[0].strip()


def _with(data: bytes, key: str, value: str) -> bytes:
    """configs/upstream.yaml with another value for one key; every other byte stays."""
    pattern = rb"(?m)^(%s:[^\S\r\n]*)[^\s#]+" % key.encode()
    changed, count = re.subn(pattern, lambda match: match[1] + value.encode(), data)
    if count != 1:
        raise FixTheProjectFile(f"configs/upstream.yaml has no line that starts with '{key}:' and names one.")
    return changed


def _require_same(repo: Repo, made: str, expected: str) -> None:
    """The rule that nothing may be installed without: what the written patches give is what was looked at."""
    ours, theirs = repo.tree(made), repo.tree(expected)
    present = repo.resolve(*(ours[path].id for path in ours))
    missing = {path for path, blob in zip(ours, present) if blob is None}
    differ = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    differ = [path for path in differ if path not in missing or path in theirs]
    if differ:
        listed = ", ".join(differ[:5])
        raise OverlayError(
            "The patches that were written do not give the tree that was rebased; nothing was installed.",
            f"They differ in {listed}.",
            "This is a mistake of apply.py: please report it with the patches.",
        )


def _write(folder: Path, files: Mapping[str, bytes | None]) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            (folder / path).write_bytes(data)


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
