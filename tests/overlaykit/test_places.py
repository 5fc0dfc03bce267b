"""Where a workspace may lie: a worktree of another clone, beside a second one, in a folder with an odd name."""

from __future__ import annotations

import pytest
from toys import UPSTREAM, Toy, git, snapshot


def test_a_linked_worktree_as_workspace(toy: Toy) -> None:
    main = toy.folder / "main-clone"
    git(toy.folder, "clone", "-q", str(toy.upstream), str(main))
    git(main, "worktree", "add", "-q", "--detach", str(toy.workspace))
    before = snapshot(main, inside_git=False)
    toy.apply()
    assert toy.read("run_predict.py")
    toy.apply("revert")
    assert snapshot(main, inside_git=False) == before


def test_two_worktrees_of_one_repository_are_not_mixed_up(applied: Toy) -> None:
    first, second = applied.workspace, applied.folder / "second"
    applied.git("worktree", "add", "-q", "--detach", str(second), "main")
    applied.workspace = second
    before = snapshot(applied.folder)
    for verb in ("check", "apply"):
        done = applied.run(verb, "--set", "model_path=/other")
        assert (done.code, f"revert --workspace {first}" in done.err) == (3, True)
    assert snapshot(first, inside_git=False) == {
        name.split("/", 1)[1]: seen
        for name, seen in before.items()
        if name.startswith(f"{first.name}/") and not f"{name}/".startswith(f"{first.name}/.git/")
    }
    applied.workspace = first
    applied.apply("--set", "model_path=/other")  # where it is checked out it goes on
    applied.apply("revert")
    applied.workspace = second
    applied.apply()


def test_revert_takes_no_branch_from_another_worktree(applied: Toy) -> None:
    other = applied.folder / "other"
    applied.git("worktree", "add", "-q", "-f", str(other), "main")
    note = f"refs/heads/main is checked out in {other}"
    assert note in applied.apply("revert").out
    assert applied.git("rev-parse", "--abbrev-ref", "HEAD") == "HEAD"
    assert applied.git("rev-parse", "HEAD") == applied.pin
    assert applied.read("demo.py") == UPSTREAM["demo.py"]


@pytest.mark.parametrize("name", ["a:b", "with space", 'quo"te', "back\\slash", "uml\u00e4ut"])
def test_odd_folders(toy: Toy, name: str) -> None:
    toy.workspace = toy.folder / name / "MiniGPT-4"
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    for verb in ("check", "lock", "apply", "check", "status", "export", "revert"):
        toy.apply(verb, *(["--set", "model_path=/other"] if verb == "check" else []))
    judged = toy.run("check", "--against", "main")
    assert judged.code == 0, judged.out + judged.err


def test_a_line_break_in_the_path(toy: Toy) -> None:
    """git takes lists of paths line by line."""
    toy.workspace = toy.folder / "new\nline"
    for _ in range(2):
        done = toy.run()
        assert (done.code, "line break" in done.err) == (2, True)
        if not toy.workspace.exists():
            git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))


def test_a_repository_around_the_workspace_is_never_taken_for_it(toy: Toy) -> None:
    """Not even where git cannot be told where to stop looking: a list of folders is separated by colons."""
    outer = toy.folder / "outer"
    git(toy.folder, "clone", "-q", str(toy.upstream), str(outer))
    toy.workspace = outer / "a:b" / "MiniGPT-4"
    (toy.workspace / ".git").mkdir(parents=True)
    before = snapshot(outer)
    for verb in ("apply", "check", "status", "revert"):
        assert toy.run(verb).code == 2
    assert snapshot(outer) == before
