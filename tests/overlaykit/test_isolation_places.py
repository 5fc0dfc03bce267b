"""Wherever the workspace lies, whoever owns it and whatever it is called, the result is the same."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from toys import ROOT, Toy, git, outcome, snapshot

from overlaykit.gitrun import git_version


def test_inside_another_repository_only_the_workspace_changes(toy: Toy, expected: dict[str, str]) -> None:
    """`git apply` in a folder of another repository does nothing and says nothing: ds300/patch-package#11."""
    outer = toy.folder
    git(outer, "init", "-q", "-b", "main")
    git(outer, "add", "project")
    git(outer, "commit", "-q", "-m", "Outer")
    before = git(outer, "rev-parse", "HEAD"), (outer / ".git" / "index").read_bytes()
    assert toy.spawn(cwd=toy.project).code == 0
    assert outcome(toy) == expected
    assert toy.spawn("revert", cwd=toy.workspace / "minigpt4").code == 0
    assert (git(outer, "rev-parse", "HEAD"), (outer / ".git" / "index").read_bytes()) == before
    assert git(outer, "for-each-ref", "refs/overlay") == b""


def test_a_folder_of_another_repository_is_not_a_workspace(toy: Toy) -> None:
    git(toy.folder, "init", "-q", "-b", "main")
    toy.workspace.mkdir()
    toy.write("demo.py", b"mine\n")
    done = toy.run()
    assert (done.code, "no .git of its own" in done.err) == (2, True)


def test_a_broken_repository_inside_another_one(toy: Toy) -> None:
    """git itself would walk up to the outer repository."""
    git(toy.folder, "init", "-q", "-b", "main")
    git(toy.folder, "commit", "-q", "--allow-empty", "-m", "Outer")
    (toy.workspace / ".git").mkdir(parents=True)
    for verb in ("apply", "check", "status", "revert"):
        done = toy.run(verb)
        assert (done.code, "git cannot read" in done.err) == (2, True)


@pytest.mark.parametrize("cwd", ["/", "folder", "workspace", "deleted"])
def test_any_working_directory(toy: Toy, expected: dict[str, str], cwd: str) -> None:
    toy.apply()
    gone = toy.folder / "gone"
    gone.mkdir()
    where = {"/": Path("/"), "folder": toy.folder, "workspace": toy.workspace / "minigpt4", "deleted": gone}[cwd]
    command = f"rmdir {gone}; " if cwd == "deleted" else ""
    words = " ".join([*toy.arguments("--set", "model_path=/b")])
    done = subprocess.run(["sh", "-c", f"{command}exec {sys.executable} {ROOT}/apply.py {words}"], cwd=where)
    assert done.returncode == 0
    assert b"/b/ckpt.pth" in toy.read("eval_configs/eval.yaml")


def test_relative_paths_are_taken_from_the_working_directory(toy: Toy) -> None:
    command = [sys.executable, str(ROOT / "apply.py"), "--project", "project", "--workspace", "there/W"]
    done = subprocess.run([*command, "--upstream", "./upstream"], cwd=toy.folder, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (toy.folder / "there" / "W" / "run_predict.py").exists()


@pytest.mark.parametrize("verb", ["apply", "check"])
def test_names_that_the_locale_cannot_spell(toy: Toy, verb: str) -> None:
    """With LC_ALL=C and without Python's UTF-8 mode, as in bare containers."""
    toy.write_overlay({"minigpt4/你好.py": b"y = 1\n"})
    toy.apply("lock")
    toy.workspace = toy.folder / "ü"
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = toy.spawn(verb, env=env)
    assert (done.code, "Traceback" in done.err) == (0, False), done.err
    if verb == "apply":
        assert toy.read("minigpt4/你好.py") == b"y = 1\n"
        assert "Nothing to do" in toy.apply().out
        assert "Nothing to do" in toy.spawn(env=env).out
        assert toy.spawn("check", "--set", "model_path=/x", env=env).code == 0
        assert toy.spawn("revert", env=env).code == 0
        assert toy.dirty() == []


def test_odd_names(toy: Toy) -> None:
    toy.workspace = toy.folder / 'a b\'c "d" $e ü\tf' / "-W"
    done = toy.apply()
    assert toy.read("run_predict.py")
    log = next(line for line in done.out.split("\n") if line.strip().startswith("log"))
    assert subprocess.run(shlex.split(log)[1:], capture_output=True).returncode == 0
    assert "Nothing to do" in toy.apply().out


@pytest.mark.skipif(git_version() < (2, 36), reason="before 2.35.2 git does not ask who owns a repository")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("allowed", ["the folder", "*", "nothing"])
def test_a_workspace_of_another_user(toy: Toy, tmp_path: Path, expected: dict[str, str], allowed: str) -> None:
    git(toy.folder, "clone", "-q", "--no-checkout", str(toy.upstream), str(toy.workspace))
    toy.git("config", "core.sparseCheckout", "true")
    toy.write(".git/info/sparse-checkout", b"/*\n!/figs/\n")
    toy.git("checkout", "-q", "main")
    for path in (toy.workspace, *toy.workspace.rglob("*")):
        os.chown(path, 12345, 12345)
    home = tmp_path / "home"
    home.mkdir()
    if allowed != "nothing":
        value = "*" if allowed == "*" else str(toy.workspace)
        (home / ".gitconfig").write_text(f'[safe]\n\tdirectory = "{value}"\n')
    env = {"HOME": str(home)}
    before = snapshot(toy.workspace)
    done = toy.spawn(env=env)
    if allowed == "nothing":
        assert (done.code, "safe.directory" in done.err) == (2, True)
        assert snapshot(toy.workspace) == before
        return
    assert done.code == 0, done.err
    assert outcome(toy, GIT_CONFIG_GLOBAL=str(home / ".gitconfig")) == expected
    for verb in ("apply", "status", "check", "revert"):
        assert toy.spawn(verb, env=env).code == 0
    # The repository's own word for itself must not count.
    with (toy.workspace / ".git" / "config").open("a") as file:
        file.write("[safe]\n\tdirectory = *\n")
    assert toy.spawn(env={"HOME": str(tmp_path)}).code == 2


def test_a_missing_git_is_said(toy: Toy, tmp_path: Path) -> None:
    done = toy.spawn(env={"PATH": str(tmp_path)})
    assert (done.code, "git was not found" in done.err) == (2, True)
