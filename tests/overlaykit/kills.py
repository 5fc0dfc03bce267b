"""What the tests of killed runs share: a `git` of our own, the user's files, and what must be left of both."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from toys import Toy, snapshot

REAL = shutil.which("git")
USERS = {
    "notes.txt": b"untracked\n",
    "weights/model.pth": b"ignored\n",
    "README.md": b"edited\n",
}


def give_the_user_files(toy: Toy) -> None:
    for path, data in USERS.items():
        toy.write(path, data)


def path_with(folder: Path, script: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "git").write_text("#!/bin/sh\n" + script)
    (folder / "git").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def killer(folder: Path, at: int) -> Mapping[str, str]:
    """Kill the parent before git command number `at`; with 0 only count."""
    script = f"""
echo x >> {folder}/calls
if [ $(wc -l < {folder}/calls) -eq {at} ]; then kill -9 $PPID; exit 1; fi
exec {REAL} "$@"
"""
    return path_with(folder, script)


def state(toy: Toy) -> dict[str, object]:
    """What a user can see, time stamps aside."""
    files = {name: (seen[0], seen[2]) for name, seen in snapshot(toy.workspace, inside_git=False).items()}
    refs = toy.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/overlay")
    refs = "\n".join(line for line in refs.split("\n") if "/backup/" not in line)
    return {
        "files": files,
        "refs": refs,
        "head": toy.git("rev-parse", "--symbolic-full-name", "HEAD"),
        "status": toy.dirty(),
    }


def lost_nothing(toy: Toy) -> None:
    for path, data in USERS.items():
        assert toy.read(path) == data


def backups_hold(toy: Toy) -> None:
    """What --force replaced is in some backup, whichever run saved it."""
    refs = toy.git("for-each-ref", "--format=%(refname)", "refs/overlay/backup/").split()
    for path in ("minigpt4/hook.py", "added.py/notes.txt"):
        found = [git_or_none(toy, "show", f"{ref}:{path}") for ref in refs]
        assert b"mine\n" in found, path


def git_or_none(toy: Toy, *args: str) -> bytes | None:
    done = subprocess.run(["git", "-C", str(toy.workspace), *args], capture_output=True)
    return done.stdout if done.returncode == 0 else None
