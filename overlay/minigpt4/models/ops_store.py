"""Keeps what the self-check found (ops_check.py) between runs: one small JSON file per machine's software.

    $XDG_CACHE_HOME/minigpt4-ascend/ops-….json, without that variable ~/.cache/minigpt4-ascend/

What was found counts for one combination of processor, CANN, torch_npu, torch and the code that was checked
(`identity`); another combination is another file. A file that cannot be read, or holds anything else, is as if it were
not there; a folder that cannot be written means that the next run checks again. Neither is ever an error.

A kernel can end the process, or the device for it, in the middle of the check. So a mark, ops-….trying, lies beside
the file while an operation is tried; its process holds a lock on it. The mark of a process that is gone tells the next
run which operation not to try again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import torch

from .ops_compare import DeviceLost


def identity(torch_npu: Any, processor: str) -> dict[str, str]:
    """What a finding depends on. processor: "Ascend910B3"."""
    return {
        "processor": processor,
        "cann": _cann_version(torch_npu),
        "torch_npu": str(torch_npu.__version__),
        "torch": str(torch.__version__),
        "code": _code_hash(),
    }


def file_of(identity: dict[str, str]) -> Path | None:
    """Where the findings for this identity are kept; None for a user without a home."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    except (RuntimeError, KeyError):  # KeyError: Python 3.9, for a user without an entry in passwd
        return None
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return folder / "minigpt4-ascend" / f"ops-{name}.json"


def load(identity: dict[str, str]) -> list | None:
    """The rows that `save` was given for this identity, or None."""
    path = file_of(identity)
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("identity") != identity:
        return None
    rows = content.get("found")
    return rows if isinstance(rows, list) else None


def save(identity: dict[str, str], rows: list) -> None:
    """Keep rows (what JSON can hold). Whole or not at all: another process may be reading."""
    path = file_of(identity)
    if path is None:
        return
    text = json.dumps({"identity": identity, "found": rows}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    except OSError:
        return
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


@contextlib.contextmanager
def trying(identity: dict[str, str], op: str) -> Iterator[None]:
    """Keep a mark of `op` while the body runs. It stays behind when the process ends there, or DeviceLost is raised."""
    mark = _mark(identity, op)
    lost = False
    try:
        yield
    except DeviceLost:
        lost = True
        raise
    finally:
        if mark is not None:
            handle, name = mark
            with contextlib.suppress(OSError):
                if not lost:
                    os.unlink(name)
            os.close(handle)  # and the lock goes


def unfinished(identity: dict[str, str], forget: Container[str] = ()) -> set[str]:
    """The operations at whose trial earlier runs ended. The marks of those in `forget` are removed."""
    found = set()
    for path in _marks(identity):
        # Opened for writing because a lock on NFS needs that.
        with contextlib.suppress(OSError, ValueError), open(path, "r+", encoding="utf-8") as file:
            if _lock(file, wait=False):  # whoever tries it right now holds the lock
                op = file.read()
                found.add(op)
                if op in forget or not op:
                    path.unlink()
    return found - {""}


def _mark(identity: dict[str, str], op: str) -> tuple[int, str] | None:
    """The descriptor of a locked file that says `op`, and its path; None where there cannot be one."""
    path = file_of(identity)
    if path is None:
        return None
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".trying")
        if _lock(handle, wait=True):
            with contextlib.suppress(OSError):
                os.write(handle, op.encode())
                return handle, name
        os.close(handle)
        os.unlink(name)  # without locks, nobody could tell a mark that was left behind
    return None


def _marks(identity: dict[str, str]) -> list[Path]:
    path = file_of(identity)
    return [] if path is None else sorted(path.parent.glob(f"{path.stem}-*.trying"))


def _lock(file: Any, wait: bool) -> bool:
    """The system drops the lock when its process ends, however it ends."""
    import fcntl  # not on Windows, where no NPU is either

    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _cann_version(torch_npu: Any) -> str:
    """get_cann_version() gives "" before CANN 8.1, and old torch_npu lacks it: then the folder helps."""
    read = getattr(getattr(torch_npu, "utils", None), "get_cann_version", None)
    try:
        version = str(read()) if read else ""
    except Exception:  # whatever a release's lookup stumbles over: the folder is still known
        version = ""
    folder = os.environ.get("ASCEND_HOME_PATH", "")  # set_env.sh sets it; often a link to the version that is in use
    return f"{version or 'unknown'} in {os.path.realpath(folder) if folder else 'an unknown folder'}"


def _code_hash() -> str:
    """Of every model file: which of them a finding depends on is easily got wrong, and a new check takes seconds."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
