"""How long apply, export and rebase take on the real upstream, beside plain `git am` of the same series.

    python benchmarks/series_time.py [--upstream URL_OR_FOLDER] [--runs 7]

Whole processes from outside, wall clock, except `build`, which is the function alone: base, patches, overlay and
configuration to commits. `git am` runs in a plain clone of the same upstream, in turn with the others. The clone
depends on the network and is left out. The rebase goes from 68d81af, ten months before the pin, where the edited
files and what surrounds them are the same: every patch fits, so nobody has to be asked.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.results import machine, write
from overlaykit.gitrepo import Repo
from overlaykit.gitrun import isolated
from overlaykit.plan import build_project
from overlaykit.project import read_project

OLDER = "68d81af31cc9"  # the files that the patches edit are the same there
EDITED = "minigpt4/models/base_model.py"
CLEAN = {**{name: value for name, value in os.environ.items() if not name.startswith("GIT_")}, **isolated()}


class Place:
    """A copy of the project, a workspace, and a plain clone."""

    def __init__(self, folder: Path, upstream: str | None) -> None:
        self.project, self.workspace, self.plain = folder / "project", folder / "MiniGPT-4", folder / "plain"
        for part in ("patches", "overlay", "configs"):
            shutil.copytree(PROJECT / part, self.project / part)
        self.run("apply", *(["--upstream", upstream] if upstream else []))
        self.git(folder, "clone", "-q", "--no-checkout", str(self.workspace), str(self.plain))
        self.make_plain_ready()

    def make_plain_ready(self) -> None:
        """The pin in a worktree. `git am` wants the contents of every file; a mirror may lack some pictures."""
        pin = read_project(self.project).upstream.commit
        repo = Repo(self.plain / ".git", self.plain)
        files = repo.tree(pin)
        missing = [path for path, blob in zip(files, repo.resolve(*(e.id for e in files.values()))) if blob is None]
        self.git(self.plain, "read-tree", pin)
        self.git(self.plain, "rm", "-q", "--cached", "--", *(missing or ["figs"]))
        self.git(self.plain, "checkout", "-q", "--detach", pin, check=False)
        self.git(self.plain, "commit", "-q", "-m", "What this clone has")
        self.git(self.plain, "reset", "-q", "--hard")
        self.start = self.git(self.plain, "rev-parse", "HEAD").strip()

    def run(self, *words: str) -> float:
        """Seconds of one apply.py."""
        place = ["--project", str(self.project), "--workspace", str(self.workspace)]
        start = time.perf_counter()
        subprocess.run([sys.executable, str(PROJECT / "apply.py"), *words, *place], check=True, capture_output=True)
        return time.perf_counter() - start

    def git(self, folder: Path, *words: str, check: bool = True) -> str:
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@localhost", "-C", str(folder), *words]
        return subprocess.run(command, env=CLEAN, check=check, capture_output=True, text=True).stdout

    def am(self) -> float:
        self.git(self.plain, "reset", "-q", "--hard", self.start)
        names = [str(self.project / "patches" / patch.name) for patch in read_project(self.project).series]
        start = time.perf_counter()
        self.git(self.plain, "am", "-q", *names)
        return time.perf_counter() - start

    def build(self) -> float:
        project = read_project(self.project)
        with tempfile.TemporaryDirectory() as scratch:
            start = time.perf_counter()
            build_project(Repo(self.workspace / ".git", self.workspace), project, {}, Path(scratch))
            return time.perf_counter() - start

    def export(self) -> float:
        """A change of an existing patch, which the others behind it have to carry."""
        path = self.workspace / EDITED
        path.write_bytes(path.read_bytes() + b"\n")
        self.git(self.workspace, "add", EDITED)
        tree = self.git(self.workspace, "write-tree", "--missing-ok").strip()  # `git commit` wants every blob
        commit = self.git(self.workspace, "commit-tree", tree, "-p", "HEAD", "-m", "fixup! Remove peft").strip()
        self.git(self.workspace, "update-ref", "HEAD", commit)
        seconds = self.run("export")
        shutil.rmtree(self.project / "patches")
        shutil.copytree(PROJECT / "patches", self.project / "patches")
        shutil.copyfile(PROJECT / "configs" / "upstream.yaml", self.project / "configs" / "upstream.yaml")
        self.run("apply")
        return seconds

    def rebase(self) -> float:
        """There and back; only the way to the pin is measured."""
        self.run("rebase", "--onto", OLDER)
        return self.run("rebase", "--onto", read_project(PROJECT).upstream.commit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", help="where to clone from (default: the public address)")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    names = ("first", "second", "am", "build", "export", "rebase")
    taken: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), arguments.upstream)
        for _ in range(arguments.runs):
            place.run("revert")
            taken["first"].append(place.run("apply"))
            taken["second"].append(place.run("apply"))
            for name in names[2:]:
                taken[name].append(getattr(place, name)())
    ratios = [build / am for build, am in zip(taken["build"], taken["am"])]
    rows = [
        {"what": "apply, after the clone", "unit": "s", "goal": "< 3", "values": taken["first"]},
        {"what": "apply, second run", "unit": "s", "goal": "< 0.3", "values": taken["second"]},
        {"what": "build alone", "unit": "s", "goal": "", "values": taken["build"]},
        {"what": "plain `git am` of the series", "unit": "s", "goal": "", "values": taken["am"]},
        {"what": "build against `git am`, run by run", "unit": "x", "goal": "<= 1.5", "values": ratios},
        {"what": "export of a change to the first patch", "unit": "s", "goal": "", "values": taken["export"]},
        {"what": "rebase from 68d81af to the pin", "unit": "s", "goal": "", "values": taken["rebase"]},
    ]
    git = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    write("series_time", rows, {**machine(), "git": git})


if __name__ == "__main__":
    main()
