"""Nothing of ours stays in the folder for temporary files: a run removes its own, and what killed runs left."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toys import ROOT, Toy, heed_interrupts


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("verb", ["apply", "check", "lock", "nonsense"])
def test_a_run_leaves_nothing(toy: Toy, temporary: Path, verb: str) -> None:
    done = toy.spawn(verb, env={"TMPDIR": str(temporary)})
    assert (done.code, leftovers(temporary)) == (2 if verb == "nonsense" else 0, [])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_is_cleaned_up_after(applied: Toy, temporary: Path, tmp_path: Path, how: signal.Signals) -> None:
    left = kill_during_check(applied, temporary, tmp_path, how)
    env = {"TMPDIR": str(temporary)}
    assert left == (how == signal.SIGINT)  # that one removes its own
    before = leftovers(temporary)
    assert applied.spawn("status", env=env).code == 0
    assert leftovers(temporary) == before, "at once it may still be in use, by a git that was not killed with it"
    for path in temporary.iterdir():
        os.utime(path, (time.time() - 4000,) * 2)
    assert applied.spawn("status", env=env).code == 0
    assert leftovers(temporary) == []


def kill_during_check(toy: Toy, temporary: Path, tmp_path: Path, how: signal.Signals) -> bool:
    """True when nothing was left. git stops at `ls-tree` until it is killed too."""
    programs = tmp_path / "programs"
    programs.mkdir()
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    stop = f"touch {tmp_path}/there; exec sleep 60"
    (programs / "git").write_text(f'#!/bin/sh\ncase "$*" in *ls-tree*) {stop};; esac\nexec {real} "$@"\n')
    (programs / "git").chmod(0o755)
    env = {**os.environ, "TMPDIR": str(temporary), "PATH": f"{programs}:{os.environ['PATH']}"}
    command = [sys.executable, str(ROOT / "apply.py"), *toy.arguments("check", "--set", "model_path=/other")]
    run = subprocess.Popen(command, env=env, start_new_session=True, preexec_fn=heed_interrupts)
    while not (tmp_path / "there").exists():
        assert run.poll() is None
        time.sleep(0.01)
    os.killpg(run.pid, how)
    run.wait(timeout=20)
    return not leftovers(temporary)


def test_what_is_in_use_or_not_ours_stays(applied: Toy, temporary: Path) -> None:
    """Old, but a run holds it; or old, but another program's."""
    names = ("overlaykit-link", "overlaykit-file", "overlay-other", "overlaykitchen")
    (temporary / "overlay-other").mkdir()
    (temporary / "overlaykitchen").mkdir()
    (temporary / "overlaykit-file").touch()
    (temporary / "overlaykit-link").symlink_to(applied.folder)
    (temporary / "overlaykit-used").mkdir()
    held = os.open(temporary / "overlaykit-used", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        for path in temporary.iterdir():
            os.utime(path, (time.time() - 10**6,) * 2, follow_symlinks=False)
        assert applied.spawn("status", env={"TMPDIR": str(temporary)}).code == 0
    finally:
        os.close(held)
    assert leftovers(temporary) == sorted([*names, "overlaykit-used"])
    assert applied.read("run_predict.py")
