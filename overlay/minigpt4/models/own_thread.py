"""A thread that belongs to one object and runs what it is given, one call after the other."""

from __future__ import annotations

import os
import queue
import threading
from concurrent.futures import Future
from typing import Any, Callable


class OwnThread:
    """ACL keeps its current context per thread: what shares no thread with torch_npu cannot take its context away.

    It is a daemon, so that it still works while Python's exit handlers run and keeps no process alive. It is gone in a
    forked child, where `call` raises RuntimeError instead of waiting for ever.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._process = os.getpid()
        self._thread = threading.Thread(target=_serve, args=(self._jobs,), name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return os.getpid() == self._process and self._thread.is_alive()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function(*arguments)` gives or raises, run in this thread. Callers in other threads wait their turn."""
        if threading.current_thread() is self._thread:
            return function(*arguments)  # the garbage collector may run a finalizer here, which must not wait for us
        if not self.alive:
            raise RuntimeError("this belongs to another process, or has ended: make it in the process that uses it.")
        job: Future[Any] = Future()
        self._jobs.put((job, function, arguments))
        return job.result()

    def end(self) -> None:
        """Let the thread end when it has done what it was given before."""
        self._jobs.put(None)


def _serve(jobs: queue.SimpleQueue[Any]) -> None:
    while True:
        job = jobs.get()
        if job is None:
            return
        _do(*job)
        del job  # or its arguments, and through them device memory, would live until the next job


def _do(job: Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        job.set_result(function(*arguments))
    except BaseException as error:  # it is the caller's
        job.set_exception(error)
