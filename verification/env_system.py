"""What the environment doctor finds out about any machine: system, C library, container, memory, disk, CUDA cards."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from verification.env_source import Source

MB = 10**6
LIB = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
GLIBC = re.compile(r"GNU C Library .*?version (\d+\.\d+)")
CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")


@dataclass(frozen=True)
class Card:
    """A CUDA card. Memory in MB."""

    name: str
    driver: str
    total: int
    free: int


def cards(source: Source) -> Iterator[Card]:
    query = "--query-gpu=name,driver_version,memory.total,memory.free"
    try:
        code, text = source.ask("nvidia-smi", [query, "--format=csv,noheader,nounits"])
    except OSError:
        return
    for line in text.splitlines() if code == 0 else ():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4:
            total, free = (int(cell) if cell.isdecimal() else 0 for cell in cells[2:])  # "[N/A]" on shared memory
            yield Card(cells[0], cells[1], total, free)


def system(source: Source) -> str:
    named = re.search(r'^PRETTY_NAME="?([^"\n]+)', source.text("/etc/os-release"), re.MULTILINE)
    return named[1] if named else platform.system() if source.live else "an unknown system"


def architecture(source: Source) -> str:
    if not source.live:
        for arch in ("aarch64", "x86-64"):  # as the dynamic linker is called
            if any(source.listed(folder, f"ld-linux-{arch}.so*") for folder in LIB):
                return arch.replace("-", "_")
    return platform.machine()


def glibc(source: Source) -> str:
    if source.live:
        with contextlib.suppress(ValueError, OSError, AttributeError):
            return (os.confstr("CS_GNU_LIBC_VERSION") or "").replace("glibc ", "")
        return ""
    places = (*LIB, *(f"{folder}/{arch}-linux-gnu" for folder in LIB for arch in ("aarch64", "x86_64")))
    found = (GLIBC.search(source.text(f"{place}/libc.so.6")) for place in places)
    return next((match[1] for match in found if match), "")


def in_container(source: Source) -> bool:
    marks = re.compile(r"docker|kubepods|containerd|libpod|lxc")
    return any(source.is_there(name) for name in CONTAINER_FILES) or bool(marks.search(source.text("/proc/1/cgroup")))


def memory(source: Source) -> tuple[int, int] | None:
    """(total, available) in MB; a container's limit counts where it is lower."""
    sizes = dict(re.findall(r"^(MemTotal|MemAvailable):\s*(\d+) kB", source.text("/proc/meminfo"), re.MULTILINE))
    if len(sizes) < 2:
        return None
    total, free = (int(sizes[name]) * 1024 // MB for name in ("MemTotal", "MemAvailable"))
    groups = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    for limit_file, used_file in groups:
        limit, used = (source.text(f"/sys/fs/cgroup/{name}").strip() for name in (limit_file, used_file))
        if limit.isdecimal() and used.isdecimal() and int(limit) // MB < total:
            total, free = int(limit) // MB, min(free, max(int(limit) - int(used), 0) // MB)
    return total, free


def disk(source: Source, weights: Path) -> tuple[str, int] | None:
    """The nearest folder to the weights that exists, and MB free there. Not known for files of another machine."""
    if not source.live:
        return None
    place = next(folder for folder in (weights, *weights.parents) if os.path.isdir(folder))
    with contextlib.suppress(OSError):
        return str(place), shutil.disk_usage(place).free // MB
    return None
