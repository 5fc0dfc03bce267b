"""Same, moved, context only, changed, landed: what a rebase made of a patch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from futures import AUTOCAST, MODEL, Future
from patchmaker import git

from overlaykit.explaining.fate import Fate, fate

PATH = "model/base.py"
ABOVE = b"import contextlib\nimport torch\n"
Edit = Callable[[bytes], bytes]


def rebased(tmp_path: Path, files: dict[str, bytes], changes: dict[str, bytes | None]) -> Fate:
    """One patch, one commit of upstream's, a rebase that goes well."""
    future = Future(tmp_path / "repo", {PATH: MODEL, "other.py": b"other = 1\n"})
    future.upstream("Upstream moves on", changes)
    before = future.patch(files)
    assert future.rebase() is None
    after = future.after()
    return fate(before, after[0] if after else None)


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        (lambda text: text, Fate.SAME),
        (lambda text: text.replace(b"model.parameters()", b"model.weights()"), Fate.SAME),  # far below
        (lambda text: text.replace(ABOVE, ABOVE + b"import sys\n"), Fate.MOVED),
        (lambda text: text.replace(b'        enable = self.device() != "cpu"', b"        enable = True"), Fate.CONTEXT),
        (lambda text: text.replace(*AUTOCAST), Fate.LANDED),
    ],
)
def test_one_line_changed_upstream(tmp_path: Path, upstream: Edit, expected: Fate) -> None:
    assert rebased(tmp_path, {PATH: MODEL.replace(*AUTOCAST)}, {PATH: upstream(MODEL)}) is expected


def test_another_path_is_moved(tmp_path: Path) -> None:
    changes = {PATH: None, "core/model.py": MODEL}
    assert rebased(tmp_path, {PATH: MODEL.replace(*AUTOCAST), "other.py": b"other = 2\n"}, changes) is Fate.MOVED


def test_a_half_that_landed_is_changed(tmp_path: Path) -> None:
    both = MODEL.replace(*AUTOCAST).replace(b"torch.load(path)", b"torch.load(path, 'cpu')")
    assert rebased(tmp_path, {PATH: both}, {PATH: MODEL.replace(*AUTOCAST)}) is Fate.CHANGED


def test_a_file_that_landed_is_changed(tmp_path: Path) -> None:
    files = {PATH: MODEL.replace(*AUTOCAST), "hook.py": b"HOOK = 1\n"}
    assert rebased(tmp_path, files, {"hook.py": b"HOOK = 1\n"}) is Fate.CHANGED


def test_the_mode_of_the_file_is_context(tmp_path: Path) -> None:
    future = Future(tmp_path / "repo", {PATH: MODEL})
    (future.folder / PATH).chmod(0o755)
    git(future.folder, "commit", "-q", "-a", "-m", "executable")
    future.new = git(future.folder, "rev-parse", "HEAD").decode().strip()
    before = future.patch({PATH: MODEL.replace(*AUTOCAST)})
    assert future.rebase() is None
    assert fate(before, future.after()[0]) is Fate.CONTEXT


def test_another_line_by_hand_is_changed(tmp_path: Path) -> None:
    one = Future(tmp_path / "one", {PATH: MODEL}).patch({PATH: MODEL.replace(*AUTOCAST)})
    other = Future(tmp_path / "other", {PATH: MODEL}).patch({PATH: MODEL.replace(AUTOCAST[0], b"None")})
    assert fate(one, other) is Fate.CHANGED
    assert fate(one, one) is Fate.SAME
