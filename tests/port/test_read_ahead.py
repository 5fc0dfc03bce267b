"""Pictures read ahead: their order, what they raise, and that nothing runs on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from port.processors.read_ahead import read_ahead

OVERLAY = Path(__file__).resolve().parents[2] / "overlay" / "minigpt4" / "processors"


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.mark.parametrize("workers", [1, 2, 4, 50])
def test_the_order_is_kept_whatever_is_ready_first(workers: int) -> None:
    def read(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(read_ahead(read, range(20), workers)) == [number * number for number in range(20)]
    assert list(read_ahead(read, [], workers)) == []
    assert threads() == []


def test_the_next_ones_are_read_meanwhile_and_no_more_than_were_asked_for() -> None:
    begun: list[int] = []
    ready = read_ahead(lambda number: begun.append(number) or number, iter(range(100)), workers=3)
    assert begun == []
    assert next(ready) == 0
    limit = time.monotonic() + 20
    while len(begun) < 4 and time.monotonic() < limit:
        time.sleep(0.001)
    time.sleep(0.05)
    assert sorted(begun) == [0, 1, 2, 3]  # one taken and three ahead: a folder of a million is not read into memory
    ready.close()
    assert threads() == []


def test_what_a_read_raises_comes_at_its_turn_and_ends_the_rest() -> None:
    begun = []

    def read(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise OSError("picture 2 is cut off")
        return number

    seen = []

    def walk() -> None:
        for number in read_ahead(read, range(100), workers=2):
            seen.append(number)

    with pytest.raises(OSError, match="picture 2 is cut off"):
        walk()
    assert seen == [0, 1]
    assert max(begun) <= 4
    assert threads() == []


def test_a_list_of_sources_that_fails_surfaces_too() -> None:
    def sources():
        yield 1
        raise LookupError("the folder is gone")

    with pytest.raises(LookupError, match="the folder is gone"):
        list(read_ahead(str, sources()))
    assert threads() == []


def test_a_caller_that_stops_or_fails_leaves_no_thread() -> None:
    def walk(end: str) -> None:
        for number in read_ahead(lambda number: number, range(1000)):
            if number == 3 and end == "break":
                break
            if number == 3:
                raise ZeroDivisionError

    walk("break")
    assert threads() == []
    with pytest.raises(ZeroDivisionError):
        walk("raise")
    assert threads() == []


_INTERRUPTED = """
import signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born without it
sys.path.insert(0, sys.argv[1])
from read_ahead import read_ahead
begun = []
def read(number):
    begun.append(number)
    time.sleep(0.2)
try:
    for _ in read_ahead(read, range(10**6)):
        if len(begun) > 6:
            print("reading", flush=True)
except KeyboardInterrupt:
    time.sleep(0.5)
    after = len(begun)
    time.sleep(0.5)
    print(len(begun) - after, [t.name for t in threading.enumerate()])
"""


def test_ctrl_c_ends_it() -> None:
    running = subprocess.Popen([sys.executable, "-c", _INTERRUPTED, str(OVERLAY)], stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "reading\n"
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=60)[0].splitlines()
    finally:
        running.kill()
    assert running.returncode == 0
    assert said[-1] == "0 ['MainThread']"
