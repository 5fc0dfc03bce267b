"""SIGKILL at any point of an export: the next one finishes or repeats it, and nothing of the user's is lost."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kills import state
from test_export import MODEL, PATCHED, commit, overlay, patches
from toys import Toy, copy_toy

from overlaykit import gitrepo
from overlaykit.install import pending, undo_install

Target = tuple[Any, tuple[str, ...]]
GIT: tuple[Target, ...] = ((gitrepo, ("execute",)),)
FILES: tuple[Target, ...] = ((os, ("rename", "replace")), (Path, ("unlink",)))


def killed(toy: Toy, at: int, targets: tuple[Target, ...], *words: str) -> int | None:
    """Run in a process that is killed before the call number `at`; how many calls there were, None if it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        calls = 0

        def watched(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **more)

            return call

        for owner, names in targets:
            for name in names:
                setattr(owner, name, watched(getattr(owner, name)))
        code = 70
        try:
            code = toy.run(*words).code
            os.write(write, str(calls).encode())
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    assert os.WIFSIGNALED(status) or status == 0
    return int(told) if told else None


def every(toy: Toy, tmp_path: Path, targets: tuple[Target, ...], step: int, last: int) -> Iterator[Toy]:
    """The toy after a kill at one point after the other."""
    calls = killed(copy_toy(toy.folder, tmp_path / "count"), 0, targets, "export")
    assert calls is not None
    for at in (at for at in range(1, calls + 1) if at % step == 0 or at > calls - last):
        copied = copy_toy(toy.folder, tmp_path / "copied")
        assert killed(copied, at, targets, "export") is None, at
        yield copied
        shutil.rmtree(copied.folder)


@pytest.fixture
def prepared(applied: Toy) -> Toy:
    """Commits of every kind, and work that is not committed."""
    commit(applied, "fixup! Choose autocast by device", {MODEL: PATCHED.replace(b"cpu", b"npu")})
    commit(applied, "amend! Drop what is old\n\nDrop old files\n\nAnother reason.")
    commit(applied, "Say hello", {"demo.py": b"print('hello')\n"})
    commit(applied, "Port", {"run_predict.py": None, "minigpt4/models/ported.py": b"PORT = 2\n"})
    applied.write("README.md", b"edited\n")
    applied.write("notes.txt", b"untracked\n")
    applied.write("demo.py", b"print('staged')\n")
    applied.git("add", "demo.py")
    return applied


def result(toy: Toy) -> object:
    return (
        patches(toy),
        overlay(toy),
        (toy.project / "configs" / "upstream.yaml").read_text().split("result")[1],
        state(toy),
    )


@pytest.fixture
def expected(prepared: Toy, tmp_path: Path) -> object:
    toy = copy_toy(prepared.folder, tmp_path / "undisturbed")
    toy.apply("export")
    return result(toy)


def finished(toy: Toy, expected: object) -> None:
    done = toy.run("export")
    assert done.code == 0, done.err
    assert result(toy) == expected
    assert "Nothing to export" in toy.apply("export").out
    assert "Nothing to do" in toy.apply().out
    assert not (toy.workspace / ".git" / "overlay" / "exported").exists()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 23], ids=["each", "some"])
def test_killed_before_a_git_command(prepared: Toy, expected: object, tmp_path: Path, step: int) -> None:
    """Those at the end, when the branch moves, are the ones that matter."""
    seen = set()
    for toy in every(prepared, tmp_path, GIT, step, 4):
        assert not pending(toy.project)
        done = toy.run("export", "--check")
        seen.add((done.code, "was interrupted" in done.out + done.err))
        finished(toy, expected)
    assert seen == {(1, False), (1, True), (5, True)}, "not begun; the branch has not moved; the swap was killed"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 9], ids=["each", "some"])
def test_killed_while_the_files_are_replaced(prepared: Toy, expected: object, tmp_path: Path, step: int) -> None:
    seen = set()
    for toy in every(prepared, tmp_path, FILES, step, 0):
        seen.add(pending(toy.project))
        if pending(toy.project):
            done = toy.run("export", "--check")
            assert (done.code, "being replaced" in done.err) == (5, True)
        finished(toy, expected)
    assert seen == {True, False}


def test_killed_while_the_files_are_replaced_and_undone(prepared: Toy, expected: object, tmp_path: Path) -> None:
    old = patches(prepared), overlay(prepared)
    for toy in every(prepared, tmp_path, FILES, 11, 0):
        if undo_install(toy.project):
            assert (patches(toy), overlay(toy)) == old
            finished(toy, expected)


def test_apply_does_what_a_killed_export_left(prepared: Toy, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project has the commits by then, so nobody is asked for --force; they are kept all the same."""
    mine = prepared.git("rev-parse", "overlay")
    with monkeypatch.context() as patched:
        patched.setattr("overlaykit.exporting.export.move_on", killed_here)
        assert prepared.run("export").code == 130
    assert f"branch my-work {mine}" in prepared.apply().out
    assert result(prepared) == expected
    assert prepared.git("for-each-ref", "--contains", mine, "refs/overlay/backup/")
    assert "Nothing to do" in prepared.apply().out
    assert "Nothing to export" in prepared.apply("export").out


def killed_here(*args: object) -> None:
    raise KeyboardInterrupt
