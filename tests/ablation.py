"""Leave each patch out in turn: the test that its Tested-By trailer names must fail, and pass with all patches in.

    python tests/ablation.py [--workspace DIR] [--only 0003]

A patch is left out by taking its change back from each of its files with a three-way merge, so that the others stay;
where a later patch changed the very next line, by reversing its diff without regard to context. Exit 0 when every
test bites, 1 when one does not.
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

from overlaykit.patchfile import Patch
from overlaykit.series import read_series


class CannotLeaveOut(Exception):
    """Another patch changes the same lines, so this one cannot be taken out alone."""


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, cwd=cwd, capture_output=True)


def commits_by_subject(workspace: Path) -> dict[str, str]:
    """Subject -> commit id of what lies on the overlay branch."""
    lines = run("git", "log", "--format=%H %s", "-n", "200", "HEAD", cwd=workspace).stdout.decode().splitlines()
    return {subject: commit for commit, subject in (line.split(" ", 1) for line in lines)}


def leave_out(patch: Patch, commits: dict[str, str], workspace: Path, scratch: Path) -> None:
    """Make `scratch` a copy of the workspace's files, as they are before the configuration, without the patch."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(workspace, scratch, ignore=shutil.ignore_patterns(".git", "figs", "examples"))
    commit, tip = commits[patch.subject], commits["overlay: files"]
    for change in patch.files:
        path = change.new_path
        assert path is not None, "this tool takes back edits, not deleted files"
        with tempfile.TemporaryDirectory() as folder:
            for name, rev in (("now", tip), ("with", commit), ("without", f"{commit}^")):
                Path(folder, name).write_bytes(run("git", "cat-file", "blob", f"{rev}:{path}", cwd=workspace).stdout)
            merged = run("git", "merge-file", "-p", "now", "with", "without", cwd=Path(folder))
            content = Path(folder, "now").read_bytes() if merged.returncode else merged.stdout
        (scratch / path).write_bytes(content)
        if merged.returncode:
            reverse_without_context(patch, path, scratch)


def reverse_without_context(patch: Patch, path: str, scratch: Path) -> None:
    """Take back the patch's change of one file by its changed lines alone."""
    with tempfile.NamedTemporaryFile(suffix=".patch") as file:
        file.write(patch.diff)
        file.flush()
        # Outside a repository `git apply` is a plain patch tool; the scratch folder lies inside this project's.
        environment = dict(os.environ, GIT_CEILING_DIRECTORIES=str(scratch.parent))
        command = ["git", "apply", "-R", "-C0", f"--include={path}", file.name]
        done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise CannotLeaveOut(f"{path}: another patch changes the same lines ({done.stderr.strip()})")


def run_test(test: str, workspace: Path) -> int:
    """pytest's exit code: 0 passed, 1 failed; anything else means that the test did not run."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", test]
    env = dict(os.environ, OVERLAY_WORKSPACE=str(workspace))
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True)
    if " skipped" in done.stdout.splitlines()[-1] and done.returncode == 0:
        return -1
    return done.returncode


def judge(patch: Patch, commits: dict[str, str], workspace: Path, scratch: Path) -> str:
    """'' when the patch's test passes with it and fails without it; else what is wrong."""
    (test,) = patch.trailers["Tested-By"]
    if run_test(test, workspace) != 0:
        return f"{test} does not pass with all patches in"
    try:
        leave_out(patch, commits, workspace, scratch)
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
        problem = judge(patch, commits, workspace.resolve(), PROJECT / "build" / "ablation" / "without")
        bad += bool(problem)
        print(f"{'FAIL' if problem else 'ok  '} without {patch.name}{': ' + problem if problem else ''}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
