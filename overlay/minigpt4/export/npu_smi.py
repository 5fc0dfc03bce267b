"""Asks npu-smi which NPUs there are. Standard library only; cann.py offers these names too.

The forms of its table, and its messages, are those that users of the drivers 23.0 to 26.0 have published. An A2 is
named in the table ("910B3"); an A3 is named "Ascend910" there, and only `-t board` says which (NPU Name: 9391).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Callable

# npu_soc.SUPPORTED, as ATC and torch_npu write them; that module needs torch.
_A2 = ("910B1", "910B2", "910B2C", "910B3", "910B4", "910B4-1")
_A3 = ("910_9391", "910_9392", "910_9381", "910_9382", "910_9372", "910_9362", "910_9363")
SOC_VERSIONS = tuple(f"Ascend{name}" for name in (*_A2, *_A3))

TIMEOUT = 30.0  # seconds: npu-smi takes about one, and hangs where a driver does
PROGRAMS = ("/usr/local/sbin/npu-smi", "/usr/local/bin/npu-smi")  # where the driver puts it, beside PATH
Answer = tuple[int, str]  # exit code, and what it printed
# What npu-smi prints -> why, and what to do.
_FAILURES = (
    (
        r"error while loading shared libraries: (\S+?):",
        "The driver's libraries are not found.",
        "In a container mount /usr/local/Ascend/driver and /usr/local/dcmi; then export LD_LIBRARY_PATH="
        "/usr/local/Ascend/driver/lib64/common:/usr/local/Ascend/driver/lib64/driver:/usr/local/Ascend/driver/lib64",
    ),
    (
        r"-8020|-8005|device is used",
        "Another container has the NPUs, or this user may not open them, or the container was not given them.",
        "Look at `ls -l /dev/davinci*` and `id` (group HwHiAiUser). A container needs --device /dev/davinciN, "
        "/dev/davinci_manager, /dev/devmm_svm and /dev/hisi_hdc, and an NPU that no other container has.",
    ),
    (
        r"dcmi|DrvMng|[Dd]river",
        "The driver does not answer.",
        "Look at `dmesg` and `lsmod | grep drv`; a new driver or firmware works after a restart of the machine only.",
    ),
)


class CannError(RuntimeError):
    """What was asked for is not there or does not work, in a sentence for the user. exit_code: for a command."""

    def __init__(self, message: str, exit_code: int = 5) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Npu:
    """One processor. An A3 card has two."""

    index: int  # as ACL and torch_npu count: the order of the table, from 0, whatever npu-smi calls the card
    card: int
    chip: int
    name: str  # npu-smi's: "910B3", "Ascend910"
    soc_version: str  # "Ascend910B3"; "" where npu-smi does not say
    health: str  # "OK", "Warning", "Alarm", "Critical"


def find_npus(run: Callable[[list[str]], Answer] | None = None) -> list[Npu]:
    """All NPUs that npu-smi shows; [] where there is no npu-smi, or where its table is empty.

    run: takes npu-smi's arguments, gives its exit code and output; FileNotFoundError where there is none.
    Raises CannError where npu-smi fails, hangs, or prints something else: then there is a driver, and it does not work.
    """
    run = run or call_npu_smi
    try:
        code, text = run(["info"])
    except FileNotFoundError:
        return []
    rows = list(_rows(text.splitlines()))
    if not rows and (code or "npu-smi" not in text):
        raise CannError(_explain(code, text))
    cards = {row[0]: row[2] for row in rows}  # both chips of an A3 card are alike
    socs = {card: _soc(name, card, run) for card, name in cards.items()}
    return [Npu(index, row[0], row[1], row[2], socs[row[0]], row[3]) for index, row in enumerate(rows)]


def soc_version(explicit: str | None, npus: Iterable[Npu]) -> str:
    """What ATC's --soc_version takes: `explicit` where it is given, else the one processor that all `npus` are.

    Raises CannError: for a name that this port does not know (exit code 2), and where the NPUs do not say it.
    """
    known = ", ".join(SOC_VERSIONS)
    if explicit:
        names = {name.lower(): name for name in SOC_VERSIONS}
        text = explicit.strip().lower()
        found = names.get(text) or names.get(f"ascend{text}")
        if found is None:
            raise CannError(f"--soc-version {explicit}: not a processor of this port. It knows {known}.", 2)
        return found
    npus = list(npus)
    if not npus:
        raise CannError(
            "no NPU was found here, so the processor is not known. Name that of the machine which will run the OM with "
            f"--soc-version: {known}. (On that machine: npu-smi info.)"
        )
    found_here = {npu.soc_version or npu.name for npu in npus}
    if len(found_here) > 1:
        shown = ", ".join(f"{npu.index}: {npu.soc_version or npu.name}" for npu in npus)
        raise CannError(
            f"the NPUs of this machine differ ({shown}), and an OM runs on one kind only: name it with --soc-version."
        )
    if npus[0].soc_version not in SOC_VERSIONS:
        raise CannError(
            f"npu-smi calls this processor {found_here.pop()}, which is none that this port knows ({known}). If it is "
            "one of these all the same, name it with --soc-version."
        )
    return npus[0].soc_version


def call_npu_smi(arguments: list[str], timeout: float = TIMEOUT) -> Answer:
    """Run npu-smi. Raises FileNotFoundError where there is none, CannError where it does not come back.

    Its output goes to a file: a child of npu-smi that hangs in the driver would keep a pipe open for ever.
    """
    program = shutil.which("npu-smi") or next((path for path in PROGRAMS if os.access(path, os.X_OK)), None)
    if program is None:
        raise FileNotFoundError("npu-smi")
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as error:  # not executable, or made for another processor
            raise CannError(f"{program} cannot be started ({error.strerror}): install the NPU driver again.") from error
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise CannError(
                f"{program} {' '.join(arguments)} did not answer in {timeout:g} s: the driver hangs. Look at `dmesg`; "
                "often only a restart of the machine helps. With --soc-version an OM can be made without it."
            ) from None
        except BaseException:
            _kill(process)
            raise
        output.seek(0)
        return code, output.read().decode("utf-8", "replace")


def _kill(process: subprocess.Popen) -> None:
    """With its children. Not waited for beyond a second: what hangs in the driver cannot be ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)


def _rows(lines: list[str]) -> Iterator[tuple[int, int, str, str]]:
    """(card, chip, name, health) of each processor. Every one has two lines: name and health, then chip and bus."""
    head: tuple[int, str, str] | None = None
    for line in lines:
        if "Process" in line:  # the table of processes follows, which looks much the same
            return
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        words = cells[0].split()
        if len(cells) < 3 or not words or not words[0].isdecimal():  # "²" is a digit, and no number
            continue
        if head is None and len(words) == 2:
            head = int(words[0]), words[1], cells[1]
        elif head is not None:
            yield head[0], int(words[0]), head[1], head[2]
            head = None


def _soc(name: str, card: int, run: Callable[[list[str]], Answer]) -> str:
    """ "910B3" -> "Ascend910B3". "Ascend910" is an A3, whose board says which; "" where it does not."""
    full = name if name.startswith("Ascend") else f"Ascend{name}"
    if full != "Ascend910":
        return full
    try:
        _, text = run(["info", "-t", "board", "-i", str(card), "-c", "0"])
    except (OSError, CannError):
        return ""
    number = re.search(r"^\s*NPU Name\s*:\s*(\d+)\s*$", text, re.MULTILINE)
    return f"{full}_{number[1]}" if number else ""


def _explain(code: int, text: str) -> str:
    said = " ".join(text.split())[:300] or "nothing"
    why, fix = next(
        ((why, fix) for pattern, why, fix in _FAILURES if re.search(pattern, text)),
        ("", "Run it by hand; --soc-version makes an OM without it."),
    )
    return f"npu-smi info failed (exit code {code}): {said}. {why} {fix}".replace(".. ", ". ").replace("  ", " ")
