"""Killed in the middle of the swap of files, apply.py and the real git together; see test_kill.py."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kills import REAL, give_the_user_files, lost_nothing, path_with, state
from toys import ROOT, Toy, copy_toy, git


@pytest.fixture(scope="module")
def big(toy_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy whose swap writes 800 files, so that there is time to kill it in the middle."""
    toy = copy_toy(toy_master, tmp_path_factory.mktemp("big") / "toy")
    toy.write_overlay({f"many/{number:04}.py": b"x = 1\n" * number for number in range(800)})
    assert toy.run("lock").code == 0
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    give_the_user_files(toy)
    return toy.folder


@pytest.fixture(scope="module")
def undisturbed(big: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a run that nobody kills leaves."""
    toy = copy_toy(big, tmp_path_factory.mktemp("undisturbed") / "toy")
    toy.apply()
    return state(toy)


ALSO_SEEN = ("many/0000.py", "many/0400.py", "late", "index.lock")


@pytest.mark.parametrize(
    "seen", ["old.py gone", "many/0100.py", *(pytest.param(seen, marks=pytest.mark.slow) for seen in ALSO_SEEN)]
)
def test_killed_inside_the_swap(big: Path, undisturbed: dict[str, object], tmp_path: Path, seen: str) -> None:
    """apply.py and git die together once the checkout has come as far as `seen`."""
    toy = copy_toy(big, tmp_path / "toy")
    ready = {
        "old.py gone": f"[ ! -e {toy.workspace}/old.py ]",
        "index.lock": f"[ -e {toy.workspace}/.git/index.lock ]",
        "late": f"[ -e {toy.workspace}/run_predict.py ]",
    }.get(seen, f"[ -e {toy.workspace}/{seen} ]")
    script = f"""
case " $* " in *" checkout "*)
    {REAL} "$@" & child=$!
    until {ready}; do kill -0 $child 2>/dev/null || break; done
    kill -9 $child; kill -9 $PPID; exit 1;;
esac
exec {REAL} "$@"
"""
    killed = toy.spawn(env=path_with(tmp_path / "bin", script))
    assert killed.code == -signal.SIGKILL
    after_the_kill(toy, undisturbed)


def after_the_kill(toy: Toy, undisturbed: dict[str, object]) -> None:
    lost_nothing(toy)
    assert (toy.workspace / ".git" / "overlay" / "journal.json").exists(), "it was not killed inside the swap"
    assert toy.apply("status", "--json").json["outcome"] == "interrupted"
    checked = toy.run("check")
    assert (checked.code, "was interrupted" in checked.err) == (5, True)
    assert "an earlier run was interrupted" in toy.apply().out
    assert state(toy) == undisturbed
    assert "Nothing to do" in toy.apply().out


def test_killed_while_a_file_is_half_written(big: Path, undisturbed: dict[str, object], tmp_path: Path) -> None:
    """What a kill inside write(2) leaves: the beginning of a file. It equals neither tree's blob."""
    toy = half_way(big, tmp_path)
    with (toy.workspace / "many" / "0050.py").open("r+b") as file:
        file.truncate(7)
    (toy.workspace / "many" / "0051.py").write_bytes(b"")
    after_the_kill(toy, undisturbed)


def test_files_that_the_user_edits_after_the_kill_are_theirs(big: Path, tmp_path: Path) -> None:
    toy = half_way(big, tmp_path)
    toy.write("many/0050.py", b"mine\n")
    toy.write("demo.py", b"mine too\n")
    done = toy.run()
    assert done.code == 3, done.err
    assert "many/0050.py" in done.err
    assert "demo.py" in done.err
    assert toy.read("many/0050.py") == b"mine\n"
    assert toy.read("demo.py") == b"mine too\n"
    assert not (toy.workspace / "many" / "0049.py").exists(), "the rest was undone"
    assert toy.git("symbolic-ref", "HEAD") == "refs/heads/main"
    toy.apply("--force")
    assert toy.read("many/0050.py") == b"x = 1\n" * 50


def half_way(big: Path, tmp_path: Path) -> Toy:
    toy = copy_toy(big, tmp_path / "toy")
    script = f"""
case " $* " in *" checkout "*)
    {REAL} "$@" & child=$!
    until [ -e {toy.workspace}/many/0100.py ]; do kill -0 $child 2>/dev/null || break; done
    kill -9 $child; kill -9 $PPID; exit 1;;
esac
exec {REAL} "$@"
"""
    assert toy.spawn(env=path_with(tmp_path / "bin", script)).code == -signal.SIGKILL
    return toy


def test_a_user_who_cleaned_up_by_hand_is_left_alone(big: Path, tmp_path: Path) -> None:
    toy = half_way(big, tmp_path)
    (toy.workspace / ".git" / "index.lock").unlink(missing_ok=True)
    toy.git("checkout", "-q", "-f", "-b", "mine")
    toy.git("-c", "user.name=U", "-c", "user.email=u@localhost", "commit", "-q", "--allow-empty", "-m", "Mine")
    mine = toy.git("rev-parse", "HEAD")
    done = toy.run("--force")
    assert done.code == 0, done.err
    assert toy.git("rev-parse", "mine") == mine
    assert toy.apply("revert").code == 0
    assert toy.git("symbolic-ref", "HEAD") == "refs/heads/mine"


def test_a_git_that_outlives_us_is_waited_for(big: Path, undisturbed: dict[str, object], tmp_path: Path) -> None:
    """Only apply.py is killed; its checkout goes on. A second run must not step in between."""
    toy = copy_toy(big, tmp_path / "toy")
    script = f"""
case " $* " in *" checkout "*) kill -9 $PPID; sleep 2; {REAL} "$@"; touch {tmp_path}/done; exit 0;; esac
exec {REAL} "$@"
"""
    command = [sys.executable, str(ROOT / "apply.py"), *toy.arguments()]
    env = {**os.environ, **path_with(tmp_path / "bin", script)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.wait() == -signal.SIGKILL
    done = toy.run()
    assert (done.code, "Another run is at work" in done.err) == (3, True)
    while not (tmp_path / "done").exists():
        time.sleep(0.05)
    time.sleep(0.1)
    after_the_kill(toy, undisturbed)


def test_two_runs_at_once(big: Path, tmp_path: Path) -> None:
    toy = copy_toy(big, tmp_path / "toy")
    command = [sys.executable, str(ROOT / "apply.py"), *toy.arguments()]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    codes = sorted(run.wait() for run in runs)
    for run in runs:
        run.communicate()
    assert codes[0] == 0
    assert set(codes) <= {0, 3}
    assert "Nothing to do" in toy.apply().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_times(big: Path, undisturbed: dict[str, object], tmp_path: Path) -> None:
    """apply.py and every git it started die together, as in a container that is stopped."""
    toy = copy_toy(big, tmp_path / "timed")
    start = time.monotonic()
    assert toy.spawn().code == 0
    duration = time.monotonic() - start
    generator = random.Random(7)
    for number in range(6):
        toy = copy_toy(big, tmp_path / f"toy-{number}")
        command = [sys.executable, str(ROOT / "apply.py"), *toy.arguments()]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, start_new_session=True, **quiet)
        time.sleep(generator.uniform(0.2, 1.0) * duration)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lost_nothing(toy)
        toy.apply()
        assert state(toy) == undisturbed
        shutil.rmtree(toy.folder)
