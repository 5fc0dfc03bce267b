"""Judges the shell's variables, and the room: memory of device and host, disk, C library. Secrets are never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from verification.env_findings import Case, Finding
from verification.env_python import numbers
from verification.env_source import redacted
from verification.report import Outcome

OK, NOTE, FAILED = Outcome.PASSED, Outcome.NOTE, Outcome.FAILED
SHOWN = (
    "ASCEND_HOME_PATH",
    "ASCEND_TOOLKIT_HOME",
    "ASCEND_OPP_PATH",
    "ASCEND_RT_VISIBLE_DEVICES",
    "ASCEND_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "TORCH_DEVICE_BACKEND_AUTOLOAD",
    "PYTORCH_NPU_ALLOC_CONF",
    "OMP_NUM_THREADS",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)
# What the original guide's set_env.sh sets for a closed library that this port does not use.
SEED = re.compile(r"ATB_(?:OPERATION|CONTEXT|TORCH|CONVERT|USE_TILING|LAYER|SPEED)_\w+")
SLOW = {
    "ASCEND_LAUNCH_BLOCKING": ("1", "Every operation is waited for; meant for finding the one that fails."),
    "TASK_QUEUE_ENABLE": ("0", "Operations are no longer sent to the NPU by a thread of their own."),
}
ALLOC = re.compile(r"[a-z_]+:[\w.\[\]:>-]+(?:,[a-z_]+:[\w.\[\]:>-]+)*")
# MB: Vicuna-7B 13,500 in float16 and 7,000 in int8; encoder, Q-Former, cache and working memory about 4,500.
HALF, INT8, FLOAT, FILES = 18_000, 11_500, 32_000, 22_000
GLIBC = (2, 27)
WIDEST = 100  # characters shown of a value that is wrong
AUTOLOAD = (2, 5)  # the first torch that loads other packages' backends by itself


def check_shell(case: Case) -> Iterator[Finding]:
    if case.source.foreign:
        why = "This shell belongs to another machine than these files, so whether CANN is sourced there is not known."
        yield Finding("shell", "variables", NOTE, "not looked at", why)
        return
    yield _variables(case)
    yield from _visible(case)
    yield from _paths(case)
    yield from _values(case)
    yield from _autoload(case)


def _autoload(case: Case) -> Iterator[Finding]:
    packages, cann, name = case.python.packages, case.machine.cann, "TORCH_DEVICE_BACKEND_AUTOLOAD"
    loads = "torch-npu" in packages and numbers(packages.get("torch", "")) >= AUTOLOAD and not case.computes
    if loads and case.source.env.get(name, "1") != "0" and not (cann and cann.sourced):
        why = "torch loads torch_npu by itself, and without CANN `import torch` fails: libhccl.so is not found."
        if cann and case.wanted:
            yield Finding("shell", name, NOTE, "not 0", f"{why} Sourcing CANN mends that.")
        else:
            yield Finding("shell", name, FAILED, "not 0", why, f"export {name}=0")


def check_room(case: Case) -> Iterator[Finding]:
    yield from _device_memory(case)
    yield from _host_memory(case)
    if case.machine.disk:
        place, free = case.machine.disk
        why = f"The weights and the image encoder's files take about {FILES / 1000:.0f} GB, if they are not there yet."
        enough = free >= FILES
        remedy = "" if enough else "Make room, or keep them elsewhere: apply.py --set model_path=FOLDER"
        found = f"{free / 1000:.0f} GB free in {place}"
        yield Finding("room", "disk", OK if enough else NOTE, found, "" if enough else why, remedy)
    glibc = case.machine.glibc
    if glibc and numbers(glibc) < GLIBC:
        why = "The NPU driver and PyTorch's wheels need glibc 2.27 or newer, current wheels 2.28."
        yield Finding("room", "glibc", FAILED, glibc, why, "Use a newer system, or a container image with one.")


def _variables(case: Case) -> Finding:
    """proxies are known in both spellings; a program takes either."""
    env = case.source.env
    names = [name for name in SHOWN if env.get(name)] + [
        name.upper() for name in SHOWN if "proxy" in name and env.get(name.upper()) and not env.get(name)
    ]
    shown = [f"{name}={case.source.shown(redacted(name, env[name]))}" for name in names]
    return Finding("shell", "variables", OK, " ".join(shown) or "none of those that matter here")


def _visible(case: Case) -> Iterator[Finding]:
    value, count = case.source.env.get("ASCEND_RT_VISIBLE_DEVICES"), len(case.machine.npus)
    if value is None or not count:
        return
    if case.chosen is None:
        why = f"It names NPUs by number from 0, and this machine has {count}: programs find none, or fewer."
        found = repr(value if len(value) <= WIDEST else value[:WIDEST] + "…")
        yield Finding("shell", "ASCEND_RT_VISIBLE_DEVICES", FAILED, found, why, "unset ASCEND_RT_VISIBLE_DEVICES")


def _paths(case: Case) -> Iterator[Finding]:
    env, source = case.source.env, case.source
    for name in ("LD_LIBRARY_PATH", "PYTHONPATH"):
        folders = [folder for folder in env.get(name, "").split(os.pathsep) if folder]
        gone = [source.shown(folder) for folder in folders if not os.path.exists(folder)]
        if folders:
            why = f"These do not exist: {', '.join(gone)}." if gone else ""
            yield Finding("shell", name, NOTE if gone else OK, ", ".join(map(source.shown, folders)), why)
    yield from _two_toolkits(case)
    if case.python.shadowed:
        why = "These come before the installed packages: another version runs than the one listed here."
        yield Finding(
            "shell", "PYTHONPATH", NOTE, ", ".join(case.python.shadowed), why, "unset PYTHONPATH, then source CANN"
        )


def _two_toolkits(case: Case) -> Iterator[Finding]:
    cann, env = case.machine.cann, case.source.env
    if cann is None:
        return
    parts = [Path(part) for part in env.get("LD_LIBRARY_PATH", "").split(os.pathsep) if "/lib64" in part]
    kits = re.compile(r"(.*/(?:ascend-toolkit/[^/]+|cann(?:-\d[^/]*)?))/")
    others = {Path(found[1]) for found in (kits.match(f"{part}/") for part in parts) if found}
    # `latest` is a folder of links in older releases: the same libraries under two names are one toolkit
    home = _real(cann.toolkit)
    strange = sorted(case.source.shown(other) for other in others if os.path.isdir(other) and not _real(other) & home)
    if strange:
        why = f"Libraries of two CANN releases mix; the other one is {case.source.shown(cann.toolkit)}."
        remedy = f"In a new shell: source {case.source.shown(cann.set_env or cann.toolkit / 'set_env.sh')}"
        yield Finding("shell", "LD_LIBRARY_PATH", FAILED, ", ".join(strange), why, remedy)


def _real(toolkit: Path) -> set[str]:
    return {os.path.realpath(toolkit), os.path.realpath(toolkit / "lib64")}


def _values(case: Case) -> Iterator[Finding]:
    env = case.source.env
    for name, (value, why) in SLOW.items():
        if env.get(name) == value:
            yield Finding("shell", name, NOTE, f"{value}: slow", why, f"unset {name}")
    seed = sorted(name for name in env if SEED.fullmatch(name))
    if seed:
        why = "The original guide sets these for its closed ATB library; nothing in this port reads them."
        yield Finding("shell", "ATB", NOTE, f"{len(seed)} variables, {seed[0]} the first", why)
    alloc = env.get("PYTORCH_NPU_ALLOC_CONF")
    if alloc is not None and not ALLOC.fullmatch(alloc.replace(" ", "")):
        why = "torch_npu expects option:value,option:value and ends at its start otherwise."
        yield Finding("shell", "PYTORCH_NPU_ALLOC_CONF", FAILED, repr(alloc), why, "unset PYTORCH_NPU_ALLOC_CONF")
    endpoint = env.get("HF_ENDPOINT")
    if endpoint and not re.fullmatch(r"https?://[^\s?#]+", endpoint):
        why = "It must be an address such as https://hf-mirror.com; downloads fail otherwise."
        found = repr(redacted("HF_ENDPOINT", endpoint))
        yield Finding("shell", "HF_ENDPOINT", FAILED, found, why, "export HF_ENDPOINT=https://hf-mirror.com")
    threads, cores = env.get("OMP_NUM_THREADS", ""), case.machine.cores
    if threads and not re.fullmatch(r"[1-9]\d*(?:,[1-9]\d*)*", threads):
        yield Finding(
            "shell", "OMP_NUM_THREADS", FAILED, repr(threads), "It must be a number.", "unset OMP_NUM_THREADS"
        )
    elif threads.isdigit() and cores and int(threads) > cores:
        why = f"More threads than this machine's {cores} cores wait for each other."
        yield Finding("shell", "OMP_NUM_THREADS", NOTE, threads, why, f"export OMP_NUM_THREADS={cores}")


def _device_memory(case: Case) -> Iterator[Finding]:
    memory, kind = _usable_memory(case), "npu"
    if not memory:
        memory, kind = tuple((card.total, card.free) for card in case.machine.cards if card.total), "cuda"
    if not memory:
        return
    index, (total, free) = max(enumerate(memory), key=lambda item: item[1][1])
    least = min(free for _, free in memory)
    found = f"{free / 1000:.1f} of {total / 1000:.1f} GB free on {kind}:{index}"
    if len(memory) > 1:
        found += f", at least {least / 1000:.1f} on all {len(memory)}"
    if free >= HALF:
        yield Finding("room", "device memory", OK, found)
        return
    why = f"The 7B model wants about {HALF / 1000:.0f} GB in float16, {INT8 / 1000:.1f} GB in int8."
    remedy = "Use --options model.low_resource=True, and end what else runs there (npu-smi info, nvidia-smi)."
    yield Finding("room", "device memory", NOTE if free >= INT8 or kind == "cuda" else FAILED, found, why, remedy)


def _usable_memory(case: Case) -> tuple[tuple[int, int], ...]:
    """Of the NPUs that a program sees, as ACL counts them."""
    memory = case.machine.npu_memory
    return tuple(memory[number] for number in case.visible) if len(memory) == len(case.machine.npus) else memory


def _host_memory(case: Case) -> Iterator[Finding]:
    if case.machine.memory is None:
        return
    total, free = case.machine.memory
    found = f"{free / 1000:.1f} of {total / 1000:.1f} GB free" + (
        " in this container" if case.machine.container else ""
    )
    device = bool(case.machine.npus or case.machine.cards)
    need = HALF if device else FLOAT
    if free >= need:
        yield Finding("room", "host memory", OK, found)
        return
    what = "loading the 7B weights" if device else "the 7B model in float32"
    why = f"For {what} about {need / 1000:.0f} GB is comfortable; int8 (low_resource) takes {INT8 / 1000:.1f}."
    remedy = "--options model.low_resource=True"
    yield Finding("room", "host memory", NOTE, found, why, remedy)
