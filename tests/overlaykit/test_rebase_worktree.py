"""apply.py rebase: what a user may do in its worktree, or ask it for, that it must not misread or lose."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from test_rebase import DRIFTED, REWRITTEN, pin, project_files, resolve, upstream_commits, worktree
from toys import CLEAN, Toy, git

MODEL = "minigpt4/base_model.py"
RESOLVED = REWRITTEN.replace(b'"cuda:1"', b'"auto"')


@pytest.fixture
def stopped(applied: Toy) -> Toy:
    """A rebase that waits for a decision about the first patch."""
    upstream_commits(applied, "Use the second card", {MODEL: REWRITTEN})
    assert applied.run("rebase").code == 1
    return applied


@pytest.fixture
def drifted(applied: Toy) -> Toy:
    """A rebase that waits for somebody to read."""
    upstream_commits(applied, "Rewrite around the hook", {MODEL: DRIFTED})
    assert applied.run("rebase").code == 1
    return applied


def by_hand(toy: Toy, command: str) -> None:
    subprocess.run(command, shell=True, cwd=worktree(toy), env={**CLEAN, "GIT_EDITOR": "true"}, capture_output=True)


def first_patch(toy: Toy) -> Path:
    return toy.project / "patches" / "0001-Choose-autocast-by-device.patch"


def test_a_patch_can_be_given_up(stopped: Toy) -> None:
    done = stopped.apply("rebase", "--skip")
    assert "dropped" in done.out
    assert not first_patch(stopped).exists()
    assert stopped.read(MODEL) == REWRITTEN


def test_skip_needs_a_patch_that_waits(drifted: Toy) -> None:
    for words in (["--skip"], ["--skip", "--continue"], ["--skip", "--abort"], ["--skip", "--onto", "main"]):
        assert drifted.run("rebase", *words).code == 2
    drifted.apply("rebase", "--abort")
    assert "No rebase is going on" in drifted.run("rebase", "--skip").err


def test_lines_of_the_message_that_look_like_comments_stay(applied: Toy) -> None:
    patch = first_patch(applied)
    patch.write_bytes(patch.read_bytes().replace(b"needs it.\n", b"needs it.\n\n# Why\n#12 says so.\n"))
    upstream_commits(applied, "Use the second card", {MODEL: REWRITTEN})
    applied.run("rebase")
    resolve(applied, MODEL, RESOLVED)
    applied.run("rebase", "--continue")
    applied.apply("rebase", "--continue", "--accept-drift")
    assert b"\n\n# Why\n#12 says so.\n" in patch.read_bytes()


def test_files_that_are_in_no_commit_are_not_thrown_away(drifted: Toy) -> None:
    (worktree(drifted) / "forgotten.py").write_bytes(b"x = 1\n")
    done = drifted.run("rebase", "--continue", "--accept-drift")
    assert (done.code, "forgotten.py" in done.err) == (3, True)
    assert (worktree(drifted) / "forgotten.py").exists()
    command = next(line for line in done.err.split("\n") if "clean -f" in line).partition(": ")[2]
    subprocess.run(command, shell=True, check=True, env=CLEAN, capture_output=True)
    drifted.apply("rebase", "--continue", "--accept-drift")


def test_a_rebase_of_ones_own_has_to_be_finished(drifted: Toy) -> None:
    by_hand(drifted, "GIT_SEQUENCE_EDITOR='sed -i s/^pick/edit/' git rebase -i HEAD~2")
    for words in ([], ["--continue"]):
        done = drifted.run("rebase", *words)
        assert (done.code, "A rebase of your own" in done.err) == (3, True)
    by_hand(drifted, "git rebase --continue; git rebase --continue")
    drifted.apply("rebase", "--continue", "--accept-drift")


def test_a_patch_reworked_in_the_worktree(drifted: Toy) -> None:
    text = (worktree(drifted) / MODEL).read_bytes()
    (worktree(drifted) / MODEL).write_bytes(text.replace(b'"auto"', b'"any"'))
    done = drifted.run("rebase", "--continue", "--accept-drift")
    assert (done.code, "not committed: minigpt4/base_model.py" in done.err) == (3, True)
    by_hand(drifted, "git commit -a --fixup ':/Choose autocast' && git rebase -i --autosquash HEAD~3")
    drifted.apply("rebase", "--continue", "--accept-drift")
    assert b'+        return "any"' in first_patch(drifted).read_bytes()


def test_git_rebase_abort_in_the_worktree_is_no_result(stopped: Toy) -> None:
    by_hand(stopped, "git rebase --abort")
    done = stopped.run("rebase", "--continue")
    assert (done.code, "replaying again" in done.err, "does not fit" in done.out) == (1, True, True)
    resolve(stopped, MODEL, RESOLVED)
    stopped.run("rebase", "--continue")
    stopped.apply("rebase", "--continue", "--accept-drift")


def test_git_rebase_quit_loses_no_patch(stopped: Toy) -> None:
    by_hand(stopped, "git rebase --quit")
    done = stopped.run("rebase", "--continue")
    assert (done.code, "half done" in done.err) == (3, True)
    by_hand(stopped, "git checkout -q -f HEAD")
    before = project_files(stopped)
    for words in (["--continue"], ["--continue", "--accept-drift"]):
        done = stopped.run("rebase", *words)
        assert (done.code, "gone, and not landed  0002" in done.out) == (1, True)
    assert project_files(stopped) == before


def test_another_commit_in_the_worktree_is_no_result(drifted: Toy) -> None:
    by_hand(drifted, f"git checkout -q {drifted.pin}")
    done = drifted.run("rebase", "--continue", "--accept-drift")
    assert (done.code, "not on the new base" in done.err) == (3, True)


def test_a_worktree_that_is_gone_is_made_again(stopped: Toy) -> None:
    shutil.rmtree(worktree(stopped))
    done = stopped.run("rebase")
    assert (done.code, "does not fit" in done.out, b"|||||||" in (worktree(stopped) / MODEL).read_bytes()) == (
        1,
        True,
        True,
    )
    shutil.rmtree(worktree(stopped))
    stopped.apply("rebase", "--abort")
    assert stopped.git("worktree", "list").count("\n") == 0


def test_a_commit_that_no_patch_can_hold_is_named(drifted: Toy) -> None:
    by_hand(drifted, "ln -s /etc/passwd link && git add link && git commit -q -m 'A link'")
    done = drifted.run("rebase", "--continue", "--accept-drift")
    assert (done.code, "(A link) cannot be written as a patch" in done.err) == (1, True)


def test_markers_that_the_file_has_by_itself_are_no_mistake(applied: Toy) -> None:
    markers = b"\n<<<<<<< a\n>>>>>>> b\n"
    upstream_commits(applied, "Use the second card", {MODEL: REWRITTEN + b'"""' + markers + b'"""\n'})
    applied.run("rebase")
    resolve(applied, MODEL, RESOLVED + b'"""' + markers + b'"""\n')
    assert "drifted" in applied.run("rebase", "--continue").out


def test_the_command_that_shows_drift_works_where_it_is_pasted(drifted: Toy, tmp_path: Path) -> None:
    shown = drifted.run("rebase").out
    command = next(line for line in shown.split("\n") if line.startswith("  see: "))[7:]
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=CLEAN, capture_output=True, text=True)
    assert (done.returncode, "staticmethod" in done.stdout) == (0, True), done.stderr


def test_a_name_of_the_users_own_is_no_upstream(applied: Toy) -> None:
    done = applied.run("rebase", "--onto", "overlay")
    assert (done.code, "no commit, branch or tag overlay" in done.err) == (2, True)
    for verb in (["rebase", "--onto"], ["check", "--against"]):
        done = applied.run(*verb, applied.git("rev-parse", "overlay"))
        assert (done.code, "the patches are in it already" in done.err) == (2, True)


def test_a_name_that_upstream_had_once_is_not_taken_for_another(applied: Toy) -> None:
    upstream_commits(applied, "Use the second card", {MODEL: REWRITTEN})
    git(applied.upstream, "tag", "v2")
    git(applied.upstream, "branch", "topic")
    for name in ("v2", "topic"):
        assert applied.run("rebase", "--onto", name).code == 1
        applied.apply("rebase", "--abort")
    git(applied.upstream, "branch", "-D", "topic")
    for name in ("v3", "topic"):
        assert applied.run("rebase", "--onto", name).code == 2


def test_aborting_late_does_not_undo_what_came_after(drifted: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rebase installed its patches and then failed to swap; the project went on."""
    from overlaykit.rebasing import finish

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finish, "carry_out", full)
    assert drifted.run("rebase", "--continue", "--accept-drift").code == 70
    monkeypatch.undo()
    patch = first_patch(drifted)
    patch.write_bytes(patch.read_bytes().replace(b"needs it.", b"wants it."))
    done = drifted.run("rebase", "--abort")
    assert (done.code, b"wants it." in patch.read_bytes()) == (3, True)
    drifted.apply("rebase")
    assert b"wants it." in patch.read_bytes()


def test_a_pin_that_somebody_else_moved_ends_no_rebase(stopped: Toy) -> None:
    new = git(stopped.upstream, "rev-parse", "HEAD").decode().strip()
    lock = stopped.project / "configs" / "upstream.yaml"
    lock.write_text(lock.read_text().replace(pin(stopped)[0], new))
    done = stopped.run("rebase", "--continue")
    assert (done.code, "changed since" in done.err) == (3, True)
    assert worktree(stopped).exists()
