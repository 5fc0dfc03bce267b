"""A thread of one's own: what it is given it does, and it keeps nothing."""

from __future__ import annotations

import threading
import time
import weakref

import pytest
from port.models.own_thread import OwnThread


class Argument:
    pass


def test_the_thread_keeps_nothing_that_it_was_given() -> None:
    """Pictures, and through them device memory, would live until the next call."""
    thread, argument = OwnThread("test"), Argument()
    gone = weakref.ref(argument)
    assert thread.call(lambda given: type(given), argument) is Argument
    del argument
    waited = time.monotonic()
    while gone() is not None and time.monotonic() < waited + 10:
        time.sleep(0.001)  # the thread answers first, and tidies up then
    assert gone() is None
    thread.end()


def test_a_finalizer_that_runs_in_the_thread_itself_does_not_wait_for_it() -> None:
    """The garbage collector picks the thread."""
    thread = OwnThread("test")
    assert thread.call(lambda: thread.call(threading.current_thread).name) == "test"
    thread.end()


def test_what_the_thread_raises_is_the_callers() -> None:
    thread = OwnThread("test")
    for error in (ZeroDivisionError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            thread.call(lambda error=error: (_ for _ in ()).throw(error))
    assert thread.call(lambda: 1) == 1
    thread.end()
    thread._thread.join()
    with pytest.raises(RuntimeError, match="another process, or has ended"):
        thread.call(lambda: 1)
