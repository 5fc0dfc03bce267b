"""Several files of the project are replaced together or not at all, whenever the run is killed."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toys import Toy

from overlaykit.errors import FixTheCommand, SaveYourWork, TryAgain
from overlaykit.gitrepo import GitFailed
from overlaykit.install import STAGED, finish_install, install, pending, undo_install
from overlaykit.project import read_project

OLD = {"patches/a": b"a\n", "patches/b": b"b\n", "overlay/deep/er/c": b"c\n", "configs/d": b"d\n"}
FILES = {"patches/a": b"A\n", "patches/b": None, "overlay/deep/er/c": None, "overlay/new/e": b"E\n"}
NEW = {"patches/a": b"A\n", "overlay/new/e": b"E\n", "configs/d": b"d\n"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "root")


def make(root: Path) -> Path:
    for path, data in OLD.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    (root / "patches" / "b").chmod(0o755)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_all_files_are_replaced(root: Path) -> None:
    install(root, FILES, OLD)
    assert files(root) == NEW
    assert not pending(root)
    assert not (root / "overlay" / "deep").exists(), "a folder whose last file goes, goes too"
    assert finish_install(root) is undo_install(root) is False
    install(root, FILES, NEW)
    assert files(root) == NEW


@pytest.mark.parametrize("path", ["patches/a", "configs/d", "overlay/new/e"])
def test_a_file_that_changed_meanwhile_is_not_lost(root: Path, path: str) -> None:
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_bytes(b"mine\n")
    before = files(root)
    with pytest.raises(SaveYourWork, match="was changed while this ran"):
        install(root, FILES, {**OLD, "overlay/new/e": None})
    assert files(root) == before


@pytest.mark.parametrize("path", ["../x", "patches/../../x", "/tmp/x", "link/x", "x", ""])
def test_nothing_is_written_outside(root: Path, tmp_path: Path, path: str) -> None:
    (root / "link").symlink_to(tmp_path)
    before = files(tmp_path)
    with pytest.raises(FixTheCommand):
        install(root, {"patches/a": b"A\n", path: b"x\n"}, {})
    assert files(tmp_path) == before


def test_a_link_or_folder_is_not_replaced(root: Path, tmp_path: Path) -> None:
    (root / "patches" / "link").symlink_to(tmp_path / "elsewhere")
    for path in ("patches/link", "overlay/deep"):
        with pytest.raises(SaveYourWork):
            install(root, {"patches/a": b"A\n", path: b"x\n"}, {})
    assert (root / "patches" / "a").read_bytes() == b"a\n"


def test_one_at_a_time(root: Path) -> None:
    descriptor = os.open(root, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    for action in (lambda: install(root, FILES, OLD), lambda: finish_install(root), lambda: undo_install(root)):
        with pytest.raises(TryAgain, match="Another run"):
            action()
    os.close(descriptor)
    assert files(root) == OLD


def killed_at(root: Path, at: int) -> bool:
    """Install in a process that dies before the call number `at` of those that change the disk."""
    child = os.fork()
    if child == 0:
        left = at

        def dying(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **more)

            return call

        for owner, names in ((os, ("rename", "replace", "fsync", "unlink", "mkdir", "rmdir")), (Path, ("unlink",))):
            for name in names:
                setattr(owner, name, dying(getattr(owner, name)))
        try:
            install(root, FILES, OLD)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_at_any_step(tmp_path: Path) -> None:
    """Not begun, or pending: then it can be finished and undone, and both can be killed and repeated."""
    seen = set()
    at = 1
    while killed_at(make(tmp_path / str(at)), at):
        root = tmp_path / str(at)
        was_pending = pending(root)
        seen.add(was_pending)
        if at % 2:
            assert undo_install(root) is was_pending
            assert files(root) in ((OLD,) if was_pending else (OLD, NEW))
            assert not was_pending or (root / "patches" / "b").stat().st_mode & 0o777 == 0o755
        else:
            assert finish_install(root) is was_pending
            assert files(root) in ((NEW,) if was_pending else (OLD, NEW))
        assert not list(root.glob(".overlay-*"))
        at += 1
    assert seen == {True, False}
    assert at > 20


def stopped_half_way(root: Path) -> Path:
    at = 1
    while killed_at(make(root), at):
        if pending(root) and (root / "patches" / "a").read_bytes() == b"A\n":
            return root
        undo_install(root)
        at += 1
    raise AssertionError("never half way")


def test_an_edit_after_the_kill_is_not_lost(root: Path) -> None:
    stopped_half_way(root)
    (root / "patches" / "a").write_bytes(b"mine\n")
    for action in (finish_install, undo_install):
        with pytest.raises(SaveYourWork, match="was edited after"):
            action(root)
        assert (root / "patches" / "a").read_bytes() == b"mine\n"
    (root / "patches" / "a").write_bytes(b"a\n")
    assert finish_install(root)
    assert files(root) == NEW


def test_a_damaged_plan_is_named(root: Path) -> None:
    stopped_half_way(root)
    (root / STAGED / "plan.json").write_bytes(b"{")
    with pytest.raises(SaveYourWork, match="cannot be read"):
        finish_install(root)


def test_a_disk_that_fails_half_way_leaves_the_old_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, calls = os.replace, []

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(GitFailed, match="No space left"):
        install(root, FILES, OLD)
    assert files(root) == OLD
    assert not pending(root)


def test_a_project_in_between_is_not_read(toy: Toy) -> None:
    (toy.project / STAGED).mkdir()
    with pytest.raises(TryAgain, match="rebase --abort"):
        read_project(toy.project)
    done = toy.run("check")
    assert (done.code, "being replaced" in done.err) == (5, True)


def test_a_folder_becomes_a_file_and_a_file_a_folder(root: Path) -> None:
    changes = {"overlay/deep/er/c": None, "overlay/deep": b"file\n", "patches/a": None, "patches/a/b": b"below\n"}
    install(root, changes, OLD)
    assert files(root) == {
        "patches/b": b"b\n",
        "configs/d": b"d\n",
        "overlay/deep": b"file\n",
        "patches/a/b": b"below\n",
    }
    (root / "patches" / "a" / "mine").write_bytes(b"mine\n")
    with pytest.raises(SaveYourWork, match="mine is in the way"):
        install(root, {"patches/a/b": None, "patches/a": b"a\n"}, {})


@pytest.mark.parametrize("length", [250, 255])
def test_a_name_too_long_to_write_beside_leaves_nothing_begun(root: Path, length: int) -> None:
    """A staged install that can neither be finished nor undone would stop every later run."""
    with pytest.raises(GitFailed, match="File name too long"):
        install(root, {**FILES, "overlay/" + "x" * length: b"x\n"}, OLD)
    assert files(root) == OLD
    assert not pending(root)
    install(root, FILES, OLD)
    assert files(root) == NEW
