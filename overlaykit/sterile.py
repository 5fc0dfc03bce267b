"""A bare repository beside another: it reads the other's objects, and none of its settings, attributes or hooks.

What is made there depends on the objects alone. `-c` cannot do this, for some settings have no value that means
"as if it were not set" (diff.external, alias.*, and every key that a later git invents).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .gitrepo import Repo, encode
from .gitrun import quoted


def sterile(repo: Repo, folder: Path) -> Repo:
    """A new bare repository in the empty `folder`, which must exist; new objects stay there."""
    shared = repo.line("rev-parse", "--path-format=absolute", "--git-path", "objects")
    shallow = Path(repo.line("rev-parse", "--path-format=absolute", "--git-path", "shallow"))
    more = dict(repo.variables).get("GIT_ALTERNATE_OBJECT_DIRECTORIES", "")  # quoted
    clean = Repo(folder)
    clean.git("init", "--bare", "--quiet", "--template=", "--initial-branch=none")
    rows = b"%s\n%s\n" % (quoted(shared), encode(more))
    (folder / "objects" / "info").mkdir(exist_ok=True)
    (folder / "objects" / "info" / "alternates").write_bytes(rows)
    if shallow.exists():  # which parents are missing is a fact about the objects
        shutil.copyfile(shallow, folder / "shallow")
    return clean
