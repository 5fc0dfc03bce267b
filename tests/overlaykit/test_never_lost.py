"""What is staged, saved at the last moment, filtered, locked or half done is not lost either; and 0 means done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kills import REAL, path_with, state
from toys import ROOT, Toy, git, snapshot

YAML = "eval_configs/eval.yaml"
HOOK = "refs/overlay/backup/"


@pytest.fixture
def plain(toy: Toy) -> Toy:
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    return toy


def edited(toy: Toy, old: bytes, new: bytes) -> bytes:
    data = toy.read(YAML)
    assert old in data
    return data.replace(old, new)


def before_checkout(folder: Path, script: str) -> dict[str, str]:
    return path_with(folder, f'case " $* " in *" checkout "*) {script};; esac\nexec {REAL} "$@"\n')


def staged_in_backup(toy: Toy, path: str) -> str:
    (ref,) = toy.git("for-each-ref", "--format=%(refname)", HOOK + "*-staged").split()
    return toy.git("show", f"{ref}:{path}")


def test_an_owned_file_that_is_staged_and_edited_again(applied: Toy) -> None:
    applied.write(YAML, edited(applied, b"image_text_pretrain", b"staged"))
    applied.git("add", YAML)
    applied.write(YAML, edited(applied, b"task: staged", b"task: mine"))
    before = snapshot(applied.workspace, inside_git=False)
    done = applied.run("--set", "model_path=/b")
    assert (done.code, "staged" in done.err) == (3, True)
    assert snapshot(applied.workspace, inside_git=False) == before
    assert "task: staged" in applied.git("show", f":{YAML}")
    applied.apply("--set", "model_path=/b", "--force")
    assert "task: staged" in staged_in_backup(applied, YAML)
    assert b"/b/ckpt.pth" in applied.read(YAML)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_staged_file_replaced_by_something_else(plain: Toy, kind: str) -> None:
    plain.write("demo.py", b"staged\n")
    plain.git("add", "demo.py")
    (plain.workspace / "demo.py").unlink()
    if kind == "link":
        (plain.workspace / "demo.py").symlink_to("README.md")
    else:
        plain.write("demo.py/notes.txt", b"mine\n")
    assert plain.run().code == 3
    plain.apply("--force")
    assert staged_in_backup(plain, "demo.py") == "staged"
    assert plain.read("demo.py") == b"print('auto')\n"


@pytest.mark.parametrize("path", ["run_predict.py/notes.txt", "minigpt4/models"])
@pytest.mark.parametrize("there", [True, False])
def test_a_staged_new_file_where_a_folder_or_file_must_be(plain: Toy, path: str, there: bool) -> None:
    plain.write(path, b"staged\n")
    plain.git("add", path)
    if not there:
        (plain.workspace / path).unlink()
    assert plain.run().code == 3
    plain.apply("--force")
    assert staged_in_backup(plain, path) == "staged"
    assert plain.read("run_predict.py") == b"print('answer')\n"
    assert plain.read("minigpt4/models/port.py") == b"PORT = 1\n"
    assert plain.dirty() == []


def test_a_lock_of_another_git_is_never_removed(plain: Toy) -> None:
    lock = plain.workspace / ".git" / "index.lock"
    lock.write_bytes(b"theirs")
    before = state(plain)
    for _ in range(3):
        done = plain.run()
        assert (done.code, "index.lock" in done.err) == (3, True)
        assert lock.read_bytes() == b"theirs"
    lock.unlink()
    assert state(plain) == before
    plain.apply()


def test_a_lock_taken_at_the_last_moment_is_not_removed_either(plain: Toy, tmp_path: Path) -> None:
    lock = plain.workspace / ".git" / "index.lock"
    assert plain.spawn(env=before_checkout(tmp_path / "bin", f"echo theirs > {lock}")).code == 70
    assert plain.run().code == 3
    assert lock.read_bytes() == b"theirs\n"
    lock.unlink()
    plain.apply()


def test_a_lock_of_another_branch_is_none_of_ours(plain: Toy) -> None:
    lock = plain.workspace / ".git" / "refs" / "heads" / "theirs.lock"
    lock.write_bytes(b"")
    plain.apply()
    assert lock.exists()


@pytest.mark.parametrize("missed", ["old.py", "run_predict.py", "demo.py"])
def test_a_file_that_git_could_not_write_or_delete(plain: Toy, tmp_path: Path, missed: str) -> None:
    """As in a folder without permission, or from a mirror without the blob: git complains and returns 0."""
    before = state(plain)
    undo = f'"{REAL}" show HEAD:{missed} > {missed}' if missed == "old.py" else f"rm {missed}"
    script = f'{REAL} "$@"; cd {plain.workspace}; {undo}; echo "error: Permission denied" >&2; exit 0'
    script = script.replace("show HEAD:", f"show {plain.pin}:")
    env = before_checkout(tmp_path / "bin", script)
    for _ in range(2):
        done = plain.spawn(env=env)
        assert (done.code, missed in done.err, "Permission denied" in done.err) == (70, True, True), done.err
        assert not (plain.workspace / ".git" / "overlay" / "journal.json").exists()
        assert state(plain) == before
    plain.apply()


def test_killed_after_git_could_not_write_a_file(plain: Toy, tmp_path: Path) -> None:
    script = f'{REAL} "$@"; rm {plain.workspace}/run_predict.py; kill -9 $PPID; exit 0'
    assert plain.spawn(env=before_checkout(tmp_path / "bin", script)).code == -9
    plain.apply()
    assert plain.read("run_predict.py") == b"print('answer')\n"
    assert plain.dirty() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(plain: Toy) -> None:
    (plain.workspace / "minigpt4").chmod(0o555)
    for _ in range(2):
        assert plain.run().code == 70
    (plain.workspace / "minigpt4").chmod(0o755)
    plain.apply()


def meanwhile(toy: Toy, monkeypatch: pytest.MonkeyPatch, path: str, data: bytes) -> None:
    """Save a file in an editor when everything has been looked at, just before the swap."""
    from overlaykit import carry

    real = carry.swap

    def late(*args: object) -> None:
        toy.write(path, data)
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(carry, "swap", late)


def test_an_owned_file_saved_between_the_look_and_the_swap(applied: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    applied.write(YAML, edited(applied, b"image_text_pretrain", b"mine"))
    newer = edited(applied, b"task: mine", b"task: newer")
    before = state(applied)
    with monkeypatch.context() as patch:
        meanwhile(applied, patch, YAML, newer)
        assert applied.run("--set", "model_path=/b").code == 3
    assert applied.read(YAML) == newer
    assert state(applied)["refs"] == before["refs"]
    applied.apply("--set", "model_path=/b")
    assert b"task: newer" in applied.read(YAML)


@pytest.mark.parametrize("late", ["demo.py", "run_predict.py/late.txt", "run_predict.py/notes.txt"])
def test_an_obstacle_saved_between_the_backup_and_the_swap(
    plain: Toy, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    plain.write("demo.py", b"mine\n")
    plain.write("run_predict.py/notes.txt", b"mine\n")
    with monkeypatch.context() as patch:
        meanwhile(plain, patch, late, b"newer\n")
        done = plain.run("--force", "--json")
        assert done.code == 3, done.out
        assert done.json["error"]["restore"], "the failure must say where the work is"
    assert plain.read(late) == b"newer\n"
    if late != "demo.py":
        assert plain.read("demo.py") == b"mine\n", "all are looked at before one is removed"
    assert not list(plain.workspace.rglob("*overlay-old*"))
    assert plain.git("symbolic-ref", "HEAD") == "refs/heads/main"
    plain.apply("--force")


def test_a_clean_filter_does_not_hide_an_edit(plain: Toy) -> None:
    plain.git("config", "filter.same.clean", "git cat-file blob HEAD:demo.py")
    plain.write(".git/info/attributes", b"demo.py filter=same\n")
    plain.write("demo.py", b"mine, and git does not see it\n")
    assert plain.run().code == 3
    assert plain.read("demo.py") == b"mine, and git does not see it\n"


def test_a_failure_after_saving_says_where_the_work_is(plain: Toy, tmp_path: Path) -> None:
    plain.write("demo.py", b"mine\n")
    env = before_checkout(tmp_path / "bin", "echo no space left >&2; exit 128")
    done = plain.spawn("--force", env=env)
    assert done.code == 70
    assert done.err.count("restore --overlay") == 2, "at once, and with the error"
    (command,) = plain.apply("status", "--json").json["restore"]
    subprocess.run(command, shell=True, check=True)
    (saved,) = plain.folder.glob("MiniGPT-4-saved-*")
    assert (saved / "demo.py").read_bytes() == b"mine\n"


def test_getting_back_a_file_deletes_no_ignored_folder(plain: Toy) -> None:
    """The backup holds a file where a folder is now, with ignored files of the user's in it."""
    plain.write("minigpt4/models", b"mine\n")
    (command,) = plain.apply("--force", "--json").json["restore"]
    plain.write("minigpt4/models/weights.pth", b"ignored\n")
    subprocess.run(command, shell=True, check=True)
    assert plain.read("minigpt4/models/weights.pth") == b"ignored\n"
    assert subprocess.run(command, shell=True).returncode != 0, "nor what it wrote itself"


@pytest.mark.parametrize("content", [b"", b'{"old": "12', b"[]", json.dumps({"old": "1", "kept": []}).encode()])
def test_a_journal_that_cannot_be_read(applied: Toy, content: bytes) -> None:
    applied.write("demo.py", b"mine\n")
    applied.apply("--force", "--set", "model_path=/b")
    journal = applied.workspace / ".git" / "overlay" / "journal.json"
    journal.write_bytes(content)
    for verb in ("apply", "revert"):
        done = applied.run(verb)
        assert (done.code, str(journal) in done.err, "stash push" in done.err) == (3, True, True), done.err
        assert "Traceback" not in done.err
    assert applied.apply("status", "--json").json["outcome"] == "interrupted"
    journal.unlink()
    assert applied.apply().code == 0


def test_the_notes_of_a_recovery_are_said_even_if_the_run_fails(plain: Toy, tmp_path: Path) -> None:
    plain.write("demo.py", b"mine\n")
    assert plain.spawn("--force", env=before_checkout(tmp_path / "bin", "kill -9 $PPID; exit 1")).code == -9
    plain.write("demo.py", b"mine again\n")
    done = plain.run()
    assert done.code == 3
    assert "was interrupted" in done.err
    assert "restore --overlay" in done.err


def test_one_value_that_cannot_be_a_setting_does_not_keep_the_others(applied: Toy) -> None:
    applied.write(YAML, edited(applied, b"ckpt: '/data/model/ckpt.pth'", b"ckpt:"))
    applied.write(YAML, edited(applied, b"low_resource: False", b"low_resource: True"))
    done = applied.apply()
    assert "adopted low_resource = True" in done.out
    assert "left ckpt" in done.out
    assert b"ckpt:\n" in applied.read(YAML)
    assert b"low_resource: True" in applied.read(YAML)
    assert applied.apply("--json").json["settings"] == {"low_resource": "True"}


def test_the_program_says_it_as_well(plain: Toy) -> None:
    plain.write("demo.py", b"mine\n")
    command = [sys.executable, str(ROOT / "apply.py"), *plain.arguments("--force")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "get back" in done.stdout) == (0, True)
