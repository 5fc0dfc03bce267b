"""Run a few lines of Python inside the patched workspace, in a process of their own.

Each snippet sees the workspace first on sys.path, as `python run_predict.py` would, and may not import the
packages that the port promises to do without.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What upstream imports on the way to an answer and the port promises to do without.
NOT_NEEDED = [
    *("peft", "decord", "timm", "torchvision", "cv2", "webdataset", "wandb", "visual_genome"),
    *("pandas", "iopath", "skimage", "scipy", "matplotlib"),
]

# Hides packages as if they were not installed: `import` fails and importlib.util.find_spec gives None.
_PRELUDE = """
import os, sys
from importlib.machinery import PathFinder
def hide(find, names):
    return lambda name, path=None, target=None: None if name.split(".")[0] in names else find(name, path, target)
PathFinder.find_spec = hide(PathFinder.find_spec, {blocked!r})
sys.path.insert(0, {workspace!r})
sys.path.append({here!r})
"""


class Snippet:
    """Runs snippets; `check` expects success and gives stdout, `fail` expects an error and gives stderr."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace

    def run(self, code: str, blocked: tuple[str, ...] | list[str]) -> subprocess.CompletedProcess[str]:
        here = str(Path(__file__).parent)
        prelude = _PRELUDE.format(blocked=tuple(blocked), workspace=str(self.workspace), here=here)
        env = dict(os.environ, HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", PYTHONDONTWRITEBYTECODE="1")
        env.pop("PYTHONPATH", None)
        command = [sys.executable, "-c", prelude + code]
        return subprocess.run(command, cwd=self.workspace, env=env, capture_output=True, text=True, timeout=240)

    def check(self, code: str, blocked: tuple[str, ...] | list[str] = NOT_NEEDED) -> str:
        done = self.run(code, blocked)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fail(self, code: str, blocked: tuple[str, ...] | list[str] = NOT_NEEDED) -> str:
        done = self.run(code, blocked)
        assert done.returncode != 0, f"was expected to fail:\n{done.stdout}"
        return done.stderr


@pytest.fixture(scope="session")
def snippet(workspace: Path) -> Snippet:
    return Snippet(workspace)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic weights, in the seed's folders."""
    from verification.synthetic import write_tiny

    folder = tmp_path_factory.mktemp("weights") / "tiny"
    write_tiny(folder, seed=0)
    return folder
