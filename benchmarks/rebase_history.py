"""The series carried back to older upstreams and rebased to the pin again, on the real history.

    python benchmarks/rebase_history.py [--upstream URL_OR_FOLDER] [--commits bf605d5 …]

Where the patches do not fit an older upstream, the conflicting lines are taken from the patch (git merge-file
--theirs): a plausible older series, made without looking at the way back. Then `apply.py rebase --onto PIN` has
either to end in the tree that configs/upstream.yaml locks, or to stop and name commits. Named commits are compared
with an independent search: `git blame` of the pin for lines that upstream added in the conflict, `git log -S` for
lines that it removed (with --full-history, since a merge may hide a side). Writes
benchmarks/results/rebase_history.json; `python benchmarks/results.py` puts the table into the READMEs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.results import FOLDER, machine
from overlaykit.project import read_upstream

OLD = ["bf605d5", "226cb38", "ada58a6", "89b6fbf", "99383a9", "7a575af"]
HEAD = (
    "Carried back to",
    "Patches there",
    "Conflicts on the way there",
    "Conflicts on the way back",
    "Culprits named, of those that blame and -S find",
    "Patches with drift shown",
    "Tree in the end",
    "Seconds to the first answer",
)


class Series:
    """A copy of the project with a workspace."""

    def __init__(self, folder: Path, upstream: str | None) -> None:
        self.folder, self.workspace = folder, folder / "MiniGPT-4"
        for part in ("patches", "overlay", "configs"):
            shutil.copytree(PROJECT / part, folder / "project" / part)
        self.source = ["--upstream", upstream] if upstream else []
        for verb in ("apply", "revert"):  # not applied: old upstreams hold pictures that a mirror may lack
            assert self.apply(verb, *(self.source if verb == "apply" else []))["code"] == 0

    def apply(self, verb: str, *words: str) -> dict[str, Any]:
        place = ["--project", str(self.folder / "project"), "--workspace", str(self.workspace), "--json"]
        command = [sys.executable, str(PROJECT / "apply.py"), verb, *words, *place]
        return json.loads(subprocess.run(command, capture_output=True, text=True).stdout)

    def git(self, *words: str, inside: Path | None = None, check: bool = True) -> str:
        command = ["git", "-C", str(inside or self.workspace), *words]
        return subprocess.run(command, capture_output=True, text=True, check=check, errors="surrogateescape").stdout

    @property
    def lock(self) -> str:
        return read_upstream(self.folder / "project" / "configs" / "upstream.yaml").result

    def rebase(self, onto: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The last report, and every conflict on the way; conflicts are resolved with the patch's lines."""
        conflicts: list[dict[str, Any]] = []
        report = self.apply("rebase", "--onto", onto, *self.source)
        while report["code"] == 1 and report["outcome"] in ("conflict", "review"):
            conflicts += report["conflicts"]
            if report["outcome"] == "conflict":
                self.take_the_patchs_side(Path(report["worktree"]))
                report = self.apply("rebase", "--continue")
            else:
                report = self.apply("rebase", "--continue", "--accept-drift")
        return report, conflicts

    def take_the_patchs_side(self, worktree: Path) -> None:
        for path in sorted({line.split("\t")[1] for line in self.git("ls-files", "-u", inside=worktree).splitlines()}):
            sides = []
            for stage in (2, 1, 3):
                sides.append(worktree.parent / f"side-{stage}")
                sides[-1].write_text(self.git("show", f":{stage}:{path}", inside=worktree), errors="surrogateescape")
            self.git("merge-file", "--theirs", *map(str, sides), inside=worktree)
            shutil.copyfile(sides[0], worktree / path)
            self.git("add", "--", path, inside=worktree)

    def truth(self, old: str, new: str, worktree: Path, path: str) -> set[str]:
        """Upstream's commits behind the two sides of the conflicts in `path`, found by other means."""
        text = (worktree / path).read_text(errors="surrogateescape").split("\n")
        mine, base, side = [], [], ""
        for line in text:
            mark = next((mark for mark in ("<<<<<<<", "|||||||", "=======", ">>>>>>>") if line.startswith(mark)), "")
            if mark:
                side = {"<<<<<<<": "mine", "|||||||": "base"}.get(mark, "")
            elif side:
                (mine if side == "mine" else base).append(line)
        found: set[str] = set()
        for row in self.git("blame", "-l", "-s", f"{old}..{new}", "--", path, check=False).splitlines():
            commit, _, line = row.partition(" ")
            if not commit.startswith("^") and line.partition(") ")[2] in mine:
                found.add(commit)
        for line in base:
            if line.strip() and line not in mine:
                found.update(
                    self.git("log", "--full-history", "--format=%H", f"-S{line}", f"{old}..{new}", "--", path).split()
                )
        return found


@dataclass(frozen=True)
class Stop:
    """One file that conflicted: the commits that the report named, and those found by other means."""

    patch: str
    place: str
    named: set[str]
    truth: set[str]


@dataclass(frozen=True)
class Travel:
    """A rebase to the pin."""

    outcome: str
    drifted: int
    conflicts: tuple[Stop, ...]
    seconds: float  # of the first command


def travel(series: Series, old: str, pin: str) -> Travel:
    """`rebase --onto pin`; conflicts get the patch's lines, drift is accepted once it was shown."""
    stops: list[Stop] = []
    drifted = 0
    start = time.perf_counter()
    report = series.apply("rebase", "--onto", pin, *series.source)
    seconds = time.perf_counter() - start
    while report["code"] == 1 and report["outcome"] in ("conflict", "review"):
        if report["outcome"] == "review":
            drifted = sum(bool(row["drift"]) for row in report["patches"])
            report = series.apply("rebase", "--continue", "--accept-drift")
            continue
        worktree = Path(report["worktree"])
        for path in sorted({conflict["path"] for conflict in report["conflicts"]}):
            conflicts = [conflict for conflict in report["conflicts"] if conflict["path"] == path]
            named = {who["commit"] for conflict in conflicts for who in conflict["culprits"]}
            place = ", ".join(sorted({conflict["function"] or path for conflict in conflicts}))
            stops.append(Stop(conflicts[0]["patch"][:4], place, named, series.truth(old, pin, worktree, path)))
        series.take_the_patchs_side(worktree)
        report = series.apply("rebase", "--continue")
    return Travel(report.get("outcome", str(report.get("error"))), drifted, tuple(stops), seconds)


def row_of(series: Series, there: dict[str, Any], resolved: list[Any], old: str) -> list[str]:
    pin = read_upstream(PROJECT / "configs" / "upstream.yaml")
    fates = Counter(row["fate"] for row in there["patches"])
    back = travel(series, old, pin.commit)
    agree = [len(stop.named & stop.truth) for stop in back.conflicts]
    named = [f"{n} of {len(s.truth)}, {len(s.named - s.truth)} others" for n, s in zip(agree, back.conflicts)]
    tree = "the locked one" if series.lock == pin.result else f"another: {series.lock[:12]}"
    return [
        ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items(), key=lambda item: -item[1])),
        str(len(resolved)),
        "; ".join(f"{stop.patch} in {stop.place}" for stop in back.conflicts) or "none",
        "; ".join(named) or "none needed",
        str(back.drifted),
        tree if back.outcome == "done" else back.outcome,
        f"{back.seconds:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", help="where to clone from (default: the public address)")
    parser.add_argument("--commits", nargs="+", default=OLD)
    arguments = parser.parse_args()
    rows = []
    for old in arguments.commits:
        with tempfile.TemporaryDirectory() as folder:
            series = Series(Path(folder), arguments.upstream)
            there, resolved = series.rebase(old)
            date = series.git("log", "-1", "--format=%cs", old).strip()
            if there["code"]:
                rows.append([f"{old} ({date})", f"stopped: {there.get('outcome', there.get('error'))}", *[""] * 6])
            else:
                rows.append([f"{old} ({date})", *row_of(series, there, resolved, old)])
        print(" | ".join(rows[-1]), flush=True)
    result = {"script": "benchmarks/rebase_history.py", "machine": machine(), "head": HEAD, "table": rows}
    (FOLDER / "rebase_history.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
