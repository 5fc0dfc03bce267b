"""Build stand-in CANN libraries, so that a real torch_npu wheel loads on a machine with no NPU and no CANN.

usage: python build.py SITE_PACKAGES FOLDER

SITE_PACKAGES holds torch and torch_npu, which are not imported here. FOLDER gets the libraries and goes onto
LD_LIBRARY_PATH. Needs gcc, nm and readelf, on Linux. ascendcl.c holds the functions that do something; every other
function which torch_npu links to, or looks up by name (symbols.txt), becomes a no-op that returns 0.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNTIME = "libascendcl.so"
OPENED_BY_NAME = (
    "libopapi.so",
    "libnnopbase.so",
    "libruntime.so",
    "libascend_ml.so",
    "libmsprofiler.so",
    "libascend_dump.so",
)
SYSTEM_FOLDERS = (*Path("/lib").glob("*-linux-gnu"), Path("/lib64"), Path("/usr/lib64"), Path("/usr/lib"))


def build(site_packages: Path, folder: Path) -> str:
    """Write the libraries and say in a sentence what was made. Raises CalledProcessError when gcc fails."""
    folder.mkdir(parents=True, exist_ok=True)
    package = site_packages / "torch_npu"
    npu = sorted([*package.glob("_C*.so"), *package.glob("lib/*.so")])
    if not npu:
        raise FileNotFoundError(f"{site_packages} holds no torch_npu with libraries")
    present = [*npu, *site_packages.glob("torch/lib/*.so*"), *site_packages.glob("torch_npu.libs/*")]
    missing = _needed(npu) - {library.name for library in present}
    system = [path for name in sorted(missing) if (path := _system_library(name))]
    missing -= {path.name for path in system}
    undefined = _undefined(npu, [*present, *system])
    written = set(re.findall(r"^\w[\w *]*?(acl\w+)\(", (HERE / "ascendcl.c").read_text(), re.MULTILINE))
    noops = sorted((undefined | set((HERE / "symbols.txt").read_text().split())) - written)
    source = folder / "noop.c"
    source.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in noops))  # also C++'s _Z names
    _link(folder, RUNTIME, str(HERE / "ascendcl.c"), str(source))
    for name in sorted({*missing, *OPENED_BY_NAME} - {RUNTIME}):
        _link(folder, name, "-x", "c", "/dev/null", "-x", "none", "-Wl,--no-as-needed", f"-L{folder}", "-lascendcl")
    return f"{len(missing)} missing libraries, {len(written)} functions written, {len(noops)} no-ops"


def _needed(libraries: list[Path]) -> set[str]:
    """Names of the libraries that these are linked to."""
    text = "".join(_run("readelf", "-d", str(library)) for library in libraries)
    return set(re.findall(r"Shared library: \[([^\]]+)\]", text))


def _undefined(libraries: list[Path], providers: list[Path]) -> set[str]:
    """Functions that these libraries want and that nothing here defines."""
    defined = {name for library in providers for name, _ in _symbols(library, "--defined-only")}
    wanted = {name for library in libraries for name, kind in _symbols(library, "--undefined-only") if kind == "U"}
    return {name for name in wanted - defined if not name.startswith(("Py", "_Py"))}


def _symbols(library: Path, which: str) -> list[tuple[str, str]]:
    rows = [line.split() for line in _run("nm", "-D", which, str(library)).splitlines()]
    return [(row[-1].split("@")[0], row[-2]) for row in rows if len(row) >= 2]


def _system_library(name: str) -> Path | None:
    return next((folder / name for folder in SYSTEM_FOLDERS if (folder / name).exists()), None)


def _link(folder: Path, name: str, *inputs: str) -> None:
    _run("gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", str(folder / name), *inputs)


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), Path(sys.argv[2])))
