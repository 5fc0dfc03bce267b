"""SHA-256 in a thread of its own, so that computing it costs the disk or the network no time."""

from __future__ import annotations

import hashlib
import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import Protocol

PIECE = 1 << 20  # bytes; hashlib releases the interpreter for pieces of this size
WAITING = 16  # pieces: what may be read ahead of the sum


class Show(Protocol):
    """Who watches: see progress."""

    def advance(self, count: int) -> None: ...


class Sum:
    """The sum of everything given to `add`, in order. Use it in a `with`, or its thread stays."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._pieces: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    def add(self, piece: bytes) -> None:
        """Take `piece`, which must not change afterwards. Waits while WAITING pieces are not summed yet."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sha256", daemon=True)
            self._thread.start()
        self._pieces.put(piece)

    def finish(self) -> str:
        """The sum in hexadecimal, once every piece is in it. More pieces may follow."""
        self.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        for piece in iter(self._pieces.get, None):
            self._digest.update(piece)

    def __enter__(self) -> Sum:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()


def sha256_of(path: Path, show: Show | None = None) -> str:
    """Sum of a file, read in PIECEs while the ones before are summed."""
    with path.open("rb", buffering=0) as file, Sum() as total:
        while piece := file.read(PIECE):
            total.add(piece)
            if show:
                show.advance(len(piece))
        return total.finish()
