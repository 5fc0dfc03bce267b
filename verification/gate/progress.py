"""How far record and take are, on standard error: a bar on a terminal (tqdm), a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

Step = Callable[[str, int, int], None]  # what is being done, how much of it is done, how much there is
EVERY = 10.0  # seconds


def silent(_what: str, _done: int, _all: int) -> None:
    return None


class Progress:
    """A Step. Say close() at the end."""

    def __init__(self) -> None:
        self.what, self.bar, self.said = "", None, time.monotonic()  # type: str, Any, float

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self.what:
            self.close()
            self.what = what
            self.bar = _bar(what, total)
        if self.bar is not None:
            self.bar.n = done
            self.bar.refresh()
        elif time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            print(f"verify: {what}: {done} of {total}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar, self.what = None, ""


def _bar(what: str, total: int) -> Any:
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:  # then lines, as in a log
        return None
    return tqdm(desc=f"verify: {what}", total=total, file=sys.stderr, dynamic_ncols=True, leave=False)
