"""What a rebase leaves on disk between its steps: where it goes, and how far it came.

.git/overlay/rebase.json       this
.git/overlay/rebase-worktree   the linked worktree in which conflicts are resolved
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import SaveYourWork
from ..journal import write_file
from ..project import Project
from ..report import how_to_call
from .replay import Course, Resolution

VERSION = 1


@dataclass(frozen=True)
class RebaseState:
    course: Course
    names: tuple[str, ...]  # file names of the patches, one per commit of the course
    shown: str  # what the user called the new base
    sources: str  # digest of the patches and the pin it began with
    running: bool = True  # our git is at work: if this is found, it was killed
    resolutions: tuple[Resolution, ...] = ()
    stopped: tuple[str, ...] = ()  # patches that did not fit at first
    seen: tuple[str, ...] = ()  # digests of drift and changed needs that the user was shown
    before: Mapping[str, str | None] = field(default_factory=dict)  # project file -> blob, once files are replaced
    after: Mapping[str, str | None] = field(default_factory=dict)  # likewise, what replaced them
    version: int = VERSION

    def write(self, private: Path) -> None:
        write_file(private / "rebase.json", json.dumps(asdict(self), indent=1).encode(), sync=True)


def worktree_of(private: Path) -> Path:
    return private / "rebase-worktree"


def read_state(private: Path) -> RebaseState | None:
    """None where no rebase is going on. Raises SaveYourWork for a file that cannot be read."""
    path = private / "rebase.json"
    try:
        data = json.loads(path.read_bytes())
        if data["version"] != VERSION:
            raise ValueError("it was written by another version of apply.py")
        course = Course(**{**data["course"], "commits": tuple(data["course"]["commits"])})
        resolutions = tuple(Resolution(**row) for row in data["resolutions"])
        tuples = {name: tuple(data[name]) for name in ("names", "stopped", "seen")}
        return RebaseState(**{**data, **tuples, "course": course, "resolutions": resolutions})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        why = f"It holds how far a rebase came: {error}."
        fix = f"Look into {worktree_of(private)} for what you resolved there, then: {how_to_call()} rebase --abort"
        raise SaveYourWork(f"{path} cannot be read.", why, fix) from error


def remove_state(private: Path) -> None:
    (private / "rebase.json").unlink(missing_ok=True)


def digest_of(project: Project) -> str:
    """Of what a rebase starts from. overlay/ and the rules may change meanwhile: adapting them is part of the work."""
    digest = hashlib.sha256(project.upstream.commit.encode())
    for patch in project.series:
        digest.update(hashlib.sha256(patch.name.encode() + b"\0" + patch.raw).digest())
    return digest.hexdigest()
