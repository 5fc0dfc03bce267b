"""What export refuses, and that it writes nothing then."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_export import FIRST, MODEL, PATCHED, SECOND, YAML, changes_nothing, commit, exported, overlay, patches
from toys import BASE_MODEL, CLEAN, Toy, git, snapshot

from overlaykit.exporting import newproject
from overlaykit.project import read_project

HELLO = {"demo.py": b"print('hello')\n"}


def test_no_workspace(toy: Toy) -> None:
    done = toy.run("export")
    assert (done.code, "There is no workspace" in done.err) == (2, True)


def test_another_branch(applied: Toy) -> None:
    applied.git("checkout", "-q", "main")
    changes_nothing(applied, 2, "not on branch overlay")


def test_a_merge(applied: Toy) -> None:
    applied.git("checkout", "-q", "-b", "side")
    commit(applied, "Say hello", HELLO)
    applied.git("checkout", "-q", "overlay")
    git(applied.workspace, "merge", "-q", "--no-ff", "-m", "Merge it", "side")
    changes_nothing(applied, 1, '"Merge it" is a merge', "git rebase")


def test_a_branch_that_was_reset_or_rebased(applied: Toy) -> None:
    applied.git("reset", "-q", "--hard", "HEAD~1")
    commit(applied, "Say hello", HELLO)
    changes_nothing(applied, 3, "does not contain the last apply")


def test_an_unfinished_merge(applied: Toy) -> None:
    commit(applied, "Say hello", HELLO)
    applied.git("checkout", "-q", "-b", "side", "HEAD~1")
    commit(applied, "Say bye", {"demo.py": b"print('bye')\n"})
    applied.git("checkout", "-q", "overlay")
    subprocess.run(["git", "-C", str(applied.workspace), "merge", "-q", "side"], env=CLEAN, capture_output=True)
    changes_nothing(applied, 3, "in the middle of a merge")


def test_a_rebase_that_goes_on(applied: Toy) -> None:
    commit(applied, "Say hello", HELLO)
    (applied.workspace / ".git" / "overlay" / "rebase.json").write_bytes(b"{}")
    changes_nothing(applied, 3, "A rebase of the patches is going on")


def test_patches_that_are_not_the_locked_ones(applied: Toy) -> None:
    commit(applied, "Say hello", HELLO)
    applied.write_overlay({"run_predict.py": b"print('newer')\n"})
    changes_nothing(applied, 4, "the lock says")


def do_as_told(applied: Toy) -> None:
    """Run the commands that the refusal names."""
    told = applied.run("export").err.split("Bring it up to date first:\n")[1]
    told = told.replace("apply --workspace", f"apply --project {applied.project} --workspace")
    script = re.sub("^python ", f"{sys.executable} ", told, flags=re.MULTILINE)
    subprocess.run(["sh", "-ec", script], env=CLEAN, check=True, capture_output=True)


@pytest.mark.parametrize("mine", [True, False])
def test_a_workspace_of_another_project_state(applied: Toy, mine: bool) -> None:
    """The commands of the message bring it up to date, and the newer overlay is not undone."""
    if mine:
        commit(applied, "Say hello", HELLO)
    applied.write_overlay({"run_predict.py": b"print('newer')\n"})
    applied.apply("lock")
    changes_nothing(applied, 3, "made by another state of this project")
    do_as_told(applied)
    done = applied.apply("export")
    assert ("Exported" in done.out) is mine
    assert overlay(applied)["run_predict.py"] == b"print('newer')\n"


def test_commits_made_after_an_export_was_interrupted(applied: Toy) -> None:
    commit(applied, "Say hello", HELLO)
    lock = applied.workspace / ".git" / "refs" / "heads" / "overlay.lock"
    lock.write_bytes(b"")
    assert applied.run("export").code == 3
    lock.unlink()
    commit(applied, "Say bye", {"demo.py": b"print('bye')\n"})
    changes_nothing(applied, 3, "made by another state of this project")
    do_as_told(applied)
    exported(applied)
    names = [patch.subject for patch in read_project(applied.project).series]
    assert names[2:] == ["Say hello", "Say bye"]


def test_a_fixup_that_a_later_patch_is_in_the_way_of(applied: Toy) -> None:
    later = PATCHED.replace(b'"auto"', b'choose("auto")')
    commit(applied, "Choose by name", {MODEL: later})
    exported(applied)
    commit(applied, "fixup! Choose autocast by device", {MODEL: later.replace(b"auto", b"npu")})
    where = f"{MODEL}, line 6 in BaseModel.device"
    changes_nothing(
        applied, 1, f"does not fit into {FIRST}", "0003-Choose-by-name.patch", where, "fixup! Choose by name"
    )
    git(applied.workspace, "commit", "-q", "--amend", "-m", "fixup! Choose by name")
    exported(applied)
    assert b'+        return choose("npu")' in patches(applied)["0003-Choose-by-name.patch"]


def test_a_fixup_of_a_file_that_a_later_patch_makes_or_deletes(applied: Toy) -> None:
    commit(applied, "fixup! Choose autocast by device", {"minigpt4/hook.py": b"HOOK = 3\n"})
    changes_nothing(applied, 1, f"{SECOND}, which comes later", "minigpt4/hook.py")


def test_unknown_and_ambiguous_targets(applied: Toy) -> None:
    commit(applied, "fixup! Choose autocast by devise", {MODEL: PATCHED + b"\n"})
    changes_nothing(applied, 1, "no patch has the subject", "Did you mean Choose autocast by device?")
    git(applied.workspace, "commit", "-q", "--amend", "-m", "Choose autocast by device")
    commit(applied, "fixup! Choose autocast by device", {MODEL: PATCHED + b"\n\n"})
    changes_nothing(applied, 1, "more than one patch has that subject")


def test_a_mark_without_a_message_or_a_patch(applied: Toy) -> None:
    commit(applied, "amend! Drop what is old")
    changes_nothing(applied, 1, "holds no new message")
    git(applied.workspace, "commit", "-q", "--amend", "--allow-empty", "-m", "squash! Nothing\n\nof the kind")
    changes_nothing(applied, 1, "no patch has the subject")


def test_a_fixup_of_an_overlay_commit(applied: Toy) -> None:
    commit(applied, "fixup! overlay: files", {"run_predict.py": b"print('more')\n"})
    exported(applied)
    assert overlay(applied)["run_predict.py"] == b"print('more')\n"
    commit(applied, "fixup! overlay: files", HELLO)
    changes_nothing(applied, 1, '"overlay: files" is no patch', "demo.py")


@pytest.mark.parametrize("kind", ["symlink", "executable", "litter", "submodule"])
def test_what_cannot_lie_in_the_overlay(applied: Toy, kind: str) -> None:
    path = "x.py~" if kind == "litter" else "x.py"
    if kind == "symlink":
        os.symlink("/etc/passwd", applied.workspace / path)
    elif kind != "submodule":
        applied.write(path, b"X = 1\n")
        (applied.workspace / path).chmod(0o755 if kind == "executable" else 0o644)
    if kind == "submodule":
        applied.git("update-index", "--add", "--cacheinfo", f"160000,{applied.pin},{path}")
    else:
        applied.git("add", "-f", path)
    commit(applied, "Odd")
    changes_nothing(applied, 2, f"{path} cannot lie in overlay/")


def test_paths_that_leave_the_overlay(applied: Toy, tmp_path: Path) -> None:
    """git refuses to make such trees, but not to hold them."""
    blob = git(applied.workspace, "hash-object", "-w", "--stdin", stdin=b"x\n").decode().strip()
    inner = git(applied.workspace, "mktree", stdin=f"100644 blob {blob}\tescaped\n".encode()).decode().strip()
    rows = git(applied.workspace, "ls-tree", "HEAD").decode() + f"040000 tree {inner}\t..\n"
    tree = git(applied.workspace, "mktree", stdin=rows.encode()).decode().strip()
    made = git(applied.workspace, "commit-tree", tree, "-p", "HEAD", "-m", "Escape").decode().strip()
    applied.git("update-ref", "refs/heads/overlay", made)
    done = applied.run("export")
    assert (done.code, "leads out of the project" in done.err) == (2, True)
    assert not list(applied.folder.rglob("escaped"))


@pytest.mark.parametrize(
    ("message", "files", "word"),
    [
        ("Binary", {"demo.py": b"\0\1\2"}, "binary change"),
        ("CRLF", {"demo.py": b"print(1)\r\n"}, "CRLF"),
        ("[npu] Say hello", HELLO, "[brackets]"),
        ("Say hello\n\n---\nmore", HELLO, "'---'"),
        ("Say hello\n\ndiff --git a/x b/x", HELLO, "cannot be written"),
        ("Say hello\n\nFrom: someone", HELLO, "mail header"),
    ],
)
def test_what_no_patch_can_hold(applied: Toy, message: str, files: dict[str, bytes], word: str) -> None:
    made = commit(applied, message, files)
    changes_nothing(applied, 1, made[:12], word)


def test_a_link_in_the_place_of_an_upstream_file(applied: Toy) -> None:
    (applied.workspace / "demo.py").unlink()
    os.symlink("/etc/passwd", applied.workspace / "demo.py")
    applied.git("add", "demo.py")
    commit(applied, "Link")
    changes_nothing(applied, 1, "demo.py, which is or was no plain file")


def test_an_owned_file_that_is_no_yaml_any_more(applied: Toy) -> None:
    yaml = applied.read(YAML)
    commit(applied, "Broken", {YAML: b"a: [\n" + yaml.replace(b"/data/model", b"/x/model")})
    changes_nothing(applied, 1, f"changes {YAML} where this machine's configuration does too")


def test_a_file_edited_while_export_runs_is_not_lost(applied: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(applied, "fixup! Choose autocast by device", {MODEL: BASE_MODEL.replace(b'"cuda:0"', b'"npu"')})
    read, patch = newproject.read_project, applied.project / "patches" / FIRST

    def editing(root: Path) -> object:
        patch.write_bytes(patch.read_bytes().replace(b"toy needs", b"toy really needs"))
        return read(root)

    monkeypatch.setattr(newproject, "read_project", editing)
    before = snapshot(applied.workspace, inside_git=False), applied.git("for-each-ref")
    done = applied.run("export")
    assert (done.code, "was changed while this ran" in done.err) == (3, True)
    assert b"toy really needs" in patch.read_bytes()
    assert (snapshot(applied.workspace, inside_git=False), applied.git("for-each-ref")) == before
    assert [p.name for p in read_project(applied.project).series] == [FIRST, SECOND]


def test_a_bare_change_of_a_mode_has_a_word_for_it(applied: Toy) -> None:
    (applied.workspace / "README.md").chmod(0o755)
    applied.git("commit", "-qam", "Run it")
    changes_nothing(applied, 1, '"Run it" changes nothing of README.md but its mode')
    applied.git("reset", "-q", "--hard", "HEAD~")
    (applied.workspace / "demo.py").chmod(0o755)
    applied.git("commit", "-qam", "fixup! Drop what is old")
    applied.apply("export")
    assert "new mode 100755" in next((applied.project / "patches").glob("0002*")).read_text(), "it has new content too"


def test_a_date_with_an_odd_zone_is_no_crash(applied: Toy) -> None:
    commit(applied, "Late", HELLO, GIT_AUTHOR_DATE="@1700000000 +9999")
    changes_nothing(applied, 1, "cannot be written as a patch", "git commit --amend")
