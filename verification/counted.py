"""How far a long loop is, on standard error: a bar on a terminal (tqdm), a line before each step elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO


class Counted:
    """`with Counted("answers", 3) as step: step("office.jpg") ...`: one call before each of the steps.

    stream: standard error unless given; its isatty decides. shown=False says nothing, for steps that are over at once.
    """

    def __init__(self, what: str, total: int, shown: bool = True, stream: TextIO | None = None) -> None:
        self.what, self.total, self.shown = what, total, shown
        self.stream = stream or sys.stderr
        self.begun, self.started = 0, time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> Counted:
        if self.shown and self.stream.isatty():
            try:
                from tqdm import tqdm
            except ModuleNotFoundError:  # then lines, as in a log
                return self
            self.bar = tqdm(desc=self.what, total=self.total, file=self.stream, dynamic_ncols=True)
        return self

    def __call__(self, step: str) -> None:
        self.begun += 1
        if self.bar is not None:
            self.bar.n = self.begun - 1
            self.bar.set_postfix_str(step)  # which also draws it
        elif self.shown:
            so_far = f", {time.monotonic() - self.started:.0f} s so far" if self.begun > 1 else ""
            print(f"verify: {self.what}: {self.begun} of {self.total}, {step}{so_far}", file=self.stream, flush=True)

    def __exit__(self, *failure: object) -> None:
        if self.bar is not None:
            if not any(failure):
                self.bar.n = self.begun
            self.bar.close()
