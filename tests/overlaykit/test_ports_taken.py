"""A patch takes a name out of a module; upstream then begins to import it elsewhere."""

from __future__ import annotations

from pathlib import Path

from patchmaker import git, write_tree
from test_ports import CHAT, FILES, Future, subjects

from overlaykit.configs import Rules
from overlaykit.gitrepo import Repo
from overlaykit.ports.ports import PortKind, PortProblem, check_ports

OLD = {**FILES, "mini/user.py": b"from mini.chat import Chat\n", "mini/known.py": b"from mini.chat import load\n"}
PATCHED = {"mini/chat.py": CHAT.replace(b"def load(path, strict=True):\n    return path\n", b"")}


def problems(folder: Path, changes: dict[str, bytes]) -> tuple[PortProblem, ...]:
    """What is said when upstream makes these changes under a patch that removes `load`."""
    future = Future(folder)

    def commit(files: dict[str, bytes], subject: str) -> str:
        write_tree(future.repo, files)
        git(future.repo, "commit", "-q", "--allow-empty", "-m", subject)
        return future.head()

    bases = [commit(OLD, "Old")]
    bases.append(commit({**OLD, **changes}, "Use more"))
    trees = [commit({**files, **PATCHED}, "patched") for files in (OLD, {**OLD, **changes})]
    (folder / "run.py").write_bytes(b"x = 1\n")
    overlay = {"run.py": folder / "run.py"}
    return check_ports(Repo(future.repo / ".git"), trees[0], trees[1], overlay, Rules({}, ()), bases[0], bases[1])


def test_a_new_use_of_what_a_patch_takes_away(tmp_path: Path) -> None:
    changes = {"mini/user.py": b"import os\nfrom mini.chat import Chat, load\n"}
    (problem,) = problems(tmp_path, changes)
    assert (problem.kind, problem.where) == (PortKind.TAKEN, "mini/user.py:2")
    assert problem.what == "There is no mini.chat.load with the patches."
    assert problem.hint == "Keep the name in mini/chat.py, or patch mini/user.py too."
    assert subjects(problem) == ["Use more"]


def test_what_is_no_new_use(tmp_path: Path) -> None:
    changes = {
        "mini/known.py": b"import os\nfrom mini.chat import load\n",  # as before
        "mini/user.py": b"from mini.chat import Chat, gone\n",  # upstream has none either
        "mini/own.py": b"from run import x\nimport mini.other\n",  # the overlay's
        "mini/tried.py": b"try:\n    from mini.chat import load\nexcept ImportError:\n    load = None\n",
    }
    assert problems(tmp_path, changes) == ()
