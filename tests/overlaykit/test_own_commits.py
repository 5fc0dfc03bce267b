"""Commits of the user's on the overlay's branch: kept, and told how to keep."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from toys import Toy


def test_own_commits_on_the_overlay_branch_are_kept(applied: Toy) -> None:
    mine = commit_mine(applied, "mine.py")
    assert "Nothing to do" in applied.apply().out
    assert applied.run("check", "--set", "model_path=/other").code == 3
    assert applied.run("--set", "model_path=/other").code == 3
    assert applied.git("rev-parse", "HEAD") == mine
    (command,) = applied.apply("--set", "model_path=/other", "--force", "--json").json["restore"]
    subprocess.run(shlex.split(command), check=True)
    assert applied.git("rev-parse", "my-work") == mine
    assert applied.git("merge-base", "--is-ancestor", mine, "my-work") == ""
    saved = applied.git("for-each-ref", "--format=%(refname)", "refs/overlay/backup/")
    assert mine in applied.git("rev-list", saved).split("\n"), "the backup alone must keep the commits alive"
    applied.git("fsck", "--no-dangling")


def commit_mine(toy: Toy, path: str) -> str:
    toy.write(path, b"mine\n")
    toy.git("add", path)
    toy.git("-c", "user.name=U", "-c", "user.email=u@localhost", "commit", "-qm", "Mine")
    return toy.git("rev-parse", "HEAD")


def update_the_tool(toy: Toy) -> None:
    """What is built stays the same, but nothing tells so before it is built."""
    fingerprint = toy.workspace / ".git" / "overlay" / "fingerprint"
    fingerprint.write_text("0" * 64 + " " + fingerprint.read_text().split()[1] + "\n")


@pytest.mark.parametrize("reverted", [False, True])
def test_own_commits_outlive_an_update_of_the_tool(applied: Toy, reverted: bool) -> None:
    mine = commit_mine(applied, "mine.py")
    update_the_tool(applied)
    if reverted:
        applied.apply("revert")
    done = applied.apply("--json").json
    assert done["outcome"] == ("applied" if reverted else "nothing_to_do")
    assert applied.git("rev-parse", "HEAD", "overlay").split() == [mine, mine]
    assert applied.apply("status", "--json").json["outcome"] == "current"
    assert applied.dirty() == []


def test_commits_that_the_user_took_back_are_no_work_of_theirs(applied: Toy) -> None:
    applied.git("reset", "-q", "--hard", "HEAD~1")
    applied.apply()
    assert applied.apply("status", "--json").json["outcome"] == "current"
    assert applied.dirty() == []


def test_the_command_that_keeps_commits_works_twice_and_with_spaces(applied: Toy) -> None:
    applied.workspace = applied.workspace.rename(applied.folder / "my clone")
    for number, name in ((1, "my-work"), (2, "my-work-2")):
        mine = commit_mine(applied, f"mine-{number}.py")
        refused = applied.run("--set", f"model_path=/{number}")
        command = refused.err.split("Keep them: ")[1].split("\n")[0]
        subprocess.run(shlex.split(command), check=True)
        assert applied.git("rev-parse", name) == mine
        applied.apply("--set", f"model_path=/{number}", "--force")
