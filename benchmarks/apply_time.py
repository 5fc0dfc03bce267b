"""How long apply.py takes on the real upstream: after the clone, and a second time.

    python benchmarks/apply_time.py [--upstream URL_OR_FOLDER] [--runs 7]

Whole processes from outside, wall clock. "after the clone" is a workspace on upstream's own branch: build, compare
with the lock, swap. The clone itself depends on the network and is left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.results import machine, write  # noqa: E402


def timed(*arguments: str) -> float:
    """Seconds of one apply.py process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, str(PROJECT / "apply.py"), *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", help="where to clone from (default: the public address)")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    source = ["--upstream", arguments.upstream] if arguments.upstream else []
    with tempfile.TemporaryDirectory() as folder:
        workspace = ["--workspace", str(Path(folder, "MiniGPT-4"))]
        timed(*workspace, *source)
        first, second = [], []
        for _ in range(arguments.runs):
            timed("revert", *workspace)
            first.append(timed(*workspace, *source))
            second.append(timed(*workspace, *source))
    git = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    rows = [
        {"what": "apply, after the clone", "unit": "s", "goal": "< 3", "values": first},
        {"what": "apply, second run", "unit": "s", "goal": "< 0.5", "values": second},
    ]
    write("apply_time", rows, {**machine(), "git": git})


if __name__ == "__main__":
    main()
