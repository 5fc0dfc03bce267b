"""Fetch one file from the first source that can give it, whole and with the right sum.

A source gets request after request, each for the bytes that are still missing, until the file is whole, the source
turns out to be of no use, or it has failed too often without sending anything new. What arrived is kept for the next
source only where the sum of the file is known: it alone can tell that both send the same file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from overlaykit.errors import TryAgain
from verification.download.part import Part, State, appeared
from verification.download.progress import Quiet
from verification.download.request import (
    Answer,
    Pace,
    TooSlow,
    Unanswered,
    Unusable,
    ask,
    hub_url,
    refuse_page,
    seconds,
)
from verification.download.sums import PIECE

HEAD = 512  # bytes that tell a web page


@dataclass(frozen=True)
class Wanted:
    """One file, its sources in the order in which to try them, and what is known of it."""

    target: Path
    urls: tuple[str, ...]
    bytes: int | None = None
    sha256: str | None = None
    trouble: Callable[[Path], str] = lambda path: ""  # what is wrong with the content, asked before the rename


@dataclass(frozen=True)
class Fetched:
    target: Path
    bytes: int
    sha256: str
    url: str
    announced: bool  # the sum is the one that the server announced, not only what arrived


@dataclass(frozen=True)
class Patience:
    """With one source, in seconds and times."""

    timeout: float = 30.0  # without a byte
    tries: int = 4  # in a row without a new byte
    crumbs: int = 500  # requests that brought less than PIECE: against a server that sends a few bytes each time
    longest: float = 120.0  # that a server may ask to wait
    least: int = 60_000  # bytes that `span` seconds must bring: 1 kB/s
    span: float = 60.0
    sleep: Callable[[float], None] = time.sleep


def fetch(wanted: Wanted, show: Quiet, patience: Patience | None = None) -> Fetched:
    """Fetch `wanted` to its target, which has its name only when it is whole. Raises TryAgain."""
    patience = patience or Patience()
    troubles = []
    with Part(wanted.target) as part:
        try:
            if os.path.lexists(wanted.target):
                raise appeared(wanted.target)
            if part.path.stat().st_size:
                show.start(f"{wanted.target.name} (what is here)", part.path.stat().st_size, 0)
                part.sum_what_is_there(show)
            for url in map(hub_url, wanted.urls):
                try:
                    return Source(url, wanted, part, show, patience).fetch()
                except Unusable as reason:
                    troubles.append(f"{url}: {reason}")
                    show.say(f"{wanted.target.name}: no use: {url}: {reason}")
        finally:
            show.stop()
            if part.kept:
                show.say(f"{part.kept} is what was in {part.path.name}: it is not the beginning of this file")
    raise TryAgain(
        f"{wanted.target} could not be fetched.",
        "\n".join(troubles),
        "Run the same command again later: it goes on from what is here. Behind a proxy set HTTPS_PROXY; where "
        "huggingface.co cannot be reached, HF_ENDPOINT=https://hf-mirror.com.",
    )


class Source:
    """One address of the file."""

    def __init__(self, url: str, wanted: Wanted, part: Part, show: Quiet, patience: Patience) -> None:
        self.url, self.wanted, self.part, self.show, self.patience = url, wanted, part, show, patience
        self.pace = Pace(patience.least, patience.span)
        self.mixed = part.size > 0  # bytes of an earlier run or of another source are in it

    def fetch(self) -> Fetched:
        while True:
            self.transfer()
            found, right = self.part.sha256(), self.right_sum()
            wrong = self.wanted.trouble(self.part.path)
            if right not in (None, found):
                wrong = f"what it sends has the sha256 {found}, and the file has {right}"
            if not wrong:
                break
            resumed, self.mixed = self.mixed, False
            self.part.restart()
            if not resumed:
                raise Unusable(wrong)
            self.show.say(f"{self.wanted.target.name}: the part from before does not fit; from the beginning")
        announced = bool(self.part.state and self.part.state.sha256 == found)
        self.part.finish()
        return Fetched(self.wanted.target, self.part.size, found, self.url, announced)

    def right_sum(self) -> str | None:
        return self.wanted.sha256 or (self.part.state.sha256 if self.part.state else None)

    def transfer(self) -> None:
        """Request after request until the part is whole."""
        failures, crumbs, most = 0, 0, self.part.size
        while crumbs < self.patience.crumbs:
            if self.wanted.bytes is not None and self.part.size == self.wanted.bytes and self.right_sum():
                return
            try:
                self.request()
                return
            except Unanswered as reason:
                got_on = self.part.size > most and not isinstance(reason, TooSlow)
                failures = 0 if got_on else failures + 1
                crumbs += self.part.size < most + PIECE
                most = max(most, self.part.size)
                if failures >= self.patience.tries:
                    raise Unusable(f"{reason}, {failures} times in a row") from reason
                self.wait(failures, reason)
        raise Unusable(f"the connection broke {crumbs} times")

    def wait(self, failures: int, reason: Unanswered) -> None:
        asked = seconds(reason.after)
        if asked is not None and asked > self.patience.longest:
            raise Unusable(f"{reason} and asks to wait {asked:,.0f} s") from reason
        pause = asked if asked is not None else min(2.0**failures, 30.0) if failures else 0.0
        if pause:
            self.show.say(f"{self.wanted.target.name}: {reason}; again in {pause:.0f} s")
            self.patience.sleep(pause)

    def request(self) -> None:
        """One request for what is missing, appended to the part. Returns when the part is whole."""
        start, validator = self.resume_from()
        answer = ask(self.url, start, validator, self.patience.timeout)
        try:
            if answer.status == 416:
                self.nothing_left(answer)
                return
            self.compare(answer)
            first, skip = b"", 0
            if answer.start == 0:
                first = self.first_bytes(answer)
                skip = self.begin(answer)
            self.show.start(self.wanted.target.name, answer.total or self.wanted.bytes, self.part.size)
            self.copy(answer, first, skip)
        finally:
            answer.body.close()

    def first_bytes(self, answer: Answer) -> bytes:
        """Enough to know a web page, before the part that is here is given up for it."""
        first = b""
        while len(first) < HEAD and (piece := self.pace.read(answer, HEAD - len(first))):
            first += piece
        refuse_page(first)
        return first

    def begin(self, answer: Answer) -> int:
        """The answer holds the file from its beginning. Returns how many of its bytes are here and are to be skipped.

        Where the server only ignores ranges, the part stays: the sum will tell. Where the file has changed, it goes.
        """
        state = self.part.state
        same = state is None or state.url != self.url or state.validator == answer.validator
        if self.part.size and self.wanted.sha256 and same and self.part.size <= (self.wanted.bytes or 0):
            return self.part.size
        self.mixed = False
        self.part.restart(State(self.url, answer.validator, answer.sha256))
        return 0

    def resume_from(self) -> tuple[int, str | None]:
        """First byte to ask for, and the validator of the bytes before it."""
        size, state = self.part.size, self.part.state
        if self.wanted.bytes is not None and size > self.wanted.bytes:
            return 0, None
        if state is not None and state.url == self.url and (state.validator or self.right_sum()):
            return size, state.validator
        return (size, None) if self.wanted.sha256 else (0, None)

    def nothing_left(self, answer: Answer) -> None:
        """416: the part is whole, or is not of this file."""
        if answer.total is not None and answer.total == self.part.size and self.right_sum():
            return
        self.part.restart()
        raise Unanswered("it has nothing after the part that is here")

    def compare(self, answer: Answer) -> None:
        """What the headers say against what is known, before a byte is read."""
        wanted = self.wanted
        if None not in (wanted.bytes, answer.total) and wanted.bytes != answer.total:
            raise Unusable(f"its file has {answer.total:,} bytes, not the {wanted.bytes:,} of the right one")
        if None not in (wanted.sha256, answer.sha256) and wanted.sha256 != answer.sha256:
            raise Unusable(f"its file has the sha256 {answer.sha256}, not {wanted.sha256}")
        if not answer.ends and not self.right_sum() and not answer.sha256:
            raise Unusable("it does not say how long the file is: a file that is cut off could not be told")
        if answer.start and self.changed(answer):
            self.part.restart()
            raise Unanswered("the file has changed on the server")

    def changed(self, answer: Answer) -> bool:
        """Is the file another one than the part's? Asked of servers that ignore If-Range."""
        state = self.part.state
        if state is None or state.url != self.url:
            return False
        if state.sha256 and answer.sha256:
            return state.sha256 != answer.sha256
        return state.validator != answer.validator

    def copy(self, answer: Answer, first: bytes, skip: int) -> None:
        """Append the body to the part: `first`, which is read already, and the rest; without the first `skip` bytes."""
        total = answer.total if answer.total is not None else self.wanted.bytes
        position, piece = answer.start, first or self.pace.read(answer, PIECE)
        while piece:
            new = piece[max(skip - position, 0) :]
            position += len(piece)
            if total is not None and position > total:
                self.part.restart()
                raise Unusable(f"it sends more than the {total:,} bytes of the file")
            if new:
                self.part.append(new)
                self.show.advance(len(new))
            piece = self.pace.read(answer, PIECE)
        if total is not None and position < total:
            raise Unanswered(f"the connection ended after {position:,} of {total:,} bytes")
