"""Run verify.py many times, each in a process of its own, forked from one that has imported torch and transformers.

A process each, because Python can import only one `minigpt4`; forked, because importing takes longer than verifying.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMED_OUT = -signal.SIGKILL


@dataclass(frozen=True)
class Job:
    """name: any; prepare() runs in the child first and returns the arguments of verify.py, without --json."""

    name: str
    prepare: Callable[[], list[str]]


@dataclass(frozen=True)
class Result:
    """report: what --json printed, {} when it printed none. errors: the end of what was written to standard error."""

    name: str
    code: int
    report: dict[str, Any]
    seconds: float
    errors: str


def import_heavy() -> None:
    """What each child would have to import. transformers imports the modules of its classes on first use."""
    for name in ("numpy", "onnxruntime", "omegaconf", "sentencepiece", "verify", "verification.gate.run"):
        importlib.import_module(name)
    import torch
    import transformers

    for name in ("BertConfig", "Blip2QFormerModel", "Blip2VisionModel", "LlamaForCausalLM", "LlamaTokenizer"):
        getattr(transformers, name)
    torch.set_num_threads(1)  # the models are so small that a second thread only waits for the first


def run_all(jobs: Iterable[Job], folder: Path, at_once: int, limit: float = 240.0) -> Iterator[Result]:
    """Results as they come. folder: for what the processes print. limit: seconds that one may take."""
    import_heavy()
    waiting, running = list(jobs), {}
    while waiting or running:
        while waiting and len(running) < at_once:
            job, out = waiting.pop(0), folder / str(len(waiting))
            running[_fork(job, out)] = (job, out, time.monotonic())
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            job, out, started = running.pop(pid)
            yield _result(job, out, os.waitstatus_to_exitcode(status), time.monotonic() - started)
            continue
        for late in [pid for pid, (_, _, started) in running.items() if time.monotonic() - started > limit]:
            os.kill(late, signal.SIGKILL)
        time.sleep(0.02)


def _fork(job: Job, out: Path) -> int:
    """Start the job; what it prints goes to OUT.json and OUT.err."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        for number, suffix in ((1, ".json"), (2, ".err")):
            os.dup2(os.open(f"{out}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        import verify

        code = verify.main([*job.prepare(), "--json"])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _result(job: Job, out: Path, code: int, seconds: float) -> Result:
    texts = []
    for suffix in (".json", ".err"):
        path = Path(f"{out}{suffix}")
        texts.append(path.read_text(encoding="utf-8", errors="replace"))
        path.unlink()
    try:
        report = json.loads(texts[0])
    except ValueError:
        report = {}
    return Result(job.name, code, report, seconds, texts[1][-2000:])
