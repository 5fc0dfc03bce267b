"""SIGKILL at any point: nothing of the user's is lost, and the next run finishes or undoes the work.

A `git` of our own stands first on PATH. It kills apply.py (its parent) before the n-th git command, for every n;
or it kills apply.py and the real git together in the middle of the swap.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from toys import ROOT, Toy, copy_toy, git, snapshot

REAL = shutil.which("git")
USERS = {
    "notes.txt": b"untracked\n",
    "weights/model.pth": b"ignored\n",
    "README.md": b"edited\n",
}


def give_the_user_files(toy: Toy) -> None:
    for path, data in USERS.items():
        toy.write(path, data)


def path_with(folder: Path, script: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "git").write_text("#!/bin/sh\n" + script)
    (folder / "git").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def killer(folder: Path, at: int) -> Mapping[str, str]:
    """Kill the parent before git command number `at`; with 0 only count."""
    script = f"""
echo x >> {folder}/calls
if [ $(wc -l < {folder}/calls) -eq {at} ]; then kill -9 $PPID; exit 1; fi
exec {REAL} "$@"
"""
    return path_with(folder, script)


def state(toy: Toy) -> dict[str, object]:
    """What a user can see, time stamps aside."""
    files = {name: (seen[0], seen[2]) for name, seen in snapshot(toy.workspace, inside_git=False).items()}
    refs = toy.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/overlay")
    refs = "\n".join(line for line in refs.split("\n") if "/backup/" not in line)
    return {
        "files": files,
        "refs": refs,
        "head": toy.git("rev-parse", "--symbolic-full-name", "HEAD"),
        "status": toy.dirty(),
    }


def first_apply(toy: Toy) -> list[str]:
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    give_the_user_files(toy)
    return []


def apply_with_a_clone(toy: Toy) -> list[str]:
    return []


def again_with_everything(toy: Toy) -> list[str]:
    """A setting, a hand edit, other edits of the same file, a changed overlay, and work in the way."""
    toy.apply()
    give_the_user_files(toy)
    yaml = toy.read("eval_configs/eval.yaml")
    yaml = yaml.replace(b"/data/model/ckpt.pth", b"/my/ckpt.pth").replace(b"image_text_pretrain", b"mine")
    toy.write("eval_configs/eval.yaml", yaml)
    toy.write("minigpt4/hook.py", b"mine\n")
    toy.write("added.py/notes.txt", b"mine\n")
    toy.write_overlay({"added.py": b"ADDED = 1\n", "run_predict.py": b"print('better')\n"})
    (toy.project / "overlay" / "minigpt4" / "models" / "port.py").unlink()
    patch = next((toy.project / "patches").glob("0002*"))
    patch.write_bytes(patch.read_bytes())
    toy.make_patches([("Only this", {"minigpt4/hook.py": b"HOOK = 2\n", "eval_configs/eval.yaml": with_encoder(toy)})])
    toy.apply("lock")
    return ["--force", "--set", "model_path=/b"]


def with_encoder(toy: Toy) -> bytes:
    data = (toy.upstream / "eval_configs" / "eval.yaml").read_bytes()
    return data.replace(b"# the architecture\n", b"# the architecture\n  encoder: ''\n")


def revert(toy: Toy) -> list[str]:
    toy.apply()
    give_the_user_files(toy)
    return ["revert"]


def only_the_configuration(toy: Toy) -> list[str]:
    """The one file that changes is one that the user edited: it is rewritten in place, and git writes nothing."""
    toy.apply()
    give_the_user_files(toy)
    toy.write("eval_configs/eval.yaml", toy.read("eval_configs/eval.yaml").replace(b"image_text_pretrain", b"mine"))
    return ["--set", "model_path=/b"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 10], ids=["each", "some"])
@pytest.mark.parametrize(
    "prepare", [first_apply, apply_with_a_clone, again_with_everything, only_the_configuration, revert]
)
def test_killed_before_any_git_command(
    toy_master: Path, tmp_path: Path, prepare: Callable[[Toy], list[str]], every: int
) -> None:
    """With -m slow before each command; else before each of the swap, which are the last, and some of the others."""
    master = copy_toy(toy_master, tmp_path / "prepared")
    words = prepare(master)
    undisturbed = copy_toy(tmp_path / "prepared", tmp_path / "undisturbed")
    done = undisturbed.spawn(*words, env=killer(tmp_path / "count", 0))
    assert done.code == 0, done.err
    expected = state(undisturbed)
    calls = len((tmp_path / "count" / "calls").read_text().split())
    for number in (number for number in range(1, calls + 1) if number % every == 0 or number > calls - 10):
        toy = copy_toy(tmp_path / "prepared", tmp_path / "toy")
        killed = toy.spawn(*words, env=killer(tmp_path / f"kill-{number}", number))
        assert killed.code == -signal.SIGKILL, f"call {number}"
        lost_nothing(toy, prepare)
        again = toy.run(*words)
        assert again.code == 0, f"after a kill before call {number}: {again.err}"
        assert state(toy) == expected, f"after a kill before call {number}"
        assert not (toy.workspace / ".git" / "overlay" / "journal.json").exists()
        assert "Nothing to do" in toy.apply(*words).out
        if prepare is again_with_everything:
            backups_hold(toy)
        shutil.rmtree(toy.folder)


def lost_nothing(toy: Toy, prepare: object) -> None:
    if prepare is not apply_with_a_clone:
        for path, data in USERS.items():
            assert toy.read(path) == data


def backups_hold(toy: Toy) -> None:
    """What --force replaced is in some backup, whichever run saved it."""
    refs = toy.git("for-each-ref", "--format=%(refname)", "refs/overlay/backup/").split()
    for path in ("minigpt4/hook.py", "added.py/notes.txt"):
        found = [git_or_none(toy, "show", f"{ref}:{path}") for ref in refs]
        assert b"mine\n" in found, path


def git_or_none(toy: Toy, *args: str) -> bytes | None:
    done = subprocess.run(["git", "-C", str(toy.workspace), *args], capture_output=True)
    return done.stdout if done.returncode == 0 else None


@pytest.fixture(scope="module")
def big(toy_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy whose swap writes 1,500 files, so that there is time to kill it in the middle."""
    toy = copy_toy(toy_master, tmp_path_factory.mktemp("big") / "toy")
    toy.write_overlay({f"many/{number:04}.py": b"x = 1\n" * number for number in range(1500)})
    assert toy.run("lock").code == 0
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    give_the_user_files(toy)
    return toy.folder


@pytest.mark.parametrize("seen", ["old.py gone", "many/0000.py", "many/0100.py", "many/0700.py", "index.lock", "late"])
def test_killed_inside_the_swap(big: Path, tmp_path: Path, seen: str) -> None:
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
    after_the_kill(toy, big, tmp_path)


def after_the_kill(toy: Toy, big: Path, tmp_path: Path) -> None:
    lost_nothing(toy, None)
    assert (toy.workspace / ".git" / "overlay" / "journal.json").exists(), "it was not killed inside the swap"
    assert toy.apply("status", "--json").json["outcome"] == "interrupted"
    checked = toy.run("check")
    assert (checked.code, "was interrupted" in checked.err) == (5, True)
    assert "an earlier run was interrupted" in toy.apply().out
    undisturbed = copy_toy(big, tmp_path / "undisturbed")
    undisturbed.apply()
    assert state(toy) == state(undisturbed)
    assert "Nothing to do" in toy.apply().out


def test_killed_while_a_file_is_half_written(big: Path, tmp_path: Path) -> None:
    """What a kill inside write(2) leaves: the beginning of a file. It equals neither tree's blob."""
    toy = half_way(big, tmp_path)
    with (toy.workspace / "many" / "0050.py").open("r+b") as file:
        file.truncate(7)
    (toy.workspace / "many" / "0051.py").write_bytes(b"")
    after_the_kill(toy, big, tmp_path)


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


def test_a_git_that_outlives_us_is_waited_for(big: Path, tmp_path: Path) -> None:
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
    after_the_kill(toy, big, tmp_path)


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
def test_killed_at_random_times(big: Path, tmp_path: Path) -> None:
    """apply.py and every git it started die together, as in a container that is stopped."""
    undisturbed = copy_toy(big, tmp_path / "undisturbed")
    start = time.monotonic()
    assert undisturbed.spawn().code == 0
    duration = time.monotonic() - start
    expected = state(undisturbed)
    generator = random.Random(7)
    for number in range(6):
        toy = copy_toy(big, tmp_path / f"toy-{number}")
        command = [sys.executable, str(ROOT / "apply.py"), *toy.arguments()]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, start_new_session=True, **quiet)
        time.sleep(generator.uniform(0.2, 1.0) * duration)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lost_nothing(toy, None)
        toy.apply()
        assert state(toy) == expected
        shutil.rmtree(toy.folder)


def test_a_failing_git_leaves_everything_as_it_was(toy: Toy, tmp_path: Path) -> None:
    """For example a full disk: the checkout stops with an error instead of a kill."""
    first_apply(toy)
    before = state(toy)
    script = f'case " $* " in *" checkout "*) echo no space left >&2; exit 128;; esac\nexec {REAL} "$@"\n'
    done = toy.spawn(env=path_with(tmp_path / "bin", script))
    assert (done.code, "no space left" in done.err) == (70, True)
    assert "Traceback" not in done.err
    assert state(toy) == before
    toy.apply()
