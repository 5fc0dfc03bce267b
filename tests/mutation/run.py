"""Plant each fault of tests/mutation/planted/ in turn, and see whether verify.py catches and locates it.

    python tests/mutation/run.py                    # all, about ten minutes on two cores; writes docs/mutation.md
    python tests/mutation/run.py --only epsilon     # those with this in their name, kind, place or line
    python tests/mutation/run.py --check            # all, in half the time; writes nothing
    python tests/mutation/run.py --list

A fault is an edit of one place of the patched upstream, a damaged weight file or a setting, planted in a copy on which
verify.py runs with synthetic weights. Caught and located means: exit code 1, and the first line that says
FAILED is the one that the list expects. Some faults are listed as survivors, with the reason: what the gate cannot see.

All are run a second time with the port in float16, which only informs: how much an accelerator's rounding hides.

Exit codes: 0 all as listed; 1 a fault was not caught or not located, or a survivor was caught (the list is stale);
2 usage, or a list that no longer fits the tree.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small: a second thread only waits for the first
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # warnings about one release's defaults help nobody

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(Path(__file__).resolve().parent)]

from damage import OTHER_SEED
from faults import BadList, Fault, load
from forks import Job, Result, run_all
from planting import Place, check_edits, choose_pictures, clear, make_workspace, plant, record_golden
from score import Verdict, half_word, judge, page

BUILD = PROJECT / "build" / "mutation"
HALF = "float16"
PAGE = PROJECT / "docs" / "mutation.md"


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        wanted = [text.lower() for text in arguments.only or [""]]
        chosen = [fault for fault in load() if any(text in fault.words.lower() for text in wanted)]
        if not chosen:
            raise BadList(f"no fault contains {' or '.join(arguments.only)}; --list names them all.")
        if arguments.list:
            print("\n".join(f"{f.name:42} {f.kind:14} {f.caught_by or 'survives: ' + f.survives}" for f in chosen))
            return 0
        workspace = (arguments.workspace or make_workspace(BUILD / "MiniGPT-4")).resolve()
        check_edits(chosen, workspace)
    except BadList as error:
        print(f"mutation: {error}", file=sys.stderr)
        return 2
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        place = prepare(workspace, Path(folder))
        verdicts = [judge(fault, result) for fault, result in run(chosen, place, arguments.jobs, "float32")]
        bad = [verdict for verdict in verdicts if verdict.wrong]
        if not (arguments.only or arguments.check):
            write_page(verdicts, in_half(verdicts, place, arguments.jobs))
    caught = [verdict for verdict in verdicts if verdict.fault.caught_by]
    located = sum(not verdict.wrong for verdict in caught)
    print(f"mutation: {located} of {len(caught)} caught and located, {len(verdicts) - len(caught)} known survivors")
    for verdict in bad:
        print(f"mutation: {verdict.fault.name}: {verdict.wrong}")
    return 1 if bad else 0


def prepare(workspace: Path, folder: Path) -> Place:
    """Undamaged weights, the pictures, and what the reference computes from both."""
    from verification.synthetic import cached_tiny

    cached_tiny(OTHER_SEED)  # here, and not by several children at once
    place = Place(
        workspace,
        cached_tiny(),
        folder / "copies",
        choose_pictures(workspace, folder / "pictures"),
        folder / "golden.npz",
    )
    place.scratch.mkdir()
    record_golden(place, HALF)
    return place


def run(faults: Sequence[Fault], place: Place, at_once: int, dtype: str) -> Iterator[tuple[Fault, Result]]:
    """Each fault and what verify.py said, as they end; a line of progress for each."""
    by_name = {fault.name: fault for fault in faults}
    jobs = [Job(fault.name, functools.partial(start, fault, place, dtype)) for fault in faults]
    for number, result in enumerate(run_all(jobs, place.scratch, at_once), 1):
        fault = by_name[result.name]
        clear(fault, place)
        said = judge(fault, result).wrong if dtype == "float32" else half_word(result)
        print(f"{number:3}/{len(jobs)} {result.seconds:5.1f} s  {fault.name}{': ' + said if said else ''}", flush=True)
        yield fault, result


def in_half(verdicts: Sequence[Verdict], place: Place, at_once: int) -> dict[str, str]:
    """Fault -> the first line that fails with the port in float16. What the files' lines say does not depend on it."""
    found = {verdict.fault.name: verdict.line["name"] for verdict in verdicts if verdict.line}
    stages = [verdict.fault for verdict in verdicts if verdict.line and verdict.line["part"] != "weights"]
    print(f"{len(stages)} of them once more in float16, where nothing is expected:", flush=True)
    found.update((fault.name, half_word(result)) for fault, result in run(stages, place, at_once, HALF))
    return found


def start(fault: Fault, place: Place, dtype: str) -> list[str]:
    """In the child: plant the fault, choose the port's dtype, and return the arguments of verify.py."""
    arguments = plant(fault, place)
    if dtype != "float32":
        sys.path.insert(0, arguments[arguments.index("--workspace") + 1])
        import torch

        importlib.import_module("minigpt4.models.device").choose_dtype(torch.device("cpu"), dtype)
    return arguments


def write_page(verdicts: list[Verdict], half: dict[str, str]) -> None:
    """docs/mutation.md, in the order of the list."""
    from benchmarks.results import machine
    from verification.run import versions

    order = [fault.name for fault in load()]
    verdicts.sort(key=lambda verdict: order.index(verdict.fault.name))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(verdicts, {**machine(), **versions()}, half), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(PROJECT)}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="faults with this in their name, kind, place or line, or `survives`; may be repeated; as --check",
    )
    parser.add_argument("--list", action="store_true", help="name the faults and what is expected of each")
    parser.add_argument("--check", action="store_true", help="float32 alone, and docs/mutation.md stays as it is")
    parser.add_argument("--workspace", type=Path, help="an applied workspace (default: apply into build/mutation)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at the same time (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
