"""Temporary folders. A run that is killed cannot remove its own, so a later run does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PREFIX = "overlaykit-"
_OLD = 3600  # seconds; a git command may outlive the killed run that started it, and still look into its folder


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder of this run's own, locked as long as it is in use."""
    _remove_leftovers()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # no locks here: then nothing is ever removed as a leftover
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield Path(name)
        finally:
            os.close(descriptor)


@cache
def _remove_leftovers() -> None:
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as found:
        for entry in found:
            if entry.name.startswith(_PREFIX) and _is_left_over(entry):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_left_over(entry: os.DirEntry[str]) -> bool:
    try:
        about = entry.stat(follow_symlinks=False)
        if not entry.is_dir(follow_symlinks=False) or about.st_uid != os.geteuid():
            return False
        if time.time() - about.st_mtime < _OLD:
            return False
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # in use, or no locks here
        return False
    finally:
        os.close(descriptor)
    return True
