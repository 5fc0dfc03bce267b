"""Leave each patch out in turn: the test that its Tested-By trailer names must fail, and pass with all patches in.

    python tests/ablation.py [--workspace DIR] [--only 0003]

A patch is left out by reverting its commit's change to each file with a three-way merge, so the others stay. The
overlay and the other patches are untouched. Exit 0 when every test bites, 1 when one does not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from overlaykit.patchfile import Patch  # noqa: E402
from overlaykit.series import read_series  # noqa: E402


class CannotLeaveOut(Exception):
    """Another patch changes the same lines, so this one cannot be taken out alone."""


def git(repo: Path, *arguments: str, check: bool = True) -> bytes:
    return subprocess.run(["git", "-C", str(repo), *arguments], check=check, capture_output=True).stdout


def commits_by_subject(workspace: Path) -> dict[str, str]:
    """Subject -> commit id of everything on the overlay branch."""
    lines = git(workspace, "log", "--format=%H %s", "-n", "200", "HEAD").decode().splitlines()
    return {subject: commit for commit, subject in (line.split(" ", 1) for line in lines)}


def file_without(workspace: Path, commit: str, path: str) -> bytes | None:
    """The file at HEAD with the change of `commit` taken back; None where the commit had created it."""

    def at(rev: str) -> bytes | None:
        done = subprocess.run(["git", "-C", str(workspace), "cat-file", "blob", f"{rev}:{path}"], capture_output=True)
        return done.stdout if done.returncode == 0 else None

    ours, base, theirs = at("HEAD"), at(commit), at(f"{commit}^")
    if theirs is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for name, content in (("now", ours), ("with", base), ("without", theirs)):
            names.append(str(Path(folder, name)))
            Path(names[-1]).write_bytes(content or b"")
        merged = subprocess.run(["git", "merge-file", "-p", *names], cwd=folder, capture_output=True)
    if merged.returncode != 0:
        raise CannotLeaveOut(f"{path}: a later patch changes the same lines")
    return merged.stdout


def leave_out(patch: Patch, commit: str, workspace: Path, scratch: Path) -> None:
    """Make `scratch` a copy of the workspace's files without the patch."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(workspace, scratch, ignore=shutil.ignore_patterns(".git", "figs", "examples"))
    for change in patch.files:
        path = change.new_path or change.old_path
        assert path is not None
        content = file_without(workspace, commit, path)
        if content is None:
            (scratch / path).unlink()
        else:
            (scratch / path).write_bytes(content)


def run_test(test: str, workspace: Path) -> int:
    """pytest's exit code: 0 passed, 1 failed; anything else means that the test did not run."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", test]
    env = dict(os.environ, OVERLAY_WORKSPACE=str(workspace))
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True)
    if " skipped" in done.stdout.splitlines()[-1] and done.returncode == 0:
        return -1
    return done.returncode


def judge(patch: Patch, commit: str, workspace: Path, scratch: Path) -> str:
    """'' when the patch's test passes with it and fails without it; else what is wrong."""
    (test,) = patch.trailers["Tested-By"]
    if run_test(test, workspace) != 0:
        return f"{test} does not pass with all patches in"
    try:
        leave_out(patch, commit, workspace, scratch)
    except CannotLeaveOut as reason:
        return str(reason)
    if run_test(test, scratch) != 1:
        return f"{test} does not fail without the patch"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, help="an applied workspace (default: apply into build/ablation)")
    parser.add_argument("--only", default="", help="only the patches whose name contains this")
    arguments = parser.parse_args()
    workspace = arguments.workspace or PROJECT / "build" / "ablation" / "MiniGPT-4"
    if arguments.workspace is None:
        subprocess.run([sys.executable, "apply.py", "--workspace", str(workspace)], cwd=PROJECT, check=True)
    commits = commits_by_subject(workspace)
    bad = 0
    for patch in read_series(PROJECT / "patches"):
        if arguments.only not in patch.name:
            continue
        problem = judge(patch, commits[patch.subject], workspace.resolve(), PROJECT / "build" / "ablation" / "without")
        bad += bool(problem)
        print(f"{'FAIL' if problem else 'ok  '} without {patch.name}{': ' + problem if problem else ''}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
