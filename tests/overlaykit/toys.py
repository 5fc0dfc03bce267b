"""A toy upstream and a toy project with patches, overlay and rules: everything that apply.py needs, in milliseconds."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchmaker import CLEAN, git, write_tree

ROOT = Path(__file__).resolve().parents[2]

BASE_MODEL = b"""import contextlib


class BaseModel:
    def device(self):
        return "cuda:0"

    def maybe_autocast(self, dtype=None):
        enable = self.device() != "cpu"
        if enable:
            return contextlib.nullcontext()
        return None
"""
EVAL_YAML = b"""model:
  arch: minigpt4  # the architecture
  ckpt: 'please set this value'
  low_resource: True

# how answers are judged
run:
  task: image_text_pretrain
"""
UPSTREAM = {
    ".gitignore": b"*.pth\noutputs/\n",
    "README.md": b"# Toy\n",
    "demo.py": b"import old\n\nprint('cuda')\n",
    "old.py": b"x = 1\n",
    "minigpt4/__init__.py": b"",
    "minigpt4/base_model.py": BASE_MODEL,
    "eval_configs/eval.yaml": EVAL_YAML,
    "figs/picture.png": b"\x89PNG\0\1\2" * 100,
}
# Each patch: the files as it leaves them; None deletes.
PATCHES: tuple[tuple[str, Mapping[str, bytes | None]], ...] = (
    (
        "Choose autocast by device",
        {"minigpt4/base_model.py": BASE_MODEL.replace(b'"cuda:0"', b'"auto"')},
    ),
    (
        "Drop what is old",
        {
            "old.py": None,
            "demo.py": b"print('auto')\n",
            "minigpt4/hook.py": b"HOOK = True\n",
            "eval_configs/eval.yaml": EVAL_YAML.replace(
                b"# the architecture\n", b"# the architecture\n  encoder: ''\n"
            ),
        },
    ),
)
OVERLAY = {"run_predict.py": b"print('answer')\n", "minigpt4/models/port.py": b"PORT = 1\n"}
RULES = b"""variables:
  model_path: /data/model
rules:
  eval_configs/eval.yaml:
    ckpt: {key: model.ckpt, value: "${model_path}/ckpt.pth"}
    encoder: {key: model.encoder, value: "${model_path}/eva.om"}
    low_resource: {key: model.low_resource, value: False}
"""


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Toy:
    """`upstream` (a repository), `project` (what this repository is to the real upstream), `workspace`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.upstream = folder / "upstream"
        self.project = folder / "project"
        self.workspace = folder / "MiniGPT-4"
        git_init(self.upstream)
        self.pin = commit(self.upstream, UPSTREAM, "base", executable=["eval_configs/eval.yaml"])
        for part in ("patches", "overlay", "configs"):
            (self.project / part).mkdir(parents=True)
        self.make_patches(PATCHES)
        self.write_overlay(OVERLAY)
        (self.project / "configs" / "paths.yaml").write_bytes(RULES)
        self.write_pin()
        assert self.run("lock").code == 0

    def write_pin(self, url: str = "", mirrors: Iterable[str] = (), result: str = "") -> None:
        lines = [
            f"url: {url or self.upstream}",
            f"mirrors: {json.dumps(list(mirrors))}",
            "branch: main",
            f"commit: {self.pin}  # the pin",
            f"result: {result or json.dumps('')}",
            "exclude: [figs/]",
        ]
        (self.project / "configs" / "upstream.yaml").write_text("\n".join(lines) + "\n")

    def make_patches(self, patches: Iterable[tuple[str, Mapping[str, bytes | None]]]) -> None:
        """Commit each on a branch of a clone, and export it the way a maintainer would."""
        folder = self.project / "patches"
        for path in folder.iterdir():
            path.unlink()
        maker = self.folder / f"maker-{len(list(self.folder.iterdir()))}"
        git(self.folder, "clone", "-q", str(self.upstream), str(maker))
        git(maker, "checkout", "-q", "--detach", self.pin)
        for number, (subject, changes) in enumerate(patches, 1):
            for path, data in changes.items():
                if data is None:
                    git(maker, "rm", "-q", path)
                else:
                    (maker / path).parent.mkdir(parents=True, exist_ok=True)
                    (maker / path).write_bytes(data)
            git(maker, "add", "-A")
            git(maker, "commit", "-q", "-m", f"{subject}\n\nBecause the toy needs it.\n\nTested-By: toys.py")
            options = ["--full-index", "--no-renames", "--no-signature", "-1", f"--start-number={number}"]
            git(maker, "format-patch", "-q", *options, "-o", str(folder))
        names = sorted(path.name for path in folder.glob("*.patch"))
        (folder / "series").write_text("# in this order\n" + "".join(f"{name}\n" for name in names))

    def write_overlay(self, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            (self.project / "overlay" / path).parent.mkdir(parents=True, exist_ok=True)
            (self.project / "overlay" / path).write_bytes(data)

    def arguments(self, *words: str) -> list[str]:
        return ["--project", str(self.project), "--workspace", str(self.workspace), *words]

    def run(self, *words: str) -> Run:
        """apply.py in this process: fast."""
        import apply

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = apply.main(self.arguments(*words))
        return Run(code, out.getvalue(), err.getvalue())

    def apply(self, *words: str) -> Run:
        """As `run`, and it must succeed."""
        done = self.run(*words)
        assert done.code == 0, done.out + done.err
        return done

    def spawn(self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, **more: Any) -> Run:
        """apply.py as a user starts it."""
        command = [sys.executable, str(ROOT / "apply.py"), *self.arguments(*words)]
        environment = {**os.environ, **(env or {})}
        done = subprocess.run(command, cwd=cwd or self.folder, env=environment, capture_output=True, text=True, **more)
        return Run(done.returncode, done.stdout, done.stderr)

    def git(self, *args: str) -> str:
        return git(self.workspace, *args).decode().strip()

    def read(self, path: str) -> bytes:
        return (self.workspace / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        (self.workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (self.workspace / path).write_bytes(data)

    def dirty(self) -> list[str]:
        """What the user's own `git status` shows, ignored files included."""
        return self.git("status", "--porcelain", "--ignored", "-uall").split("\n") if self.git("status", "-s") else []


def heed_interrupts() -> None:
    """For `preexec_fn`: tests that run in the background ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def git_init(folder: Path) -> None:
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")


def commit(folder: Path, files: Mapping[str, bytes], message: str, executable: Iterable[str] = ()) -> str:
    write_tree(folder, files)
    for path in executable:
        git(folder, "update-index", "--chmod=+x", path)
        (folder / path).chmod(0o755)
    git(folder, "commit", "-q", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD").decode().strip()


def snapshot(folder: Path, inside_git: bool = True) -> dict[str, tuple[Any, ...]]:
    """Everything that can be seen of a folder from outside: kinds, modes, mtimes, contents."""
    seen: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] == ".git" and not inside_git:
            continue
        about = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        seen[name] = (about.st_mode, about.st_mtime_ns, content)
    return seen


__all__ = ["CLEAN", "PATCHES", "ROOT", "Run", "Toy", "commit", "git", "git_init", "snapshot"]


def copy_toy(master: Path, folder: Path) -> Toy:
    """A toy of one's own, much faster than a new one."""
    shutil.copytree(master, folder, symlinks=True)
    toy = object.__new__(Toy)
    toy.folder, toy.upstream, toy.project = folder, folder / "upstream", folder / "project"
    toy.workspace = folder / "MiniGPT-4"
    pin = (toy.project / "configs" / "upstream.yaml").read_text()
    (toy.project / "configs" / "upstream.yaml").write_text(pin.replace(str(master), str(folder)))
    toy.pin = next(line.split()[1] for line in pin.split("\n") if line.startswith("commit:"))
    return toy


def outcome(toy: Toy, **env: str) -> dict[str, str]:
    listing = ["for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/overlay"]
    refs = git(toy.workspace, *listing, **env)
    files = {name: str((seen[0], seen[2])) for name, seen in snapshot(toy.workspace, inside_git=False).items()}
    return {"refs": refs.decode(), **files}
