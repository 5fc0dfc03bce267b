"""Whether the gate cries wolf, how near its limits a right port comes, and how long it takes.

    python benchmarks/gate.py                                   # with tests/matrix.py's three releases of transformers
    python benchmarks/gate.py --python /opt/a/bin/python --python /opt/b/bin/python     # with these beside this one

False alarms: verify.py on an unchanged workspace with the synthetic weights of 20 seeds (others than the 0 to 19 that
the limits were set on), in each release of transformers in float32, and in this interpreter's also in float16 and
bfloat16. A line that says FAILED or "not run" is one. Margins: over the same runs, the largest error of each stage
beside its limit; in half precision the error as a multiple of what the reference loses in that dtype (the three-party
ratio). Time: the whole of verify.py, as a process, with eight pictures, on every core and on one thread. Exit 1 when a
goal is missed.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests" / "mutation")]

from forks import Job, Result, run_all
from planting import choose_pictures, make_workspace

from benchmarks.results import machine, write

BUILD = PROJECT / "build" / "gate"
GOOD = ("ok", "note", "not judged")
FLOAT32, HALVES = "float32", ("float16", "bfloat16")
PICTURES = 8
MOST_SECONDS = 60.0
RUNS = 3
LOCK_ALONE = 4  # verify.py's exit code when the tree is not the lock's and everything else is right

Row = dict[str, Any]


def main() -> int:
    arguments = parse()
    BUILD.mkdir(parents=True, exist_ok=True)
    workspace = (arguments.workspace or make_workspace(BUILD / "MiniGPT-4")).resolve()
    if arguments.seeds_to:  # what this script asks of itself in another interpreter
        arguments.seeds_to.write_text(json.dumps(over_seeds(workspace, arguments, [FLOAT32])), encoding="utf-8")
        return 0
    rows, slowest = [], 0.0
    for what, threads in (("every core", None), ("one thread", "1")):
        seconds = [whole_gate(workspace, threads) for _ in range(RUNS)]
        goal = f"< {MOST_SECONDS:g}"
        rows.append({"what": f"whole gate, eight pictures, {what}", "unit": "s", "goal": goal, "values": seconds})
        slowest = max(slowest, *seconds)
    own = over_seeds(workspace, arguments, [FLOAT32, *HALVES])
    rows += own[FLOAT32]["alarms"]
    for python in arguments.python or matrix():
        rows += elsewhere(python, workspace, arguments)[FLOAT32]["alarms"]
    for dtype in HALVES:
        rows += own[dtype]["alarms"]
    for dtype in (FLOAT32, *HALVES):
        rows += own[dtype]["margins"]
    from verification.run import versions

    found = {name: version for name, version in versions().items() if name != "python"}
    seeds = f"{arguments.first_seed} to {arguments.first_seed + arguments.seeds - 1}"
    write("gate", rows, {**machine(), **found, "seeds": seeds})
    alarms = sum(sum(row["values"]) for row in rows if row["unit"] == "lines")
    print(f"gate: {alarms} false alarms, {slowest:.0f} s at most")
    return 1 if alarms or slowest >= MOST_SECONDS else 0


def over_seeds(
    workspace: Path, arguments: argparse.Namespace, dtypes: Iterable[str]
) -> dict[str, dict[str, list[Row]]]:
    """dtype -> {"alarms", "margins"} -> rows, whose values are one for each seed."""
    from verification.run import versions

    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder = Path(name)
        pictures = choose_pictures(workspace, folder / "pictures")
        found: dict[str, list[Result]] = {dtype: [] for dtype in dtypes}
        jobs = [
            Job(
                f"{dtype} {seed}",
                functools.partial(start, workspace, pictures, folder / f"{dtype}-{seed}", seed, dtype),
            )
            for dtype in found
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        ]
        for result in run_all(jobs, folder, arguments.jobs):
            dtype, seed = result.name.split()
            shutil.rmtree(folder / f"{dtype}-{seed}", ignore_errors=True)
            found[dtype].append(result)
            bad = alarms(result)
            print(f"{dtype}, seed {seed}: {result.seconds:.1f} s{', ' + '; '.join(bad) if bad else ''}", flush=True)
    for results in found.values():  # they came as they ended
        results.sort(key=lambda result: int(result.name.split()[1]))
    release = f"transformers {versions()['transformers']}"
    return {
        dtype: {"alarms": [alarm_row(f"false alarms, {dtype}, {release}", results)], "margins": margins(dtype, results)}
        for dtype, results in found.items()
    }


def start(workspace: Path, pictures: Path, weights: Path, seed: int, dtype: str) -> list[str]:
    """In the child: write the weights, choose the dtype, and return verify.py's arguments."""
    from verification.synthetic import write_tiny

    if dtype != FLOAT32:
        import torch

        sys.path.insert(0, str(workspace))
        importlib.import_module("minigpt4.models.device").choose_dtype(torch.device("cpu"), dtype)
    arguments = ["--workspace", str(workspace), "--images", str(pictures), "--device", "cpu"]
    return [*arguments, "--weights", str(write_tiny(weights, seed))]


def alarms(result: Result) -> list[str]:
    """The lines that are not as they should be; one for a run that gave no report."""
    if not result.report:
        return [f"exit code {result.code}: {result.errors.strip().splitlines()[-1:]}"]
    lines = [line for line in result.report["checks"] if line["part"] != "tree" and line["outcome"] not in GOOD]
    return [f"{line['name']} {line['outcome']}: {line['measured']} {line['detail']}" for line in lines]


def alarm_row(what: str, results: list[Result]) -> Row:
    said = [alarm for result in results for alarm in alarms(result)]
    counts = [len(alarms(result)) for result in results]
    return {"what": what, "unit": "lines", "goal": "0", "values": counts, "said": said}


def margins(dtype: str, results: list[Result]) -> list[Row]:
    """For each stage the largest value over the pictures, of each seed: in float32 the error, else the ratio."""
    values: dict[tuple[str, str], list[float]] = {}
    for line in (line for result in results for line in result.report.get("checks", ())):
        numbers, limit = line["numbers"], line["allowed"]
        if dtype == FLOAT32 and limit.startswith("error <= ") and None not in numbers["values"].values():
            values.setdefault((line["name"], limit[len("error ") :]), []).append(max(numbers["values"].values()))
        elif dtype != FLOAT32 and "ratio" in numbers:
            limit = f"<= {limit.rpartition(', ')[2].removesuffix(' x')}"
            values.setdefault((line["name"], limit), []).append(numbers["ratio"])
    what = "relative error" if dtype == FLOAT32 else "error beside the reference's own"
    return [
        {"what": f"{name}, {dtype}: {what}", "unit": "x", "goal": limit, "values": found}
        for (name, limit), found in values.items()
    ]


def whole_gate(workspace: Path, threads: str | None) -> float:
    """Seconds of verify.py with eight of upstream's pictures and the synthetic weights. threads: OMP_NUM_THREADS."""
    from verification.synthetic import cached_tiny

    cached_tiny()  # made on first use, which is not what is measured
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        pictures = sorted((workspace / "examples_v2").iterdir())[:PICTURES]
        assert len(pictures) == PICTURES, f"{workspace} has {len(pictures)} pictures"
        for path in pictures:  # under other names: of a folder with pictures of prompts.yaml verify.py takes only these
            shutil.copy(path, Path(folder, f"a {path.name}"))
        command = [sys.executable, "verify.py", "--workspace", str(workspace), "--weights", "tiny"]
        command += ["--images", folder, "--device", "cpu"]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment.update({"OMP_NUM_THREADS": threads} if threads else {})
        start = time.perf_counter()
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, LOCK_ALONE):
            raise SystemExit(f"gate: verify.py exited with {done.returncode}:\n{done.stdout}\n{done.stderr[-2000:]}")
        return time.perf_counter() - start


def matrix() -> list[str]:
    """The interpreters of tests/matrix.py with other releases of transformers than this one's."""
    from matrix import REFERENCE, RELEASES, python_of

    pythons = {name: python_of(name) for name in RELEASES if name != REFERENCE}
    missing = [name for name, python in pythons.items() if python is None]
    if missing:
        raise SystemExit(f"gate: no Python that transformers {', '.join(missing)} installs on; name one with --python.")
    return [str(python) for python in pythons.values()]


def elsewhere(python: str, workspace: Path, arguments: argparse.Namespace) -> dict[str, dict[str, list[Row]]]:
    """over_seeds in another interpreter, float32 alone."""
    with tempfile.NamedTemporaryFile(dir=BUILD, suffix=".json") as file:
        command = [python, str(Path(__file__)), "--workspace", str(workspace), "--seeds-to", file.name]
        command += ["--first-seed", str(arguments.first_seed), "--seeds", str(arguments.seeds)]
        command += ["--jobs", str(arguments.jobs)]
        subprocess.run(command, cwd=PROJECT, check=True)
        return json.loads(Path(file.name).read_text(encoding="utf-8"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="an interpreter with another release of transformers")
    parser.add_argument("--workspace", type=Path, help="an applied workspace (default: apply into build/gate)")
    parser.add_argument("--seeds", type=int, default=20, help="of the synthetic weights (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=20, help="the limits were set on 0 to 19 (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at the same time (%(default)s)")
    parser.add_argument("--seeds-to", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
