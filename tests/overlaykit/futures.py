"""Small upstreams with a patch and a future: what a rebase of the patch meets there."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from patchmaker import CLEAN, git, write_tree

from overlaykit.gitrepo import Repo
from overlaykit.patchfile import Patch, parse_patch

EXPORT = ("format-patch", "--stdout", "--full-index", "--no-renames", "--no-signature", "-1")
MODEL = b"""import contextlib
import torch


class BaseModel:
    def device(self):
        return "cuda:0"

    def maybe_autocast(self, dtype=None):
        enable = self.device() != "cpu"
        if enable:
            return torch.cuda.amp.autocast(dtype=dtype)
        return contextlib.nullcontext()

    def load(self, path):
        state = torch.load(path)
        self.load_state_dict(state)
        return self


def number_of_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())
"""
AUTOCAST = (b"torch.cuda.amp.autocast(dtype=dtype)", b"torch.autocast(self.kind, dtype=dtype)")
WHY = "Choose autocast by device\n\ntorch.cuda.amp.autocast switches itself off\nwithout CUDA.\n\nTested-By: test.py\n"


@dataclass
class Future:
    """`old` -> upstream's commits -> `new`, and patches made on `old`."""

    folder: Path
    files: dict[str, bytes]
    old: str = ""
    new: str = ""
    patches: list[str] = field(default_factory=list)  # commits

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        git(self.folder, "init", "-q", "-b", "main")
        self.old = self.new = self._commit(self.files, "base", "2024-01-01")

    @property
    def repo(self) -> Repo:
        return Repo(self.folder / ".git", self.folder)

    def upstream(self, subject: str, changes: Mapping[str, bytes | None], date: str = "2024-02-03") -> str:
        """A commit of upstream's; None deletes a file."""
        git(self.folder, "checkout", "-q", "--detach", self.new)
        self.files = {path: data for path, data in {**self.files, **changes}.items() if data is not None}
        self.new = self._commit(self.files, subject, date)
        return self.new

    def patch(self, changes: Mapping[str, bytes | None], message: str = WHY) -> Patch:
        """The next patch of the series, made on the old base and the patches before."""
        parent = self.patches[-1] if self.patches else self.old
        git(self.folder, "checkout", "-q", "--detach", parent)
        names = git(self.folder, "ls-files", "-z").decode().split("\0")[:-1]
        files = {name: (self.folder / name).read_bytes() for name in names}
        files = {path: data for path, data in {**files, **changes}.items() if data is not None}
        self.patches.append(self._commit(files, message, "2024-03-01"))
        return parse_patch(f"{len(self.patches):04}-words.patch", git(self.folder, *EXPORT, self.patches[-1]))

    def rebase(self) -> Repo | None:
        """`git rebase --onto` in a linked worktree; the worktree when it stopped, None when all went well."""
        worktree = self.folder.with_name(self.folder.name + "-rebase")
        git(self.folder, "worktree", "add", "-q", "--detach", str(worktree), self.patches[-1])
        options = ("-c", "merge.conflictStyle=diff3", "rebase", "-q", "--onto", self.new, self.old)
        done = subprocess.run(["git", "-C", str(worktree), *options], capture_output=True, env=CLEAN)
        self.rebased = worktree
        return self._linked(worktree) if done.returncode else None

    def after(self) -> list[Patch]:
        """The patches as the finished rebase left them."""
        commits = git(self.rebased, "rev-list", "--reverse", f"{self.new}..HEAD").decode().split()
        return [parse_patch(f"{n:04}-words.patch", git(self.rebased, *EXPORT, c)) for n, c in enumerate(commits, 1)]

    def _linked(self, worktree: Path) -> Repo:
        git_dir = git(worktree, "rev-parse", "--absolute-git-dir").decode().strip()
        return Repo(Path(git_dir), worktree)

    def _commit(self, files: Mapping[str, bytes], message: str, date: str) -> str:
        write_tree(self.folder, files)
        who = {"GIT_AUTHOR_DATE": f"{date}T12:00:00+0000", "GIT_AUTHOR_NAME": "Grace Hopper"}
        git(self.folder, "commit", "-q", "--allow-empty", "-m", message, **who)
        return git(self.folder, "rev-parse", "HEAD").decode().strip()
