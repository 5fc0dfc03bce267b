"""NAME.part: what has arrived of a file so far, beside the place where the whole file will be.

The data and a state file NAME.part.json are all that a later run needs: it may follow a kill at any byte. The state is
written before the first byte of its source, and says only where the bytes come from; how many there are, the data says.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from overlaykit.errors import TryAgain
from verification.download.progress import Quiet
from verification.download.sums import PIECE, Sum

FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # a link's target is somebody's file
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class State:
    """Where the bytes of the part come from."""

    url: str
    validator: str | None  # ETag or date, for If-Range
    sha256: str | None  # as the server announced it


class Part:
    """The part of `target`, opened and locked by this process. Use it in a `with`; leaving keeps the data."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.state_path = target.with_name(target.name + ".part.json")
        self.size = 0
        self.state: State | None = None
        self.foreign = False  # the data was there before any run of ours: a user's file that is to be continued
        self.kept: Path | None = None  # where data that turned out to be of another file is now

    def __enter__(self) -> Part:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        self._sum = Sum()
        self.state = self._read_state()
        self.foreign = self.state is None and self.path.stat().st_size > 0
        return self

    def _open(self) -> None:
        """Open and lock the data. The lock goes with the process, however that ends."""
        while True:
            self._file = os.fdopen(os.open(self.path, FLAGS, 0o644), "r+b", buffering=0)
            try:
                _lock(self._file)
            except BlockingIOError:
                self._file.close()
                raise TryAgain(
                    f"{self.path} is being written by another run.",
                    "Two runs that write one file would spoil it.",
                    "Wait for that one, or end it; what it has fetched is kept.",
                ) from None
            # The run that held the lock may have finished and given this very file its final name.
            if self._is_named():
                return
            self._file.close()

    def sum_what_is_there(self, show: Quiet) -> None:
        """Read the data of an earlier run into the sum."""
        self._file.seek(0)
        self.size = 0
        while piece := self._file.read(PIECE):
            self._sum.add(piece)
            self.size += len(piece)
            show.advance(len(piece))

    def restart(self, state: State | None = None) -> None:
        """Forget the data. What comes next is from `state`, which is on disk before the data."""
        if self.foreign:
            kept = free_name(self.target)
            os.replace(self.path, kept)
            self._file.close()
            self._open()
            self.foreign, self.kept = False, kept
        self._sum.close()
        self._sum = Sum()
        self._file.truncate(0)
        self._file.seek(0)
        self.size, self.state = 0, state
        if state is None:
            self.state_path.unlink(missing_ok=True)
        else:
            self._guarded(lambda: _write_state(self.state_path, state))

    def append(self, piece: bytes) -> None:
        self._guarded(lambda: self._write(piece))
        self._sum.add(piece)
        self.size += len(piece)

    def sha256(self) -> str:
        return self._sum.finish()

    def finish(self) -> None:
        """Give the data its final name, in one step."""
        self._guarded(lambda: os.fsync(self._file.fileno()))
        if os.path.lexists(self.target):
            raise appeared(self.target, f" What was fetched is whole, in {self.path.name}.")
        os.replace(self.path, self.target)
        self.state_path.unlink(missing_ok=True)
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError:  # some network file systems cannot
            pass
        finally:
            os.close(folder)

    def _write(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _guarded(self, write: Any) -> None:
        try:
            write()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            free = shutil.disk_usage(self.target.parent).free
            raise TryAgain(
                f"{self.path} cannot grow: {error.strerror} ({free / 1e9:,.1f} GB free there).",
                f"{self.size / 1e6:,.1f} MB of {self.target.name} are here and are kept.",
                "Free some space (or another quota) and run the same command again: it goes on from there.",
            ) from error

    def _read_state(self) -> State | None:
        try:
            content = json.loads(self.state_path.read_text(encoding="utf-8"))
            return State(content["url"], content["validator"], content["sha256"])
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or cut off: then only a known sum can tell
            return None

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._sum.close()
        if self.size == 0 and self.state is None and self._is_named() and not self.path.stat().st_size:
            self.path.unlink()  # nothing was fetched
        self._file.close()

    def _is_named(self) -> bool:
        """Is the opened file still the one called NAME.part?"""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False


def appeared(target: Path, more: str = "") -> TryAgain:
    return TryAgain(
        f"{target} has appeared meanwhile.",
        f"Another program made it, and it is left as it is.{more}",
        "Run this again.",
    )


def free_name(path: Path) -> Path:
    """NAME.replaced, NAME.replaced2, ...: the first that is free."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.replaced{number if number > 1 else ''}")):
        number += 1
    return aside


def _lock(file: Any) -> None:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks: better unlocked than not at all
        return


def _write_state(path: Path, state: State) -> None:
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(asdict(state)), encoding="utf-8")
    os.replace(draft, path)
