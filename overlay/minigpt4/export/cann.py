"""Finds CANN's toolkit: where it is, which release, its ATC, and what the shell still has to source.

find_npus and soc_version, which ask npu-smi, are in npu_smi.py and offered here too. Standard library only, and nothing
is started but npu-smi: an environment doctor can use this where nothing else works.

Two layouts exist. Up to CANN 8.3: /usr/local/Ascend/ascend-toolkit/latest, with set_env.sh one folder above. From 8.5
on: /usr/local/Ascend/cann, with set_env.sh inside. The home folder's Ascend/ takes the place of /usr/local/Ascend where
another user than root installs. Read in the documentation and in the files of CANN 8.1.RC1; not tried on an NPU.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .npu_smi import SOC_VERSIONS, CannError, Npu, find_npus, soc_version

__all__ = ["SOC_VERSIONS", "Cann", "CannError", "Npu", "find_cann", "find_npus", "soc_version"]

HOMES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")  # what set_env.sh exports; ASCEND_OPP_PATH is TOOLKIT/opp
PLACES = ("cann", "ascend-toolkit/latest")  # below /usr/local/Ascend or ~/Ascend
VERSION = re.compile(r"\d+\.\d+(?:\.\w+)*")


@dataclass(frozen=True)
class Cann:
    """One toolkit, as it lies on the disk and as the environment sees it."""

    toolkit: Path
    version: str  # "8.1.RC1", "9.0.0"; "" where no file says it
    atc: Path | None  # None: a runtime-only package (nnrt, nnae), which converts nothing
    set_env: Path | None  # the script to source
    missing: tuple[str, ...]  # variables that do not name this toolkit; it may work all the same
    devlib: Path | None  # stands in for the driver's libraries, for ATC alone
    socs: frozenset[str]  # the processors that this toolkit has a description of; empty: not found
    kernels: frozenset[str]  # families with a kernels (from 8.5 on: ops) package: "ascend910b", "ascend910_93"

    @property
    def sourced(self) -> bool:
        return not self.missing

    @property
    def release(self) -> tuple[int, int]:
        """(8, 1) for "8.1.RC1"; (0, 0) where the version is not known."""
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)

    def to_source(self) -> str:
        """The command that a shell needs first; "" where it is done."""
        return "" if self.sourced else f"source {self.set_env or self.toolkit / 'set_env.sh'}"

    def has_kernels(self, soc: str) -> bool:
        """Whether the kernels package for `soc`, as "Ascend910B3", is installed. ATC needs it for most operators."""
        return ("ascend910b" if soc.startswith("Ascend910B") else "ascend910_93") in self.kernels


def find_cann(env: Mapping[str, str] | None = None, root: Path = Path("/"), machine: str = "") -> Cann | None:
    """The toolkit that `env` names, else the one in a usual place, else None. One with an ATC goes before one without.

    env: os.environ, or what stands for it. root: what the usual places are below. machine: "aarch64" or "x86_64".
    """
    env, machine = os.environ if env is None else env, machine or platform.machine()
    found = [_read(place, env, machine) for place in _candidates(env, root) if _is_toolkit(place, machine)]
    return next((cann for cann in found if cann.atc), found[0] if found else None)


def _candidates(env: Mapping[str, str], root: Path) -> Iterator[Path]:
    seen = set()
    for place in (*_named(env), *_usual(env, root)):
        real = os.path.realpath(place)  # Path's own functions raise errors for loops and for what is not readable
        if real not in seen and os.path.isdir(place):
            seen.add(real)
            yield place


def _named(env: Mapping[str, str]) -> Iterator[Path]:
    yield from (Path(env[key]) for key in HOMES if env.get(key))
    if env.get("ASCEND_OPP_PATH"):
        yield Path(env["ASCEND_OPP_PATH"]).parent
    atc = shutil.which("atc", path=env.get("PATH", ""))
    if atc:  # TOOLKIT/bin/atc, TOOLKIT/compiler/bin/atc, TOOLKIT/aarch64-linux/bin/atc, or links to these
        yield from (
            path for path in (*Path(atc).parents[1:3], *Path(os.path.realpath(atc)).parents[1:3]) if path != Path("/")
        )


def _usual(env: Mapping[str, str], root: Path) -> Iterator[Path]:
    homes = [root / "usr/local/Ascend"] + ([Path(env["HOME"]) / "Ascend"] if env.get("HOME") else [])
    yield from (home / place for home in homes for place in PLACES)


def _is_toolkit(place: Path, machine: str) -> bool:
    return bool(_version(place, machine)) and (os.path.isdir(place / "opp") or _atc(place, machine) is not None)


def _read(place: Path, env: Mapping[str, str], machine: str) -> Cann:
    sources = (place / "set_env.sh", place.parent / "set_env.sh", place / "bin" / "setenv.bash")
    descriptions = place / f"{machine}-linux" / "data" / "platform_config"
    kernels = place / "opp" / "built-in" / "op_impl" / "ai_core" / "tbe" / "kernel"
    return Cann(
        toolkit=place,
        version=_version(place, machine),
        atc=_atc(place, machine),
        set_env=next((path for path in sources if os.path.isfile(path)), None),
        missing=tuple(_missing(place, env)),
        devlib=_devlib(place / f"{machine}-linux" / "devlib", machine),
        socs=frozenset(path.stem for path in descriptions.glob("*.ini")),
        kernels=frozenset(path.name for path in kernels.glob("ascend*") if os.path.isdir(path)),
    )


def _atc(place: Path, machine: str) -> Path | None:
    folders = (place / "bin", place / "compiler" / "bin", place / f"{machine}-linux" / "bin")
    return next((it / "atc" for it in folders if os.path.isfile(it / "atc") and os.access(it / "atc", os.X_OK)), None)


def _devlib(folder: Path, machine: str) -> Path | None:
    """Where libascend_hal.so is: below linux/ in newer releases."""
    return next((it for it in (folder / "linux" / machine, folder) if os.path.isfile(it / "libascend_hal.so")), None)


def _missing(place: Path, env: Mapping[str, str]) -> Iterator[str]:
    """set_env.sh puts folders of the toolkit into these; another toolkit's do not count."""
    real = Path(os.path.realpath(place))
    for key in ("LD_LIBRARY_PATH", "ASCEND_OPP_PATH", "PYTHONPATH"):
        parts = [Path(part) for part in env.get(key, "").split(os.pathsep) if part]
        reals = [Path(os.path.realpath(part)) for part in parts]
        if not any(real in (it, *it.parents) for it in reals) and not any(place in part.parents for part in parts):
            yield key


def _version(place: Path, machine: str) -> str:
    """From the first file that has it; the folder's own name, cann-8.5.0 or ascend-toolkit/8.1.RC1, comes last."""
    entries = (
        (place / f"{machine}-linux" / "ascend_toolkit_install.info", "version"),
        (place / "version.cfg", "toolkit_running_version"),  # =[7.7.0.1.238:8.1.RC1]
        (place / "compiler" / "version.info", "version_dir"),
        (place / "toolkit" / "version.info", "version_dir"),
    )
    for path, key in entries:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found = re.search(rf"^{key}\s*=\s*\[?(?:[^:\]\n]*:)?([\w.-]+)", text, re.MULTILINE)
        if found:
            return found[1]
    name = VERSION.search(os.path.basename(os.path.realpath(place)))
    return name[0] if name else ""
