"""apply.py as its users see it: the workspace it makes, what it prints, its exit codes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from toys import EVAL_YAML, OVERLAY, PATCHES, ROOT, Toy, commit, git, snapshot

from overlaykit.sources import CLONING


def test_first_apply_makes_a_patched_workspace(toy: Toy) -> None:
    toy.apply("--set", "model_path=/mnt/w")
    assert b'"auto"' in toy.read("minigpt4/base_model.py")
    assert not (toy.workspace / "old.py").exists()
    assert toy.read("run_predict.py") == OVERLAY["run_predict.py"]
    assert b"ckpt: '/mnt/w/ckpt.pth'" in toy.read("eval_configs/eval.yaml")
    assert b"low_resource: False" in toy.read("eval_configs/eval.yaml")
    assert toy.dirty() == []
    assert toy.git("symbolic-ref", "HEAD") == "refs/heads/overlay"
    subjects = toy.git("log", "--reverse", "--format=%s", f"{toy.pin}..").split("\n")
    assert subjects == [
        "Choose autocast by device",
        "Drop what is old",
        "overlay: files",
        "overlay: local configuration",
    ]


def test_the_printed_commands_work_from_any_folder(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.workspace = toy.folder / "my clone"
    toy.apply()
    toy.git("tag", "overlay", "main")  # git would warn that `overlay` is ambiguous
    monkeypatch.chdir(toy.folder)
    commands = toy.apply("--json").json["commands"]
    log = subprocess.run(shlex.split(commands["log"]), capture_output=True, text=True, check=True)
    assert ("overlay: files" in log.stdout, log.stderr) == (True, "")
    words = [*shlex.split(commands["revert"])[1:], "--project", str(toy.project)]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    assert toy.git("symbolic-ref", "HEAD") == "refs/heads/main"


def test_it_ends_with_branch_commits_tree_and_working_commands(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = toy.apply()
    tree = toy.git("rev-parse", "refs/overlay/result^{tree}")
    for shown in ("overlay at", "Choose autocast by device", "overlay: files", f"{tree} (as locked)"):
        assert shown in done.out
    facts = toy.apply("--json").json
    log = subprocess.run(shlex.split(facts["commands"]["log"]), capture_output=True, text=True, check=True)
    assert "overlay: local configuration" in log.stdout
    revert = shlex.split(facts["commands"]["revert"])
    assert revert[:2] == ["python", "apply.py"]
    assert facts["commands"]["log"] in done.out
    assert facts["commands"]["revert"] in done.out
    assert toy.run(*revert[2:]).code == 0
    assert toy.git("symbolic-ref", "HEAD") == "refs/heads/main"


def test_only_the_values_change_in_a_yaml_file_and_its_mode_stays(toy: Toy) -> None:
    toy.apply()
    expected = EVAL_YAML.replace(b"# the architecture\n", b"# the architecture\n  encoder: '/data/model/eva.om'\n")
    expected = expected.replace(b"please set this value", b"/data/model/ckpt.pth").replace(b"True", b"False")
    assert toy.read("eval_configs/eval.yaml") == expected
    assert os.access(toy.workspace / "eval_configs" / "eval.yaml", os.X_OK)
    assert not os.access(toy.workspace / "demo.py", os.X_OK)


def test_a_second_run_changes_no_file(applied: Toy) -> None:
    before = snapshot(applied.workspace)
    done = applied.apply()
    assert "Nothing to do" in done.out
    assert snapshot(applied.workspace) == before
    applied.apply("--set", "model_path=/data/model")  # asks for a setting that is not remembered, but has no effect
    assert {k: v for k, v in snapshot(applied.workspace, inside_git=False).items()} == {
        k: v for k, v in before.items() if not k.startswith(".git/") and k != ".git"
    }


def test_check_says_what_would_happen_and_touches_nothing(toy: Toy) -> None:
    outside = snapshot(toy.folder)
    assert "would clone" in toy.apply("check").out
    assert snapshot(toy.folder) == outside
    toy.apply()
    before = snapshot(toy.workspace)
    assert "Nothing to do" in toy.apply("check").out
    done = toy.apply("check", "--set", "model_path=/other")
    assert "would change" in done.out
    assert "change eval_configs/eval.yaml" in done.out
    after = snapshot(toy.workspace)
    assert after.keys() == before.keys()
    # git renews the time stamp of an object that it would otherwise have written a second time.
    assert [name for name in after if after[name] != before[name] and not name.startswith(".git/objects/")] == []


def test_check_reports_the_same_refusals_as_apply(applied: Toy) -> None:
    applied.write("demo.py", b"mine\n")
    toy_patch_more(applied)
    before = snapshot(applied.workspace, inside_git=False)
    check, apply = applied.run("check"), applied.run()
    assert (check.code, apply.code) == (3, 3)
    assert check.err == apply.err
    assert "demo.py (edited)" in check.err
    assert snapshot(applied.workspace, inside_git=False) == before


def toy_patch_more(toy: Toy) -> None:
    """One more patch, which changes demo.py."""
    toy.make_patches([*PATCHES, ("Greet", {"demo.py": b"print('auto')\nprint('hello')\n"})])
    toy.apply("lock")


def test_a_changed_added_and_deleted_patch_each_take_effect(applied: Toy) -> None:
    toy_patch_more(applied)
    assert "Applied" in applied.apply().out
    assert b"hello" in applied.read("demo.py")
    applied.make_patches(PATCHES[:1])
    (applied.project / "configs" / "paths.yaml").write_bytes(b"variables: {}\nrules: {}\n")
    applied.apply("lock")
    applied.apply()
    assert applied.read("old.py") == b"x = 1\n"
    assert not (applied.workspace / "minigpt4" / "hook.py").exists()
    assert applied.dirty() == []


def test_a_reworded_patch_takes_effect(applied: Toy) -> None:
    """The tree stays the same, so the lock does not tell."""
    patch = next((applied.project / "patches").glob("0001*"))
    patch.write_text(patch.read_text().replace("Because the toy needs it.", "Because it is better so."))
    assert applied.apply("status", "--json").json["outcome"] == "outdated"
    assert "Applied" in applied.apply().out
    assert "better so" in applied.git("log", "-1", "--format=%B", f"{applied.git('rev-parse', 'HEAD~3')}")


def test_settings_persist_and_can_be_replaced(applied: Toy) -> None:
    applied.apply("--set", "model_path=/a", "--set", "encoder=/e.onnx")
    toy_patch_more(applied)
    applied.apply()
    assert b"encoder: '/e.onnx'" in applied.read("eval_configs/eval.yaml")
    assert b"'/a/ckpt.pth'" in applied.read("eval_configs/eval.yaml")
    assert applied.apply("--set", "model_path=/b", "--json").json["settings"] == {
        "model_path": "/b",
        "encoder": "/e.onnx",
    }
    assert b"'/b/ckpt.pth'" in applied.read("eval_configs/eval.yaml")


def test_revert_and_apply_again_keep_the_settings(applied: Toy) -> None:
    applied.apply("--set", "model_path=/a")
    done = applied.apply("revert")
    assert "back on main" in done.out
    assert applied.read("demo.py") == b"import old\n\nprint('cuda')\n"
    assert not (applied.workspace / "run_predict.py").exists()
    assert not (applied.workspace / "minigpt4" / "models").exists()
    assert applied.dirty() == []
    assert "Nothing to do" in applied.apply("revert").out
    applied.apply()
    assert b"'/a/ckpt.pth'" in applied.read("eval_configs/eval.yaml")


def test_revert_returns_to_the_users_own_branch_or_commit(toy: Toy) -> None:
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    toy.git("checkout", "-q", "-b", "feature/mine")
    toy.apply()
    toy.apply("revert")
    assert toy.git("symbolic-ref", "HEAD") == "refs/heads/feature/mine"
    toy.git("checkout", "-q", "--detach")
    toy.apply()
    toy.apply("revert")
    assert toy.git("rev-parse", "HEAD") == toy.pin
    assert git_fails(toy.workspace, "symbolic-ref", "-q", "HEAD")


def test_revert_after_the_previous_branch_was_deleted(toy: Toy) -> None:
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    toy.git("checkout", "-q", "-b", "gone")
    toy.apply()
    toy.git("branch", "-q", "-D", "gone")
    assert "a detached HEAD" in toy.apply("revert").out
    assert toy.git("rev-parse", "HEAD") == toy.pin


def git_fails(folder: Path, *args: str) -> bool:
    return subprocess.run(["git", "-C", str(folder), *args], capture_output=True).returncode != 0


def test_status_in_every_state(toy: Toy) -> None:
    def outcome() -> str:
        return str(toy.apply("status", "--json").json["outcome"])

    assert outcome() == "absent"
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    assert outcome() == "not_applied"
    toy.apply()
    before = snapshot(toy.workspace)
    assert outcome() == "current"
    toy.write("demo.py", b"mine\n")
    assert toy.apply("status", "--json").json["local_edits"] == [" M demo.py"]
    toy_patch_more(toy)
    assert outcome() == "outdated"
    git(toy.workspace, "checkout", "-q", "demo.py")
    assert set(snapshot(toy.workspace)) == set(before)


def test_a_live_run_is_not_called_interrupted(applied: Toy) -> None:
    (applied.workspace / ".git" / "overlay" / "journal.json").write_text("{}")  # as in the middle of a swap
    with (applied.workspace / ".git" / "overlay" / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert applied.apply("status", "--json").json["outcome"] == "at_work"
        done = applied.run("check")
        assert (done.code, "at work" in done.err) == (5, True)
        assert applied.run().code == 3


def test_a_clone_under_way_is_said(toy: Toy) -> None:
    (toy.workspace / CLONING).mkdir(parents=True)
    with (toy.workspace / CLONING / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert toy.apply("status", "--json").json["outcome"] == "at_work"
        assert toy.run().code == 3


def test_a_file_system_without_locks(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("overlaykit.sources.fcntl.flock", flock)
    assert "has no locks" in toy.apply().err
    assert toy.apply("status", "--json").json["outcome"] == "current"


def test_line_ends_that_the_users_own_git_converts_are_no_edit(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy.folder / "gitconfig").write_text("[core]\n\tautocrlf = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(toy.folder / "gitconfig"))
    git(toy.folder, "-c", "core.autocrlf=true", "clone", "-q", str(toy.upstream), str(toy.workspace))
    assert toy.read("README.md") == b"# Toy\r\n"
    toy.apply()
    (toy.workspace / "README.md").touch()  # now git has to read it
    assert toy.apply("status", "--json").json["local_edits"] == []
    toy.write("README.md", b"# Mine\r\n")
    assert toy.apply("status", "--json").json["local_edits"] == [" M README.md"]


def test_lock_writes_only_the_result(toy: Toy) -> None:
    lock = toy.project / "configs" / "upstream.yaml"
    before = lock.read_text()
    assert "Nothing to do" in toy.apply("lock").out
    assert lock.read_text() == before
    toy.write_overlay({"run_predict.py": b"print('better')\n"})
    stale = toy.run()
    assert (stale.code, "apply.py lock" in stale.err) == (4, True)
    assert not (toy.workspace / "run_predict.py").exists()
    assert "Locked" in toy.apply("lock").out
    changed = [(a, b) for a, b in zip(before.split("\n"), lock.read_text().split("\n")) if a != b]
    assert len(changed) == 1
    assert changed[0][1].startswith("result: ")
    toy.apply()


def test_a_lock_that_someone_edited_is_noticed_without_a_build(applied: Toy) -> None:
    lock = applied.project / "configs" / "upstream.yaml"
    lines = [
        "result: " + json.dumps("1" * 40) if line.startswith("result") else line
        for line in lock.read_text().split("\n")
    ]
    lock.write_text("\n".join(lines))
    assert applied.run().code == 4


def test_a_moved_pin_is_fetched_and_applied(applied: Toy) -> None:
    files = {
        "README.md": b"# Toy 2\n",
        **{
            path: (applied.upstream / path).read_bytes()
            for path in ("old.py", "demo.py", "minigpt4/base_model.py", "eval_configs/eval.yaml", ".gitignore")
        },
    }
    applied.pin = commit(applied.upstream, files, "newer", executable=["eval_configs/eval.yaml"])
    applied.write_pin()
    assert "would fetch" in applied.run("check").out or applied.run("check").code == 4
    applied.apply("lock")
    applied.apply()
    assert applied.read("README.md") == b"# Toy 2\n"
    assert applied.git("rev-parse", "refs/overlay/base") == applied.pin
    assert applied.git("rev-parse", "refs/heads/main") != applied.pin, "the user's branch is not ours to move"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--set", "model_path"], 2),
        (["--set", "model_pth=/x"], 2),
        (["--set", "low_resource=perhaps"], 2),
        (["--upstream", "/nowhere/at/all"], 2),
        (["--upstream=-uexec"], 2),
        (["frobnicate"], 2),
        (["revert"], 2),
    ],
)
def test_wrong_commands_exit_2_and_make_nothing(toy: Toy, words: list[str], code: int) -> None:
    before = snapshot(toy.folder)
    assert toy.spawn(*words).code == code
    assert snapshot(toy.folder) == before


def test_errors_as_json_are_all_of_stdout(toy: Toy) -> None:
    done = toy.run("--json", "--set", "model_pth=/x")
    assert done.json["ok"] is False
    assert done.json["code"] == done.code == 2
    assert "model_path" in done.json["error"]["why"]


@pytest.mark.parametrize("words", [["--bogus"], ["frobnicate"], ["--set"]])
def test_words_that_make_no_sense_are_json_too(toy: Toy, words: list[str]) -> None:
    done = toy.run("--json", *words)
    assert (done.code, done.json["code"], done.json["error"]["type"]) == (2, 2, "FixTheCommand")
    assert words[0] in done.json["error"]["what"]


def test_the_home_folder_in_a_setting(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    toy.apply("--set", "model_path=~/weights")
    assert b"'/home/ada/weights/ckpt.pth'" in toy.read("eval_configs/eval.yaml")


def test_json_and_text_hold_the_same_facts(applied: Toy) -> None:
    applied.write("README.md", b"mine\n")
    facts, text = applied.apply("--json").json, applied.apply().out
    assert facts["ok"] is True
    for commit_facts in facts["commits"]:
        assert f"{commit_facts['id'][:12]} {commit_facts['subject']}" in text
    assert facts["tree"] in text
    assert facts["local_edits"] == [" M README.md"]
    assert " M README.md" in text


def test_help_teaches(toy: Toy) -> None:
    done = toy.spawn("--help")
    for word in ("check", "status", "revert", "lock", "--force", "--upstream", "exit codes", "bundle"):
        assert word in done.out
    assert "--project" not in done.out


def test_the_wanted_speed_needs_few_git_processes(toy: Toy, tmp_path: Path) -> None:
    """Seconds differ from machine to machine; the number of processes does not."""
    log = tmp_path / "calls"
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "git").write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {real} "$@"\n')
    (tmp_path / "git").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert toy.spawn(env=env).code == 0
    first = len(log.read_text().split("\n"))
    log.unlink()
    assert toy.spawn(env=env).code == 0
    second = len(log.read_text().split("\n"))
    assert (first <= 60, second <= 20) == (True, True), (first, second)


def test_no_torch_is_needed(toy: Toy) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['numpy'] = None; sys.modules['transformers'] = None;"
        f"sys.path.insert(0, {str(ROOT)!r}); import apply; sys.exit(apply.main({json.dumps(toy.arguments())}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_output_that_the_terminal_cannot_show(toy: Toy) -> None:
    toy.make_patches([*PATCHES, ("Grüße 你好", {"minigpt4/x.py": b"x = 1\n"})])
    toy.apply("lock")
    env = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = toy.spawn(env=env)
    assert done.code == 0, done.err
    assert "Gr\\xfc\\xdfe" in done.out
    (toy.workspace / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"mine\n")
    toy.git("add", "-A")
    assert "caf" in toy.apply("status").out
    assert "caf" in toy.apply("status", "--json").json["local_edits"][0]


def test_too_old_a_git_is_said(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\necho git version 2.25.1\n")
    (tmp_path / "git").chmod(0o755)
    done = toy.spawn(env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (done.code, "2.25.1 is too old" in done.err) == (2, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a small file system of its own")
def test_a_full_disk_is_said_and_the_next_run_goes_on(toy: Toy) -> None:
    small = toy.folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mount is not allowed here")
    try:
        toy.workspace = small / "W"
        git(small, "clone", "-q", "--no-checkout", str(toy.upstream), str(toy.workspace))
        toy.git("checkout", "-q", "main")
        fill(small / "fill")
        done = toy.spawn()
        assert done.code == 70
        assert "Traceback" not in done.err
        (small / "fill").unlink()
        toy.apply()
        assert toy.dirty() == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 1024)
        except OSError:
            pass
