"""ATC, Ascend's model converter: its command line, and a run of it that leaves nothing behind.

Facts of its options: CANN's documentation of ATC (the parameters' chapter), and GE's public sources, cmd_flag_info.cc.
What its messages mean is in atc_failures.py. Nothing here was run with a real ATC.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from .atc_staging import CannotConvert, Model

# --precision_mode_v2, and what an ATC that does not know it calls the same by --precision_mode. The two exclude each
# other. `fp16` is ATC's default: it takes everything to float16, layer norms and softmax too.
PRECISION_MODES = {
    "origin": "must_keep_origin_dtype",
    "mixed_float16": "allow_mix_precision",
    "mixed_bfloat16": "allow_mix_precision_bf16",
    "cube_fp16in_fp32out": "cube_fp16in_fp32out",
    "fp16": "force_fp16",
}
SUCCESS = "ATC run success"
PROFILES, LARGEST = range(2, 101), 2048  # how many batch sizes --dynamic_batch_size takes, and how large one may be
KEPT = 5000  # lines of output in which a failure is looked for


@dataclass(frozen=True)
class Plan:
    """One conversion. argv: for the folder that atc_staging laid out; its paths are relative to it.

    shell: the same as a person would type it, in the ONNX model's own folder and with its own weight files.
    batches: pictures per call that the OM will take.
    """

    argv: tuple[str, ...]
    shell: str
    batches: tuple[int, ...]
    precision_mode: str
    soc_version: str


def check_batches(model: Model, wanted: Sequence[int]) -> tuple[int, ...]:
    """The OM's batch sizes: `wanted`, or what the model itself has. Raises CannotConvert for what ATC would refuse."""
    fixed = model.shape[0]
    batches = tuple(wanted) or ((fixed,) if fixed else ())
    if not batches:
        raise CannotConvert(
            f"{model.path} has an open batch and no record beside it that says for which sizes: pass --batch-sizes, "
            "such as 1,2,4."
        )
    if fixed and batches != (fixed,):
        raise CannotConvert(f"{model.path} has a fixed batch of {fixed}, not {_join(batches)}: export it for those.")
    if list(batches) != sorted(set(batches)) or not 1 <= batches[0] <= batches[-1] <= LARGEST:
        raise CannotConvert(
            f"batch sizes {_join(batches)}: ATC takes different numbers from 1 to {LARGEST}; write them in order."
        )
    if len(batches) > 1 and len(batches) not in PROFILES:
        raise CannotConvert(f"{len(batches)} batch sizes: ATC takes up to {PROFILES[-1]}.")
    return batches


def plan(
    model: Model, om: Path, soc_version: str, precision_mode: str, batches: tuple[int, ...], *,
    atc: str = "atc", v2: bool = True, log: str = "error",
) -> Plan:  # fmt: skip
    """The command for `om`, NAME.om. atc: the program. v2: whether it knows --precision_mode_v2."""
    if precision_mode not in PRECISION_MODES:
        raise CannotConvert(f"--precision-mode {precision_mode}: it is one of {', '.join(PRECISION_MODES)}.")
    size = model.image_size
    dynamic = len(batches) > 1
    shape = f"{model.input_name}:{-1 if dynamic else batches[0]},3,{size},{size}"
    options = [f"--soc_version={soc_version}", f"--input_shape={shape}"]
    if dynamic:
        options.append(f"--dynamic_batch_size={_join(batches)}")
    if v2:
        options.append(f"--precision_mode_v2={precision_mode}")
    else:
        options.append(f"--precision_mode={PRECISION_MODES[precision_mode]}")
    options.append(f"--log={log}")
    name = om.stem
    argv = (atc, "--framework=5", f"--model={name}.onnx", f"--output=out/{name}", *options)
    typed = ["atc", "--framework=5", f"--model={model.path.name}", f"--output={om.with_suffix('')}", *options]
    shell = f"cd {shlex.quote(str(model.path.parent.resolve()))} && {' '.join(_quoted(it) for it in typed)}"
    return Plan(argv, shell, batches, precision_mode, soc_version)


def _join(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _quoted(argument: str) -> str:
    """As the documentation writes it: --input_shape="input:1,3,224,224"; anything odd as the shell needs it."""
    name, _, value = argument.partition("=")
    if re.fullmatch(r"[\w./:,-]+", value, re.ASCII):
        return f'{name}="{value}"' if {":", ","} & set(value) else argument
    return shlex.quote(argument)


def default_mode(precision: str) -> str:
    """The precision mode for a model that is "fp32" or "mixed".

    Where the types are kept, ATC's documentation calls a Conv of float32 not supported: see atc_operators.json.
    """
    return "origin" if precision == "mixed" else "mixed_float16"


def remarks(mode: str, precision: str) -> list[str]:
    """What may go wrong with the mode that was chosen."""
    if mode == "origin" and precision == "fp32":
        return [
            "with --precision-mode origin everything stays float32, the slowest choice, and CANN's documentation calls "
            "a float32 Conv not supported then; if ATC fails, leave the option out, or export with --dtype mixed"
        ]
    return []


def ask_options(atc: str, env: Mapping[str, str]) -> str:
    """What `atc --help` prints; "" where it does not come to that."""
    command = [atc, "--help"]
    try:
        done = subprocess.run(command, capture_output=True, env=dict(env), timeout=120, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    text = (done.stdout + done.stderr).decode(errors="replace")
    return text if "--framework" in text else ""


@dataclass(frozen=True)
class Finished:
    """How a run ended. code: negative for the signal that ended it. lines: the last of its output."""

    code: int
    lines: tuple[str, ...]

    @property
    def good(self) -> bool:
        return self.code == 0 and any(SUCCESS in line for line in self.lines)


def run(
    argv: Sequence[str], folder: Path, env: Mapping[str, str], log: Path, say: Callable[[str], Any] = print
) -> Finished:
    """Run ATC in `folder` for as long as it takes; every line goes to `say` and into the file `log`.

    However this ends, no process of ATC's is left: its compilers run as children, in one process group with it.
    Raises CannotConvert where the program cannot be started.
    """
    with log.open("w", encoding="utf-8", errors="backslashreplace") as file, signals_raised():
        file.write(" ".join(map(shlex.quote, argv)) + "\n")
        file.flush()
        try:
            process = subprocess.Popen(
                list(argv), cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise CannotConvert(f"{argv[0]} cannot be started: {error.strerror}.", 5) from error
        try:
            kept: deque[str] = deque(maxlen=KEPT)
            for line in _lines(process):
                file.write(line + "\n")
                file.flush()
                kept.append(line)
                say(line)
            return Finished(process.wait(), tuple(kept))
        finally:
            _end(process)


def _lines(process: subprocess.Popen) -> Iterator[str]:
    """Its output until it ends. A child that outlives it may hold the pipe open: then a few seconds more."""
    lines: queue.Queue[str | None] = queue.Queue()

    def pump() -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                lines.put(line.decode(errors="replace").rstrip("\r\n"))
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    patience = 15
    while patience:
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            patience -= process.poll() is not None
            continue
        if line is None:
            return
        yield line


def _end(process: subprocess.Popen) -> None:
    """End the whole group: politely, then not. Nothing happens where it has ended by itself."""
    for number, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


@contextlib.contextmanager
def signals_raised() -> Iterator[None]:
    """SIGTERM and a closed terminal end Python at once, and ATC would go on; raised, they run every `finally`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
