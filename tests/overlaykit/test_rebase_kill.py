"""SIGKILL at any point of a rebase: a rerun goes on or --abort goes back, and no resolution is lost."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from kills import REAL, give_the_user_files, killer, lost_nothing, path_with, state
from test_rebase import REWRITTEN, project_files, resolve, upstream_commits, worktree
from toys import BASE_MODEL, Run, Toy, copy_toy

# Far enough from the first patch's line that git merges it, in the function that the patch changes.
NEW = REWRITTEN.replace(b"    def device(self):", b"    @staticmethod\n    def device(self):")
RESOLVED = NEW.replace(b'"cuda:1"', b'"auto"')
CONTINUE, ACCEPT = ["rebase", "--continue"], ["rebase", "--continue", "--accept-drift"]


def at_the_start(toy: Toy) -> list[str]:
    toy.apply()
    give_the_user_files(toy)
    upstream_commits(toy, "Write a manual", {"MANUAL.md": b"# How\n"})
    upstream_commits(toy, "Use the second card", {"minigpt4/base_model.py": NEW})
    return ["rebase"]


def at_the_conflict(toy: Toy) -> list[str]:
    assert toy.run(*at_the_start(toy)).code == 1
    resolve(toy, "minigpt4/base_model.py", RESOLVED)
    return CONTINUE


def at_the_drift(toy: Toy) -> list[str]:
    shown = toy.run(*at_the_conflict(toy))
    assert (shown.code, "drifted" in shown.out) == (1, True)
    return ACCEPT


EVERY = [pytest.param(1, marks=pytest.mark.slow), 130]


def copied(source: Path, target: Path) -> Toy:
    """git's record of a linked worktree holds its path, so the copy stands where the original stood."""
    shutil.rmtree(target, ignore_errors=True)
    return copy_toy(source, target)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("every", EVERY, ids=["each", "some"])
@pytest.mark.parametrize(
    "prepare",
    [at_the_conflict, *(pytest.param(words, marks=pytest.mark.slow) for words in (at_the_start, at_the_drift))],
)
def test_killed_before_any_git_command(toy_master: Path, tmp_path: Path, prepare: object, every: int) -> None:
    place = tmp_path / "toy"
    words = prepare(copied(toy_master, place))  # type: ignore[operator]
    place.rename(tmp_path / "prepared")
    toy = copied(tmp_path / "prepared", place)
    before = project_files(toy)
    done = toy.spawn(*words, env=killer(tmp_path / "count", 0))
    expected = (done.code, to_the_end(toy), project_files(toy), state(toy))
    calls = len((tmp_path / "count" / "calls").read_text().split())
    for number in (number for number in range(1, calls + 1) if number % every == 0 or number > calls - 4):
        toy = copied(tmp_path / "prepared", place)
        killed = toy.spawn(*words, env=killer(tmp_path / f"kill-{number}", number))
        if killed.code == done.code and number > calls - 4:
            break  # the number of git commands varies by one or two
        assert killed.code == -signal.SIGKILL, f"call {number}"
        lost_nothing(toy)
        place.rename(tmp_path / "killed")
        toy = copied(tmp_path / "killed", place)
        assert to_the_end(toy) == expected[1], f"after a kill before call {number}"
        assert (project_files(toy), state(toy)) == expected[2:], f"after a kill before call {number}"
        toy = copied(tmp_path / "killed", place)
        aborted = toy.run("rebase", "--abort")
        assert aborted.code in (0, 2), aborted.err  # 2: it was killed before there was anything, or behind the end
        assert project_files(toy) in (before, expected[2]), f"after a kill before call {number}"
        assert not worktree(toy).exists()
        lost_nothing(toy)
        shutil.rmtree(tmp_path / "killed")


def rebase(toy: Toy) -> Run:
    """`apply.py rebase`; where a git that was killed left its lock on the refs, as the error says: remove it, again."""
    done = toy.run("rebase")
    lock = toy.workspace / ".git" / "packed-refs.lock"
    if done.code == 3 and f"{lock} exists" in done.err:
        assert "remove that file" in done.err
        lock.unlink()
        done = toy.run("rebase")
    return done


def to_the_end(toy: Toy) -> bytes:
    """Go on as a maintainer would, resolving at most once; what the first patch's file holds in the end."""
    for _ in range(8):
        done = rebase(toy)
        if done.code == 0:
            break
        assert done.code == 1, done.err
        if "does not fit" in done.out:
            path = worktree(toy) / "minigpt4" / "base_model.py"
            if path.read_bytes() != RESOLVED:
                resolve(toy, "minigpt4/base_model.py", RESOLVED)
        toy.run(*ACCEPT)
    assert done.code == 0
    return toy.read("minigpt4/base_model.py")


@pytest.mark.parametrize("seen", ["rebase-merge", "rebase-merge/done", "index.lock"])
def test_git_killed_inside_the_replay(toy_master: Path, tmp_path: Path, seen: str) -> None:
    """apply.py and git's own rebase die together; what git left half done is not trusted."""
    toy = copy_toy(toy_master, tmp_path / "toy")
    words = at_the_start(toy)
    script = f"""
case " $* " in *" rebase "*)
    {REAL} "$@" & child=$!
    until [ -e "$GIT_DIR/{seen}" ]; do kill -0 $child 2>/dev/null || break; done
    kill -9 $child; kill -9 $PPID; exit 1;;
esac
exec {REAL} "$@"
"""
    killed = toy.spawn(*words, env=path_with(tmp_path / "bin", script))
    assert killed.code == -signal.SIGKILL
    again = rebase(toy)
    assert (again.code, "interrupted" in again.err, "Use the second card" in again.out) == (1, True, True)
    assert to_the_end(toy) == RESOLVED
    assert (toy.workspace / "MANUAL.md").exists()
    names = sorted(os.listdir(toy.project / "patches"))
    assert [name for name in names if name.endswith(".patch")] == [
        "0001-Choose-autocast-by-device.patch",
        "0002-Drop-what-is-old.patch",
    ]


def test_what_was_resolved_is_remembered(toy_master: Path, tmp_path: Path) -> None:
    """A kill during --continue starts the replay anew, but does not ask the same question again."""
    toy = copy_toy(toy_master, tmp_path / "toy")
    words = at_the_conflict(toy)
    script = f'case " $* " in *" rebase --continue "*) kill -9 $PPID; exit 1;; esac\nexec {REAL} "$@"\n'
    assert toy.spawn(*words, env=path_with(tmp_path / "bin", script)).code == -signal.SIGKILL
    again = toy.run("rebase")
    assert (again.code, "drifted" in again.out, "does not fit" in again.out) == (1, True, False)
    assert BASE_MODEL != RESOLVED == (worktree(toy) / "minigpt4" / "base_model.py").read_bytes()
