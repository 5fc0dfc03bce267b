"""Nothing of the user's is ever lost: apply refuses and changes nothing, or --force saves first."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from kinds_of_work import (
    ALL,
    Prepare,
    delete,
    edit_what_a_patch_deletes,
    empty_folder,
    stage,
    stage_then_delete,
    stage_then_put_back,
    untracked,
    untracked_folder,
)
from toys import Toy, git, snapshot


@pytest.fixture(params=[pytest.param("full", marks=pytest.mark.slow), "sparse"])
def plain(request: pytest.FixtureRequest, toy: Toy) -> Toy:
    """A workspace that the user cloned and has not applied yet, with and without sparse checkout."""
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    if request.param == "sparse":
        toy.write(".git/info/sparse-checkout", b"/*\n!/figs/\n")
        toy.git("config", "core.sparseCheckout", "true")
        toy.git("read-tree", "-mu", "HEAD")
        assert not (toy.workspace / "figs").exists()
    return toy


@pytest.mark.parametrize("prepare", ALL)
def test_apply_refuses_and_changes_nothing(plain: Toy, prepare: Prepare) -> None:
    prepare(plain)
    before, staged = snapshot(plain.workspace, inside_git=False), plain.git("ls-files", "-s")
    done = plain.run()
    assert done.code == 3, done.out + done.err
    assert "--force" in done.err
    assert snapshot(plain.workspace, inside_git=False) == before
    assert plain.git("ls-files", "-s") == staged
    assert plain.git("symbolic-ref", "HEAD") == "refs/heads/main"


@pytest.mark.parametrize("prepare", ALL)
def test_force_saves_and_prints_how_to_get_it_back(plain: Toy, prepare: Prepare) -> None:
    prepare(plain)
    mine = contents(plain.workspace)
    staged = plain.git("show", ":demo.py")
    run = plain.apply("--force", "--json")
    done = run.json
    assert plain.read("run_predict.py") == b"print('answer')\n"
    assert plain.read("minigpt4/models/port.py") == b"PORT = 1\n"
    assert plain.read("demo.py") == b"print('auto')\n"
    assert plain.git("status", "--porcelain", "-uno") == ""
    assert plain.apply("status", "--json").json["restore"] == done["restore"]
    assert all(command in run.err for command in done["restore"]), "said before the swap, which may be killed"
    if prepare in (delete, empty_folder):
        assert done["restore"] == [], "there was nothing to save"
        return
    before = contents(plain.workspace)
    back = {**before, **got_back(plain, done["restore"])}
    assert contents(plain.workspace) == before, "it may hold work that is newer"
    for path, content in mine.items():
        if back.get(path) != content:
            assert git(plain.upstream, "show", f"HEAD:{path}") == content[1], f"{path} was mine and is lost"
    if prepare in (stage, stage_then_put_back, stage_then_delete):
        (folder,) = plain.folder.glob("MiniGPT-4-saved-*-staged")
        assert (folder / "demo.py").read_text().strip() == staged == "mine"


def got_back(toy: Toy, commands: list[str]) -> dict[str, tuple[bool, bytes]]:
    """Contents of what is not the index, after doing as the user is told."""
    for command in commands:
        subprocess.run(command, shell=True, check=True)
    folders = [path for path in toy.folder.glob("MiniGPT-4-saved-*") if not path.name.endswith("-staged")]
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in folders)
    return {name: content for folder in folders for name, content in contents(folder).items()}


def contents(folder: Path) -> dict[str, tuple[bool, bytes]]:
    """Files and links outside .git: executable or not, and what they hold."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] != ".git" and (path.is_symlink() or path.is_file()):
            data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[name] = (not path.is_symlink() and os.access(path, os.X_OK), data)
    return found


@pytest.mark.parametrize("prepare", [edit_what_a_patch_deletes, untracked, untracked_folder])
def test_revert_refuses_too_and_force_saves(plain: Toy, prepare: Prepare) -> None:
    """Going back overwrites other paths: those that only our tree has, or that it has differently."""
    plain.apply()
    if prepare is untracked_folder:
        (plain.workspace / "run_predict.py").unlink()
    prepare(plain)
    before = snapshot(plain.workspace, inside_git=False)
    assert plain.run("revert").code == 3
    assert snapshot(plain.workspace, inside_git=False) == before
    mine = contents(plain.workspace)
    commands = plain.apply("revert", "--force", "--json").json["restore"]
    assert plain.git("status", "--porcelain", "-uno") == ""
    where = next(path for path, content in mine.items() if content[1] in (b"x = 2\n", b"mine\n"))
    assert got_back(plain, commands)[where] == mine[where]


def test_edits_of_other_files_stay_as_they_are(plain: Toy) -> None:
    plain.write("README.md", b"mine\n")
    plain.write("weights/model.pth", b"mine\n")
    plain.write("notes.txt", b"mine\n")
    plain.write("staged.txt", b"mine\n")
    plain.git("add", "staged.txt")
    plain.apply()
    assert plain.dirty() == ["M README.md", "A  staged.txt", "?? notes.txt", "!! weights/model.pth"]
    assert plain.read("README.md") == b"mine\n"
    plain.apply("revert")
    assert plain.dirty() == ["M README.md", "A  staged.txt", "?? notes.txt", "!! weights/model.pth"]


def test_a_file_that_already_holds_what_is_wanted_is_no_obstacle(plain: Toy) -> None:
    plain.write("run_predict.py", b"print('answer')\n")
    plain.write("demo.py", b"print('auto')\n")
    plain.apply()
    assert plain.dirty() == []


def test_a_repository_in_the_way_is_never_removed(plain: Toy) -> None:
    git(plain.workspace, "init", "-q", "run_predict.py")
    before = snapshot(plain.workspace / "run_predict.py")
    done = plain.run("--force")
    assert (done.code, "repository of its own" in done.err) == (3, True)
    assert snapshot(plain.workspace / "run_predict.py") == before


def test_a_branch_named_overlay_that_is_not_ours(plain: Toy) -> None:
    plain.git("-c", "user.name=U", "-c", "user.email=u@localhost", "commit", "-q", "--allow-empty", "-m", "Mine")
    plain.git("branch", "overlay")
    mine = plain.git("rev-parse", "overlay")
    done = plain.run()
    assert (done.code, "did not make it" in done.err) == (3, True)
    assert plain.git("rev-parse", "overlay") == mine
    (command,) = plain.apply("--force", "--json").json["restore"]
    subprocess.run(shlex.split(command), check=True)
    assert plain.git("rev-parse", "my-work") == mine


@pytest.mark.parametrize("marker", ["MERGE_HEAD", "CHERRY_PICK_HEAD", "rebase-merge"])
def test_in_the_middle_of_something_of_the_users(plain: Toy, marker: str) -> None:
    plain.write(f".git/{marker}", f"{plain.pin}\n".encode())
    for verb in ("apply", "check", "revert"):
        assert plain.run(verb, "--force").code == 3


def test_unmerged_files(plain: Toy) -> None:
    blob = plain.git("hash-object", "-w", "README.md")
    rows = "".join(f"100644 {blob} {stage}\tREADME.md\n" for stage in (1, 2, 3))
    git(plain.workspace, "update-index", "--index-info", stdin=f"0 {'0' * 40}\tREADME.md\n{rows}".encode())
    assert plain.run("--force").code == 3


def test_line_ends_converted_by_git_are_no_edit(toy: Toy) -> None:
    git(toy.folder, "clone", "-q", "-c", "core.autocrlf=true", str(toy.upstream), str(toy.workspace))
    assert b"\r\n" in toy.read("demo.py")
    os.utime(toy.workspace / "demo.py", (1, 1))  # git can no longer tell by the time stamp
    toy.apply()
    assert toy.read("demo.py") == b"print('auto')\n"
    assert toy.git("status", "--porcelain", "-uno") == ""


def test_a_folder_becomes_a_file_and_a_file_a_folder(plain: Toy) -> None:
    plain.make_patches(
        [("Turn around", {"old.py": None, "minigpt4/base_model.py": None, "minigpt4/__init__.py": None})]
    )
    (plain.project / "overlay" / "minigpt4" / "models" / "port.py").unlink()
    plain.write_overlay({"old.py/__init__.py": b"x = 1\n"})
    for folder in ("minigpt4/models", "minigpt4"):
        (plain.project / "overlay" / folder).rmdir()
    plain.write_overlay({"minigpt4": b"a file now\n"})
    (plain.project / "configs" / "paths.yaml").write_bytes(b"variables: {}\nrules: {}\n")
    plain.apply("lock")
    plain.write("minigpt4/mine.txt", b"mine\n")
    assert plain.run().code == 3
    (plain.workspace / "minigpt4" / "mine.txt").unlink()
    plain.apply()
    assert plain.read("minigpt4") == b"a file now\n"
    assert plain.read("old.py/__init__.py") == b"x = 1\n"
    plain.apply("revert")
    assert plain.dirty() == []


def test_files_that_the_user_left_out_of_the_worktree(toy: Toy) -> None:
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    toy.git("config", "core.sparseCheckout", "true")
    toy.write(".git/info/sparse-checkout", b"/*\n!/figs/\n!/demo.py\n")
    toy.git("read-tree", "-mu", "HEAD")
    assert not (toy.workspace / "demo.py").exists()
    toy.write("demo.py", b"mine\n")
    assert toy.run().code == 3
    assert toy.read("demo.py") == b"mine\n"
    (toy.workspace / "demo.py").unlink()
    toy.apply()
    assert toy.dirty() == []
    before = snapshot(toy.workspace)
    toy.apply()
    assert snapshot(toy.workspace) == before


@pytest.mark.parametrize("ignored", [False, True])
def test_a_file_that_appears_at_the_last_moment(plain: Toy, tmp_path: Path, ignored: bool) -> None:
    """Between our look and git's checkout: then git itself must refuse."""
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    ignore = f"echo run_predict.py >> {plain.workspace}/.git/info/exclude;" if ignored else ""
    write = f"{ignore} echo mine > {plain.workspace}/run_predict.py"
    script = f'#!/bin/sh\ncase " $* " in *" checkout "*) {write};; esac\nexec {real} "$@"\n'
    (tmp_path / "git").write_text(script)
    (tmp_path / "git").chmod(0o755)
    assert plain.spawn(env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}).code == 70
    assert plain.read("run_predict.py") == b"mine\n"
    assert plain.run().code == 3
    assert plain.read("run_predict.py") == b"mine\n"


def test_a_repository_that_wants_crlf_by_its_own_attributes(toy: Toy) -> None:
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    toy.write(".git/info/attributes", b"* text eol=crlf\n*.png -text\n")
    toy.git("rm", "-q", "--cached", "-r", ".")
    toy.git("reset", "-q", "--hard")
    assert b"\r\n" in toy.read("demo.py")
    toy.apply()
    assert toy.read("demo.py") == b"print('auto')\r\n"
    before = snapshot(toy.workspace)
    assert "Nothing to do" in toy.apply().out
    assert snapshot(toy.workspace) == before
    assert toy.dirty() == []
    toy.apply("--set", "model_path=/b")
    assert b"/b/ckpt.pth" in toy.read("eval_configs/eval.yaml")
    toy.apply("revert")
    assert toy.dirty() == []


def test_another_project_is_never_touched(toy: Toy) -> None:
    git(toy.folder, "init", "-q", "-b", "main", str(toy.workspace))
    assert toy.run().code == 2
    toy.write("thesis.tex", b"mine\n")
    toy.git("add", "thesis.tex")
    toy.git("-c", "user.name=U", "-c", "user.email=u@localhost", "commit", "-qm", "Mine")
    before = snapshot(toy.workspace, inside_git=False)
    for words in ((), ("--force",), ("check",)):
        assert toy.run(*words).code == 2
    assert snapshot(toy.workspace, inside_git=False) == before
    assert toy.git("for-each-ref", "refs/overlay") == ""
