"""What the environment doctor finds out about a machine without Python: hardware, driver, CANN, memory. No judgement.

The forms of npu-smi's tables are those that overlay/minigpt4/export/npu_smi.py reads; only memory and firmware are
read here besides. PCI numbers: vendor 19e5 is Huawei; its accelerators have the class 1200.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from verification import env_system
from verification.env_source import Source
from verification.env_system import Card

Ask = Callable[[list[str]], tuple[int, str]]  # npu-smi's arguments -> its exit code and output

DRIVER = "/usr/local/Ascend/driver"
LIBRARIES = (f"{DRIVER}/lib64/driver/libascend_hal.so", f"{DRIVER}/lib64/libascend_hal.so")
FIRMWARE = re.compile(r"^\s*Firmware Version\s*:\s*(\d[\w.]*)", re.MULTILINE)
VERSION = re.compile(r"^(?:package_)?version\s*=\s*\[?v?(\d[\w.]*)", re.MULTILINE | re.IGNORECASE)
NODES = ("davinci_manager", "devmm_svm", "hisi_hdc")  # beside davinci0, davinci1, …
HUAWEI = "0x19e5"


@dataclass(frozen=True)
class Machine:
    """npus: npu_smi.Npu; trouble: why npu-smi gives none although it is there. Memory in MB, None where unknown."""

    system: str  # "Ubuntu 22.04.4 LTS"
    arch: str  # "aarch64"
    glibc: str  # "2.35"; "" for another C library
    container: bool
    npus: tuple[Any, ...]
    trouble: str
    npu_smi: str  # its version, which is the driver's; "" where there is none
    npu_memory: tuple[tuple[int, int], ...]  # (total, free) of every NPU, as far as npu-smi says
    pci: tuple[str, ...]  # Huawei's accelerators on the bus: "19e5:d802"
    nodes: tuple[str, ...]  # of /dev that are there: "davinci0", "davinci_manager"
    closed: tuple[str, ...]  # of those, the ones that this user may not open
    driver: str  # the version in the driver's own file
    firmware: str
    driver_folder: bool
    driver_library: bool  # libascend_hal.so, which ACL loads
    driver_found: bool  # the driver's libraries are on LD_LIBRARY_PATH or in the linker's configuration
    cann: Any  # export.cann.Cann, or None
    cards: tuple[Card, ...]
    memory: tuple[int, int] | None  # (total, available), with the container's limit
    cores: int  # 0 where unknown
    disk: tuple[str, int] | None  # a folder, and what is free there


def read_machine(source: Source, parts: Any, weights: Path) -> Machine:
    """parts: imports the overlay's modules (export.cann). weights: where the weights are, or will be."""
    finder, ask = parts("export.cann"), _npu_smi(source, parts("export.npu_smi"))
    npus, trouble = _npus(source, finder, ask)
    table = "" if trouble else _said(ask, ["info"])
    arch = env_system.architecture(source)
    version = re.search(r"npu-smi\s+v?(\d[\w.]*)", table)
    nodes = tuple(path.name for path in (*source.listed("/dev", "davinci[0-9]*"), *_others(source)))
    return Machine(
        system=env_system.system(source),
        arch=arch,
        glibc=env_system.glibc(source),
        container=env_system.in_container(source),
        npus=npus,
        trouble=trouble,
        npu_smi=version[1] if version else "",
        npu_memory=tuple(_memory_rows(table)),
        pci=tuple(_pci(source, HUAWEI, "0x1200")),
        nodes=nodes,
        closed=tuple(name for name in nodes if not os.access(source.path(f"/dev/{name}"), os.R_OK | os.W_OK)),
        driver=_version_info(source, f"{DRIVER}/version.info"),
        firmware=_version_info(source, "/usr/local/Ascend/firmware/version.info") or _board(ask, npus),
        driver_folder=source.is_there(DRIVER),
        driver_library=any(source.is_there(library) for library in LIBRARIES),
        driver_found=_driver_found(source),
        cann=_cann(source, finder, arch),
        cards=tuple(env_system.cards(source)),
        memory=env_system.memory(source),
        cores=(os.cpu_count() or 0) if source.live else 0,
        disk=env_system.disk(source, weights),
    )


def _npu_smi(source: Source, smi: Any) -> Ask:
    """Asks npu-smi each question once, and none after it hung: that is CannError. FileNotFoundError: there is none."""
    hung: list[str] = []

    @functools.cache
    def answer(arguments: tuple[str, ...]) -> tuple[int, str]:
        try:
            if not hung:
                return source.ask("npu-smi", arguments)
        except TimeoutError as error:
            hung.append(f"{error}: the driver hangs. Look at `dmesg`; often only a restart of the machine helps.")
        raise smi.CannError(hung[0])

    return lambda arguments: answer(tuple(arguments))


def _cann(source: Source, finder: Any, arch: str) -> Any:
    """The toolkit; below another root never one that a link or a variable names on this machine."""
    if source.live:
        return finder.find_cann(source.env, source.root, arch)
    places = (f"/usr/local/Ascend/{place}" for place in finder.PLACES)
    usual = str(source.path(next(filter(source.is_there, places), "/nowhere")))
    cann = finder.find_cann({"ASCEND_TOOLKIT_HOME": usual, **source.env}, source.root, arch)
    return cann if cann and source.root in Path(os.path.realpath(cann.toolkit)).parents else None


def _npus(source: Source, finder: Any, ask: Ask) -> tuple[tuple[Any, ...], str]:
    try:
        return tuple(finder.find_npus(ask)), ""
    except finder.CannError as error:
        return (), source.shown(error)


def _said(ask: Ask, arguments: list[str]) -> str:
    try:
        return ask(arguments)[1]
    except (OSError, RuntimeError):  # CannError is a RuntimeError
        return ""


def _board(ask: Ask, npus: tuple[Any, ...]) -> str:
    """The firmware's version as npu-smi gives it, for containers that do not see the firmware's folder."""
    if not npus:
        return ""
    board = ["info", "-t", "board", "-i", str(npus[0].card)]
    found = (FIRMWARE.search(_said(ask, arguments)) for arguments in (board, [*board, "-c", "0"]))
    return next((match[1] for match in found if match), "")


def _memory_rows(table: str) -> Iterator[tuple[int, int]]:
    """(total, free) in MB from the second line of every processor; its last "used / total" is the device's memory."""
    for line in table.partition("Process id")[0].splitlines():
        bus = re.search(r"\|\s*[0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:", line)
        pairs = re.findall(r"(\d+)\s*/\s*(\d+)", line[bus.end() :]) if bus else []
        if pairs:
            used, total = (int(number) for number in pairs[-1])
            yield total, total - used


def _version_info(source: Source, absolute: str) -> str:
    found = VERSION.search(source.text(absolute))
    return found[1] if found else ""


def _others(source: Source) -> Iterator[Path]:
    yield from (source.path(f"/dev/{name}") for name in NODES if source.is_there(f"/dev/{name}"))


def _pci(source: Source, vendor: str, kind: str) -> Iterator[str]:
    for device in source.listed("/sys/bus/pci/devices", "*"):
        folder = "/" + str(device.relative_to(source.root))
        if source.text(f"{folder}/vendor").strip() == vendor and source.text(f"{folder}/class").startswith(kind):
            yield f"{vendor[2:]}:{source.text(f'{folder}/device').strip()[2:]}"


def _driver_found(source: Source) -> bool:
    listed = source.env.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    files = source.listed("/etc/ld.so.conf.d", "*.conf")
    listed += [line for path in files for line in source.text("/" + str(path.relative_to(source.root))).split()]
    return any(source.shown(folder).rstrip("/").endswith("driver/lib64/driver") for folder in listed)
