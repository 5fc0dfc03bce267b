"""The whole path with transformers 4.30.2, 4.57.x and the newest 5.x: same input ids, same greedy ids.

    python tests/matrix.py [--only 5]

Each release gets a virtual environment of its own (.venv-transformers-*), the tests and one `verify.py --weights tiny
--json`. All must pass, and the greedy ids must be equal. 4.30.2 needs Python 3.10 or 3.11.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
REFERENCE = "4.57"
# name -> (requirement, newest Python that it installs on)
RELEASES = {
    "4.30": ("transformers==4.30.2", (3, 11)),
    REFERENCE: ("transformers>=4.57,<4.58", (3, 13)),
    "5": ("transformers>=5,<6", (3, 13)),
}
PARALLEL = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
TESTS = ["tests/port", "tests/upstream", "tests/verification"]


def python_for(newest: tuple[int, int]) -> str | None:
    """An interpreter between 3.10 (torch 2.13) and `newest`, this one first."""
    if (3, 10) <= sys.version_info[:2] <= newest:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(newest[1], 9, -1)]
    return next((found for found in map(shutil.which, names) if found), None)


def python_of(name: str) -> Path | None:
    """The python of the release's virtual environment, made on first use; None where no interpreter fits."""
    requirement, newest = RELEASES[name]
    python = PROJECT / f".venv-transformers-{name}" / "bin" / "python"
    ready = python.parent.parent / ".ready"
    if not ready.exists():
        base = python_for(newest)
        if base is None:
            return None
        print(f"setting up {python.parent.parent.name}", flush=True)
        subprocess.run([base, "-m", "venv", "--clear", str(python.parent.parent)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-e", ".[test]", requirement, "torch==2.13.0"], cwd=PROJECT, check=True)
        ready.touch()
    return python


def verify(python: Path, workspace: Path) -> dict[str, Any]:
    """The JSON report of verify.py on the synthetic weights."""
    command = [str(python), "verify.py", "--workspace", str(workspace), "--weights", "tiny", "--json"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stdout, done.stderr)
        raise SystemExit(f"verify.py exited with {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(RELEASES), help="one release")
    arguments = parser.parse_args()
    workspace = PROJECT / "build" / "matrix" / "MiniGPT-4"
    subprocess.run([sys.executable, "apply.py", "--workspace", str(workspace)], cwd=PROJECT, check=True)
    reports, failed = {}, []
    for name in [arguments.only] if arguments.only else list(RELEASES):
        python = python_of(name)
        if python is None:
            print(f"transformers {name}: no fitting Python, not run")
            failed.append(name)
            continue
        print(f"== transformers {name}", flush=True)
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        if (
            subprocess.run(
                [str(python), "-m", "pytest", "-q", *PARALLEL, *TESTS], cwd=PROJECT, env=environment
            ).returncode
            != 0
        ):
            failed.append(name)
        reports[name] = verify(python, workspace)
    failed += compare(reports)
    print("matrix:", "FAILED: " + ", ".join(failed) if failed else "all equal")
    return 1 if failed else 0


def greedy_ids(report: dict[str, Any]) -> dict[str, list[int]]:
    """Picture -> greedy ids. verify.py has compared the prompts with sentencepiece, so the input ids are equal too."""
    (stage,) = (check for check in report["checks"] if check["name"] == "greedy ids")
    ids: dict[str, list[int]] = stage["numbers"]["ids"]
    return ids


def compare(reports: dict[str, dict[str, Any]]) -> list[str]:
    """Names of the releases whose greedy ids differ from the reference's."""
    different = []
    for name, report in reports.items():
        ids = greedy_ids(report)
        same = REFERENCE not in reports or ids == greedy_ids(reports[REFERENCE])
        versions = report["versions"]
        count = sum(map(len, ids.values()))
        print(
            f"transformers {versions['transformers']}, torch {versions['torch']}, Python {versions['python']}: "
            f"{count} greedy ids on {len(ids)} pictures, {'equal' if same else 'DIFFERENT'}"
        )
        different += [] if same else [name]
    return different


if __name__ == "__main__":
    sys.exit(main())
