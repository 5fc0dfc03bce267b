"""How far a download is: a bar on a terminal (tqdm), a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

SECONDS = 30.0  # between two lines of a log
LARGE = 50_000_000  # bytes


class Quiet:
    """Shows nothing; the others have its methods."""

    def start(self, name: str, total: int | None, done: int) -> None:
        """A file begins, with `done` of `total` bytes already here (total is None where nobody says it)."""

    def advance(self, count: int) -> None:
        """`count` more bytes."""

    def say(self, text: str) -> None:
        """Something worth knowing, on a line of its own."""

    def stop(self) -> None:
        """The file is done, or given up."""


class Lines(Quiet):
    """A line when a large file begins, and one every SECONDS until it ends."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self.name, self.done, self.last = "", 0, 0.0
        self.total: int | None = None

    def start(self, name: str, total: int | None, done: int) -> None:
        self.name, self.total, self.done, self.last = name, total, done, self.clock()
        if (total or 0) - done >= LARGE:
            self.tell()

    def advance(self, count: int) -> None:
        self.done += count
        if self.clock() - self.last >= SECONDS:
            self.last = self.clock()
            self.tell()

    def tell(self) -> None:
        share = f" of {self.total / 1e6:,.0f} MB ({self.done / self.total:.0%})" if self.total else " MB"
        self.say(f"{self.name}: {self.done / 1e6:,.0f}{share}")

    def say(self, text: str) -> None:
        print(f"verify: {text}", file=self.stream, flush=True)


class Bar(Quiet):
    """tqdm's bar; its rate and its remaining time count only what this run fetched."""

    def __init__(self, stream: TextIO, tqdm: Any) -> None:
        self.stream, self.tqdm, self.bar = stream, tqdm, None

    def start(self, name: str, total: int | None, done: int) -> None:
        self.stop()
        self.bar = self.tqdm(
            desc=name, total=total, initial=done, unit="B", unit_scale=True, file=self.stream, dynamic_ncols=True
        )

    def advance(self, count: int) -> None:
        if self.bar is not None:
            self.bar.update(count)

    def say(self, text: str) -> None:
        self.tqdm.write(f"verify: {text}", file=self.stream)

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def shower(stream: TextIO | None = None) -> Quiet:
    """What fits `stream`, or standard error."""
    stream = stream or sys.stderr
    if stream.isatty():
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            return Lines(stream)
        return Bar(stream, tqdm)
    return Lines(stream)
