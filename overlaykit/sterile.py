"""A bare repository beside another: it reads the other's objects, and none of its settings, attributes or hooks.

What is made there depends on the objects alone. `-c` cannot do this, for some settings have no value that means
"as if it were not set" (diff.external, alias.*, and every key that a later git invents).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .gitrepo import Repo, encode


def sterile(repo: Repo, folder: Path) -> Repo:
    """A new bare repository in the empty `folder`, which must exist; new objects stay there."""
    shared = repo.line("rev-parse", "--path-format=absolute", "--git-path", "objects")
    shallow = Path(repo.line("rev-parse", "--path-format=absolute", "--git-path", "shallow"))
    more = dict(repo.variables).get("GIT_ALTERNATE_OBJECT_DIRECTORIES", "")
    clean = Repo(folder)
    clean.git("init", "--bare", "--quiet", "--template=", "--initial-branch=none")
    # One path a line, quoted, for a path may hold anything.
    rows = b"".join(b'"%s"\n' % _quoted(path) for path in (shared, *more.split(":")) if path)
    (folder / "objects" / "info").mkdir(exist_ok=True)
    (folder / "objects" / "info" / "alternates").write_bytes(rows)
    if shallow.exists():  # which parents are missing is a fact about the objects
        shutil.copyfile(shallow, folder / "shallow")
    return clean


def _quoted(path: str) -> bytes:
    return encode(path).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
