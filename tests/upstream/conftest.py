"""Run a few lines of Python inside the patched workspace, in a process of their own.

Each snippet sees the workspace first on sys.path, as `python run_predict.py` would, and may not import the
packages that the port promises to do without. Most are forked from one process that has imported torch and
transformers, which takes longer than what they do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
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


# A line names a snippet and the files for its output; the answer is its exit code. The snippet runs at the end of the
# program, so that Python itself reports its errors and ends it.
_FORK = """
import gc, json, signal
import torch
from transformers import BertConfig, LlamaForCausalLM, LlamaTokenizer
gc.freeze()  # else each fork copies all of this when it ends
for line in sys.stdin:
    code, *files = json.loads(line)
    if os.fork() == 0:
        signal.alarm(240)
        for number, path in enumerate([os.devnull, *files]):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
        break
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
else:
    sys.exit()
exec(code)
"""


class Snippet:
    """Runs snippets; `check` expects success and gives stdout, `fail` expects an error and gives stderr.

    `fresh`: in a new interpreter, which has imported nothing yet.
    """

    def __init__(self, workspace: Path, folder: Path) -> None:
        self.workspace = workspace
        self.files = [str(folder / name) for name in ("stdout", "stderr")]
        self.forks: subprocess.Popen[str] | None = None

    def start(self, code: str, blocked: list[str]) -> subprocess.Popen[str]:
        here = str(Path(__file__).parent)
        prelude = _PRELUDE.format(blocked=tuple(blocked), workspace=str(self.workspace), here=here)
        env = dict(os.environ, HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", PYTHONDONTWRITEBYTECODE="1")
        env.pop("PYTHONPATH", None)
        command = [sys.executable, "-c", prelude + code]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.workspace, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def run(self, code: str, blocked: list[str], fresh: bool) -> tuple[int, str, str]:
        if fresh or blocked != NOT_NEEDED:
            process = self.start(code, blocked)
            stdout, stderr = process.communicate(timeout=240)
            return process.returncode, stdout, stderr
        if self.forks is None:
            self.forks = self.start(_FORK, blocked)
        assert self.forks.stdin is not None
        assert self.forks.stdout is not None
        print(json.dumps([code, *self.files]), file=self.forks.stdin, flush=True)
        returncode = self.forks.stdout.readline()
        assert returncode, self.forks.communicate()[1]
        stdout, stderr = (Path(name).read_text(encoding="utf-8") for name in self.files)
        return int(returncode), stdout, stderr

    def check(self, code: str, blocked: list[str] = NOT_NEEDED, fresh: bool = False) -> str:
        returncode, stdout, stderr = self.run(code, blocked, fresh)
        assert returncode == 0, stderr
        return stdout

    def fail(self, code: str, blocked: list[str] = NOT_NEEDED, fresh: bool = False) -> str:
        returncode, stdout, stderr = self.run(code, blocked, fresh)
        assert returncode != 0, f"was expected to fail:\n{stdout}"
        return stderr


@pytest.fixture(scope="session")
def snippet(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snippet]:
    snippets = Snippet(workspace, tmp_path_factory.mktemp("snippet"))
    yield snippets
    if snippets.forks is not None:
        snippets.forks.communicate()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic weights, in the seed's folders."""
    from verification.synthetic import write_tiny

    folder = tmp_path_factory.mktemp("weights") / "tiny"
    write_tiny(folder, seed=0)
    return folder
