"""apply.py rebase in workspaces of every kind: odd paths, linked worktrees, partial and shallow clones, a full disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kills import REAL, path_with
from test_rebase import REWRITTEN, pin, project_files, resolve, upstream_commits, worktree
from toys import CLEAN, OVERLAY, UPSTREAM, Toy, commit, git

MODEL = "minigpt4/base_model.py"
RESOLVED = REWRITTEN.replace(b'"cuda:1"', b'"auto"')


def rebase_to_the_end(toy: Toy) -> None:
    assert "does not fit" in toy.run("rebase").out
    resolve_anywhere(toy)
    assert "read this first" in toy.run("rebase", "--continue").out
    toy.apply("rebase", "--continue", "--accept-drift")
    assert toy.read(MODEL) == RESOLVED
    assert toy.read("run_predict.py") == OVERLAY["run_predict.py"]


def resolve_anywhere(toy: Toy) -> None:
    private = Path(toy.git("rev-parse", "--absolute-git-dir")) / "overlay" / "rebase-worktree"
    (private / MODEL).write_bytes(RESOLVED)
    git(private, "add", MODEL)


@pytest.mark.parametrize("name", ['quote\'d "twice" and a space', "$HOME"])
def test_odd_paths(toy: Toy, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pasted, the commands find the place again."""
    monkeypatch.chdir(tmp_path)
    toy.workspace = toy.folder / name / "MiniGPT-4"
    toy.apply()
    upstream_commits(toy, "Use the second card", {MODEL: REWRITTEN})
    said = toy.run("rebase").out.rpartition("\n\n")[2]
    command = said[: said.index("$EDITOR")] + "pwd"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=CLEAN, capture_output=True, text=True)
    assert done.stdout.strip() == str(worktree(toy)), done.stderr
    last = said[said.index("or the whole rebase:") :].partition(":")[2].strip()
    functions = f'python() {{ "{sys.executable}" "$@" --project "{toy.project}"; }}\n'
    done = subprocess.run(["bash", "-c", functions + last], cwd=tmp_path, env=CLEAN, capture_output=True, text=True)
    assert "given up" in done.stdout, done.stderr


def test_a_workspace_that_is_a_linked_worktree(toy: Toy) -> None:
    main = toy.folder / "main"
    git(toy.folder, "clone", "-q", str(toy.upstream), str(main))
    git(main, "worktree", "add", "-q", "--detach", str(toy.workspace), toy.pin)
    toy.apply()
    upstream_commits(toy, "Use the second card", {MODEL: REWRITTEN})
    rebase_to_the_end(toy)
    assert git(main, "worktree", "list").decode().count("\n") == 2
    assert git(main, "status", "--porcelain") == b""


def test_a_workspace_of_a_bare_clone(toy: Toy) -> None:
    bare = toy.folder / "bare.git"
    git(toy.folder, "clone", "-q", "--bare", str(toy.upstream), str(bare))
    git(bare, "worktree", "add", "-q", "--detach", str(toy.workspace), toy.pin)
    toy.apply()
    upstream_commits(toy, "Use the second card", {MODEL: REWRITTEN})
    rebase_to_the_end(toy)


def test_a_shallow_workspace(toy: Toy) -> None:
    git(toy.folder, "clone", "-q", "--depth=1", f"file://{toy.upstream}", str(toy.workspace))
    toy.apply()
    culprit = upstream_commits(toy, "Use the second card", {MODEL: REWRITTEN})
    judged = toy.run("check", "--against", "main")
    assert (judged.code, culprit[:12] in judged.out) == (1, True), judged.err
    rebase_to_the_end(toy)


def test_branch_overlay_in_another_worktree(applied: Toy) -> None:
    applied.apply("revert")
    applied.git("worktree", "add", "-q", str(applied.folder / "other"), "overlay")
    new = upstream_commits(applied, "Write a manual", {"MANUAL.md": b"# How\n"})
    tip = applied.git("rev-parse", "overlay")
    done = applied.apply("rebase")
    assert (pin(applied)[0], "left as it is" in done.out) == (new, True)
    assert applied.git("rev-parse", "overlay") == tip


def test_a_workspace_that_was_moved_keeps_what_was_resolved(applied: Toy) -> None:
    upstream_commits(applied, "Use the second card", {MODEL: REWRITTEN})
    applied.run("rebase")
    (worktree(applied) / MODEL).write_bytes(RESOLVED)
    applied.workspace = applied.workspace.rename(applied.folder / "elsewhere")
    done = applied.run("rebase")
    assert (done.code, "does not fit" in done.out) == (1, True), done.err
    assert (worktree(applied) / MODEL).read_bytes() == RESOLVED
    git(worktree(applied), "add", MODEL)
    assert "read this first" in applied.run("rebase", "--continue").out
    applied.apply("rebase", "--continue", "--accept-drift")
    assert applied.git("worktree", "list").count("\n") == 0


def test_two_at_once(applied: Toy) -> None:
    upstream_commits(applied, "Use the second card", {MODEL: REWRITTEN})
    import fcntl

    with (applied.workspace / ".git" / "overlay" / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in ([], ["--abort"]):
            assert applied.run("rebase", *words).code == 3
    assert applied.run("rebase").code == 1
    other = Toy.__new__(Toy)
    other.folder, other.upstream, other.project = applied.folder, applied.upstream, applied.project
    other.workspace = applied.folder / "second"
    other.apply()
    rebase_to_the_end(other)
    resolve(applied, MODEL, RESOLVED)
    done = applied.run("rebase", "--continue")
    assert (done.code, "changed since" in done.err) == (3, True)
    applied.apply("rebase", "--abort")
    applied.apply()
    assert applied.read(MODEL) == RESOLVED


@pytest.mark.parametrize("verb", ["rebase", "commit"])
def test_a_full_disk(applied: Toy, tmp_path: Path, verb: str) -> None:
    """git fails in the worktree; the next run goes on, and nothing of the project was touched."""
    upstream_commits(applied, "Use the second card", {MODEL: REWRITTEN})
    project, words = project_files(applied), ["rebase"]
    if verb == "commit":
        applied.run("rebase")
        resolve(applied, MODEL, RESOLVED)
        words = ["rebase", "--continue"]
    script = (
        f'case " $* " in *" {verb} "*) echo "fatal: No space left on device" >&2; exit 128;; esac\nexec {REAL} "$@"\n'
    )
    done = applied.spawn(*words, env=path_with(tmp_path / "bin", script))
    assert (done.code, "No space left" in done.err, "Traceback" in done.err) == (70, True, False)
    assert project_files(applied) == project
    again = applied.run("rebase")
    assert (again.code, ("read this first" if verb == "commit" else "does not fit") in again.out) == (1, True)
    applied.apply("rebase", "--abort")
    assert project_files(applied) == project


@pytest.fixture
def partial(toy: Toy) -> Toy:
    """Neither the pin's own files nor those of the new upstream are in the clone."""
    for key in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        git(toy.upstream, "config", key, "true")
    big = b"".join(b"line %d\n" % number for number in range(3000))
    newer = {"old.py": b"x = 2\n", "README.md": big, "figs/picture.png": b"other\n"}
    commit(toy.upstream, {**UPSTREAM, **newer}, "Move on", executable=["eval_configs/eval.yaml"])
    git(toy.folder, "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{toy.upstream}", str(toy.workspace))
    toy.git("sparse-checkout", "set", "--no-cone", "/*", "!/figs/")
    toy.git("checkout", "-q", "main")
    commit(toy.upstream, {**UPSTREAM, **newer, "README.md": big + b"more\n", MODEL: REWRITTEN, "old.py": b"x = 1\n"},
           "Use the second card", executable=["eval_configs/eval.yaml"])  # fmt: skip
    return toy


def test_a_partial_clone_gets_what_it_lacks(partial: Toy) -> None:
    judged = partial.run("check", "--against", "main")
    assert (judged.code, "does not fit" not in judged.err, "conflict" in judged.out) == (1, True, True), judged.err
    partial.apply()
    rebase_to_the_end(partial)
    assert partial.read("README.md").endswith(b"more\n")


def test_what_a_partial_clone_cannot_get_is_named(partial: Toy) -> None:
    new = git(partial.upstream, "rev-parse", "HEAD").decode().strip()
    partial.git("-c", "fetch.negotiationAlgorithm=noop", "fetch", "-q", "origin")
    partial.upstream.rename(partial.folder / "away")
    for words in (["check", "--against", new], ["rebase", "--onto", new]):
        done = partial.run(*words)
        assert (done.code, "could not be had" in done.err, "--upstream" in done.err) == (5, True, True), done.err
    assert not worktree(partial).exists()


def test_half_a_commit_is_fetched_again(applied: Toy) -> None:
    """A broken transfer left the commit and not its files."""
    new = upstream_commits(applied, "Write a manual", {"MANUAL.md": b"# How\n"})
    data = git(applied.upstream, "cat-file", "commit", new)
    command = ["git", "hash-object", "-t", "commit", "-w", "--stdin"]
    made = subprocess.run(command, cwd=applied.workspace, input=data, env=CLEAN, check=True, capture_output=True)
    assert made.stdout.decode().strip() == new
    assert "would fit" in applied.apply("check", "--against", new).out
    applied.apply("rebase", "--onto", new)
    assert applied.read("MANUAL.md") == b"# How\n"
