"""How far a loop is: lines in a log, a bar on a terminal, nothing for what is quick."""

from __future__ import annotations

import io
import sys

import pytest

from verification.counted import Counted


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def walk(stream: io.StringIO, shown: bool = True, until: int = 3) -> str:
    with Counted("answers", 3, shown, stream) as step:
        for name in ("a", "b", "c")[:until]:
            step(f"{name}.jpg")
    return stream.getvalue()


def test_a_log_has_a_line_before_each_step() -> None:
    lines = walk(io.StringIO()).splitlines()
    assert lines[0] == "verify: answers: 1 of 3, a.jpg"
    assert lines[1:] == ["verify: answers: 2 of 3, b.jpg, 0 s so far", "verify: answers: 3 of 3, c.jpg, 0 s so far"]


def test_a_terminal_has_a_bar_that_names_the_step_and_ends_full() -> None:
    shown = walk(Terminal())
    assert "verify:" not in shown
    assert "b.jpg" in shown
    assert shown.rstrip().split("\r")[-1].startswith("answers: 100%")


def test_a_bar_of_what_was_interrupted_does_not_end_full() -> None:
    stream = Terminal()

    def interrupted() -> None:
        with Counted("answers", 2, stream=stream) as step:
            step("a.jpg")
            step("b.jpg")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "100%" not in stream.getvalue()


def test_a_terminal_without_tqdm_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert walk(Terminal()).startswith("verify: answers: 1 of 3")


def test_what_is_quick_says_nothing() -> None:
    assert walk(io.StringIO(), shown=False) == walk(Terminal(), shown=False) == ""
