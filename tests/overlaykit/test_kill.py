"""SIGKILL at any point: nothing of the user's is lost, and the next run finishes or undoes the work.

A `git` of our own stands first on PATH. It kills apply.py (its parent) before the n-th git command, for every n.
In the middle of the swap: test_kill_swap.py.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from kills import REAL, backups_hold, give_the_user_files, killer, lost_nothing, path_with, state
from toys import Toy, copy_toy, git


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
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 20], ids=["each", "some"])
@pytest.mark.parametrize(
    "prepare",
    [
        first_apply,
        pytest.param(apply_with_a_clone, marks=pytest.mark.slow),
        pytest.param(again_with_everything, marks=pytest.mark.slow),
        pytest.param(only_the_configuration, marks=pytest.mark.slow),
        revert,
    ],
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
        if prepare is not apply_with_a_clone:
            lost_nothing(toy)
        again = toy.run(*words)
        assert again.code == 0, f"after a kill before call {number}: {again.err}"
        assert state(toy) == expected, f"after a kill before call {number}"
        assert not (toy.workspace / ".git" / "overlay" / "journal.json").exists()
        assert "Nothing to do" in toy.apply(*words).out
        if prepare is again_with_everything:
            backups_hold(toy)
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
