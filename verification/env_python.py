"""What the environment doctor finds out about Python: packages by their metadata, torch by its files, and a trial.

Nothing is imported in this process: torch_npu can hang in the driver or end the process, and `import torch` imports it
wherever it is installed. The trial is a child process with a time limit.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verification.env_source import Source, run_child

TIMEOUT = 180.0  # seconds: torch alone takes half a minute from a slow disk, CANN's start as long
# Says what it did step by step, so that the last line tells where it ended.
TRIAL = """
import json
def say(**facts):
    print("TRIAL " + json.dumps(facts), flush=True)
say(step="import torch")
import torch
say(step="torch", cuda=torch.cuda.device_count() if torch.version.cuda else 0)
say(cxx11=str(int(torch.compiled_with_cxx11_abi())))
try:
    import importlib.util
    there = importlib.util.find_spec("torch_npu") is not None
except ValueError:
    there = True
if there:
    say(step="import torch_npu")
    import torch_npu
    say(step="count NPUs")
    count = torch.npu.device_count()
    say(step="compute", npus=count)
    if count:
        ones = torch.ones(16, dtype=torch.float16).npu()
        say(sum=float((ones + ones).sum().cpu()))
say(step="done")
"""
VERSION = re.compile(r"(\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class Trial:
    """code: None where it was stopped after TIMEOUT. step: the one that it ended in, "done" where all worked."""

    code: int | None
    step: str
    cuda: int  # cards that torch sees
    npus: int
    cxx11: str  # as in Python
    wrong_sum: bool  # 16 x (1 + 1) on npu:0 was not 32
    said: str  # its last line, which has the error


@dataclass(frozen=True)
class Python:
    version: str
    packages: dict[str, str]  # distribution, in lower case with "-", -> version
    torch_cuda: str  # the CUDA that torch was built for; "" for none
    cxx11: str  # "1" or "0": the C++ ABI that torch was built with; "" where neither torch nor its files (to 2.6) say
    shadowed: tuple[str, ...]  # folders on PYTHONPATH that hold a package of the table
    trial: Trial | None  # None: not tried


def read_python(source: Source, names: Iterable[str], trial: bool = True) -> Python:
    """names: packages that must not come from PYTHONPATH. trial: whether to import torch in a child process."""
    folders = [Path(folder or ".") for folder in sys.path] if source.live else _site_packages(source)
    packages = dict(reversed(list(_distributions(folders))))  # of two, the first on the path is the one imported
    version_file = next(_texts(folders, "torch/version.py"), "")
    cmake = next(_texts(folders, "torch/share/cmake/Torch/TorchConfig.cmake"), "")
    cuda = re.search(r"^cuda\b[^=\n]*=\s*'([\d.]+)'", version_file, re.MULTILINE)
    abi = re.search(r"_GLIBCXX_USE_CXX11_ABI=(\d)", cmake)
    tried = try_torch(source) if trial and source.live and "torch" in packages else None
    return Python(
        version=".".join(str(part) for part in sys.version_info[:3]) if source.live else _version(source),
        packages=packages,
        torch_cuda=cuda[1] if cuda else "",
        cxx11=(tried.cxx11 if tried else "") or (abi[1] if abi else ""),
        shadowed=tuple(_shadowed(source, names)),
        trial=tried,
    )


def try_torch(source: Source, timeout: float = TIMEOUT) -> Trial:
    """Import torch and torch_npu in a child, count the devices and add on the first NPU."""
    code, text = run_child([sys.executable, "-c", TRIAL], timeout, source.env)
    facts: dict[str, Any] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError):  # a line cut off when the child ended, or not ours
            facts.update(json.loads(line[6:]) if line.startswith("TRIAL ") else {})
    said = next((line for line in reversed(text.splitlines()) if line.strip() and not line.startswith("TRIAL ")), "")
    return Trial(
        code,
        step=facts.get("step", "start Python"),
        cuda=facts.get("cuda", 0),
        npus=facts.get("npus", 0),
        cxx11=facts.get("cxx11", ""),
        wrong_sum=facts.get("sum", 32.0) != 32.0,
        said=said.strip(),
    )


def numbers(version: str) -> tuple[int, ...]:
    """The release of a version, to compare: (2, 10, 0) for "2.10.0.post4"."""
    found = VERSION.match(version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def release(version: str) -> str:
    """Without post-release and local part: "2.10.0" for "2.10.0.post4" and "2.10.0+cpu"."""
    return ".".join(str(part) for part in numbers(version))


def _distributions(folders: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for found in importlib.metadata.distributions(path=[str(folder) for folder in folders]):
        try:
            name, version = found.metadata["Name"], found.version
        except (ValueError, OSError, KeyError, TypeError):  # metadata that is no UTF-8, or gone: Pythons differ
            continue
        if name and version:  # None for a folder that a broken installation left behind
            yield re.sub(r"[-_.]+", "-", str(name)).lower(), str(version)


def _texts(folders: Iterable[Path], inside: str) -> Iterator[str]:
    for folder in folders:
        try:
            yield (folder / inside).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue


def _site_packages(source: Source) -> list[Path]:
    places = ("/usr/local/lib", "/usr/lib", "/usr/lib64")
    return [path for place in places for path in source.listed(place, "python3*/*-packages")]


def _version(source: Source) -> str:
    """Of the newest Python below /usr: as its header says, else by its folder."""
    found = [path.name[6:] for place in ("/usr/local/lib", "/usr/lib") for path in source.listed(place, "python3.*")]
    newest = max(found, key=numbers, default="")
    for place in ("/usr/local/include", "/usr/include"):
        header = re.search(r'PY_VERSION\s+"([\d.]+)', source.text(f"{place}/python{newest}/patchlevel.h"))
        if header:
            return header[1]
    return newest


def _shadowed(source: Source, names: Iterable[str]) -> Iterator[str]:
    for folder in filter(None, source.env.get("PYTHONPATH", "").split(":")):
        for name in ("torch", "torch_npu", *names):
            if os.path.isfile(Path(folder) / name / "__init__.py"):
                yield source.shown(Path(folder) / name)
