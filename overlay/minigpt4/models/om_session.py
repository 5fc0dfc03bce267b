"""One .om on one NPU through Ascend's ais_bench, behind checks that it does not make itself.

ais_bench 0.0.2 compares byte counts and nothing else: it reads an array of another dtype, rank or memory order as if it
were the right one, crashes the process on one input too many and on a call after the end, and iterates over a bare
array. Releases differ: the older ones (2023) have no free_resource and take any path; newer ones refuse symbolic links,
unusual characters and files that others may write to. Both are used through what they have in common.

Three things that all sessions of a process share are left alone. Everything runs in a thread of the session's own: ACL
keeps a current context per thread, aclruntime needs its own one at every call (its newest releases look only at the
first), and torch_npu's must stay. `finalize` is never called: it ends ACL for torch_npu too. And a session is
released once, at the latest before torch_npu's own exit handler, which was registered earlier and so runs later.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import os
import re
import shlex
import stat
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .device import DeviceUnavailable
from .own_thread import OwnThread

DTYPES = {"float32": np.float32, "float16": np.float16}  # of aclruntime that an image encoder may have
LARGEST = 10 * 1024**3  # bytes, as newer releases of ais_bench allow
_OUTPUT = threading.Lock()  # where standard output goes concerns the whole process


class EncoderFailed(RuntimeError):
    """The file or its device did not answer, or not with features. The message says what to do."""


class NotTaken(ValueError):
    """A file whose place or permissions, or a number, ais_bench refuses: nothing is said about the model inside."""


@dataclass(frozen=True)
class Port:
    """An input or output. shape: -1 for a dynamic size; dtype: numpy's, None for what is neither fp32 nor fp16."""

    name: str
    shape: tuple[int, ...]
    dtype: Any


class OmSession:
    """inputs, outputs: what the file says. `infer` may be called from any thread; `close` as often as one likes."""

    def __init__(self, file: Path, number: int) -> None:
        """file: an existing .om; a symbolic link is followed. number: the NPU, counted from 0 among the visible ones.

        Raises device.DeviceUnavailable where ais_bench is missing, ValueError for a file or a device that it refuses.
        """
        self.file = file.resolve()
        interface = _ais_bench(file)
        if type(number) is not int or not 0 <= number <= 255:
            raise NotTaken(f"{number!r} is no NPU for ais_bench: it takes the numbers 0 to 255.")
        check_file(self.file, rules=hasattr(interface, "check_model_path_legality"))
        self._thread = OwnThread("ais_bench")
        holder: list[Any] = []  # the session, so that dropping it here destroys it in its own thread
        self._holder = holder
        self._release = weakref.finalize(self, _release, self._thread, holder)
        atexit.register(self._release)  # weakref's own handler may be older than torch_npu's, and run after it
        try:
            self.inputs, self.outputs = self._thread.call(_load, interface, number, str(self.file), holder)
        except (RuntimeError, ValueError, TypeError) as error:
            self.close()
            raise ValueError(
                f"ais_bench cannot load {self.file} on NPU {number}: {error}. Check that `npu-smi info` lists the "
                "card, that ASCEND_RT_VISIBLE_DEVICES (which renumbers from 0) leaves it visible, and that ATC made "
                "the file for this --soc_version and a CANN that is not newer than this one."
            ) from error

    def infer(self, arrays: list[np.ndarray], mode: str = "static") -> list[np.ndarray]:
        """arrays: one per input, C-contiguous, of its shape and dtype. mode: "dymbatch" for a dynamic first size.

        Returns the outputs as finite arrays of the file's dtypes. Raises EncoderFailed after `close`, and where the
        device fails or gives back something else; ValueError for arrays that do not fit.
        """
        if not self._release.alive:
            raise EncoderFailed(f"{self.file} has been closed: load the image encoder again.")
        if not self._thread.alive:
            raise EncoderFailed(f"{self.file} was loaded in another process, of which this is a fork: load it here.")
        if not isinstance(arrays, list) or len(arrays) != len(self.inputs):
            got = f"{len(arrays)}" if isinstance(arrays, list) else f"a {type(arrays).__name__}"
            raise ValueError(f"{self.file} takes a list of {len(self.inputs)} arrays, got {got}.")
        for array, port in zip(arrays, self.inputs):
            _check_array(array, port)
        try:
            outputs = self._thread.call(_infer, self._holder, arrays, mode)
        except (RuntimeError, ValueError, TypeError) as error:
            raise EncoderFailed(
                f"ais_bench failed on {self.file}: {error}. If `npu-smi info` shows the card healthy and with memory "
                "left, convert the model again."
            ) from error
        self._check_outputs(outputs)
        return outputs

    def close(self) -> None:
        """Give the device's memory back."""
        self._release()
        atexit.unregister(self._release)

    def _check_outputs(self, outputs: Any) -> None:
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        found = [getattr(output, "dtype", type(output).__name__) for output in outputs]
        if found != [port.dtype for port in self.outputs]:
            raise EncoderFailed(
                f"{self.file} gave back {', '.join(map(str, found)) or 'nothing'}, expected float arrays as it "
                "describes its outputs. It is not MiniGPT-4's image encoder; convert it again."
            )
        if not all(np.isfinite(output).all() for output in outputs):
            raise EncoderFailed(
                f"{self.file} gave NaN or infinite values: a float16 overflow, most often. Convert it again with "
                "--precision_mode_v2=origin or mixed_float16: ATC's default forces every layer to float16."
            )


def check_file(file: Path, rules: bool) -> None:
    """file: no symbolic link. rules: whether this ais_bench checks paths. Raises NotTaken with all faults."""
    status, name = file.stat(), shlex.quote(str(file))
    faults = []
    if status.st_size > LARGEST:
        faults.append(f"it has {status.st_size} bytes and {LARGEST} are allowed: convert it without --external_weight")
    if rules and file.suffix != ".om":
        faults.append("the file itself, to which a link leads here, does not end in .om: copy it under its own name")
    odd = sorted(set(re.sub(r"[_A-Za-z0-9/.-]", "", str(file))))
    if rules and odd:
        faults.append(
            f"its path has {', '.join(map(repr, odd))}, and only letters without accents, digits and _ - . / are "
            "allowed: move it, or rename the file or the folder"
        )
    if rules and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        faults.append(f"its group or others may write to it: chmod go-w {name}")
    if rules and status.st_uid != os.geteuid() and status.st_gid not in os.getgroups():
        faults.append(f"it belongs to user {status.st_uid} and you are user {os.geteuid()}: chown, or copy it")
    if not os.access(file, os.R_OK) or (rules and not status.st_mode & stat.S_IRUSR):
        faults.append(f"it cannot be read: chmod u+r {name}")
    if faults:
        raise NotTaken(f"ais_bench does not take {file}: {'; '.join(faults)}.")


def _ais_bench(file: Path) -> Any:
    try:
        return importlib.import_module("ais_bench.infer.interface")
    except (ImportError, OSError) as error:
        raise DeviceUnavailable(
            f"{file} needs ais_bench, aclruntime and CANN: install both wheels from Ascend's tools and run "
            "`source /usr/local/Ascend/ascend-toolkit/set_env.sh`. Without an NPU, export an .onnx and set "
            f"`encoder` to it. ({error})"
        ) from error


def _check_array(array: Any, port: Port) -> None:
    """Exactly an ndarray: ais_bench refuses its subclasses, and reads what is not contiguous in memory order."""
    if type(array) is not np.ndarray or array.dtype != port.dtype or not array.flags["C_CONTIGUOUS"]:
        raise ValueError(f"{port.name} takes a plain contiguous numpy array of {np.dtype(port.dtype)}.")
    fits = array.ndim == len(port.shape) and all(wanted in (-1, n) for n, wanted in zip(array.shape, port.shape))
    if not fits or not array.size:
        raise ValueError(f"{port.name} takes {list(port.shape)}, where -1 is any size, got {list(array.shape)}.")


# In the session's own thread


def _load(interface: Any, number: int, path: str, holder: list[Any]) -> tuple[list[Port], list[Port]]:
    with _native_output_to_stderr():
        session = interface.InferSession(number, path)
    holder.append(session)
    return [_port(desc) for desc in session.get_inputs()], [_port(desc) for desc in session.get_outputs()]


def _port(desc: Any) -> Port:
    return Port(desc.name, tuple(int(n) for n in desc.shape), DTYPES.get(desc.datatype.name))


def _infer(holder: list[Any], arrays: list[np.ndarray], mode: str) -> Any:
    if not holder:  # closed between the caller's check and its turn
        raise RuntimeError("the session has been closed")
    return holder[0].infer(arrays, mode)


def _release(thread: OwnThread, holder: list[Any]) -> None:
    if not thread.alive:  # a forked child must not touch the parent's device
        return
    try:
        thread.call(_free, holder)
    finally:
        thread.end()


def _free(holder: list[Any]) -> None:
    """A release without free_resource gives the memory back when its last reference goes, which is this one."""
    with _native_output_to_stderr():
        while holder:
            session = holder.pop()
            if hasattr(session, "free_resource"):
                session.free_resource()
            del session


@contextlib.contextmanager
def _native_output_to_stderr() -> Iterator[None]:
    """aclruntime and ACL write to the process's standard output as they load and unload, where an answer goes.

    One such line is `acl init failed`: torch_npu has initialised ACL already, and aclruntime goes on. Of two sessions
    at once the second does not wait: the garbage collector may release it in the midst of the first one's load.
    """
    with contextlib.ExitStack() as stack:
        if _OUTPUT.acquire(blocking=False):
            stack.callback(_OUTPUT.release)
            with contextlib.suppress(OSError):  # there is no standard output, or no standard error
                kept = os.dup(1)
                stack.callback(_restore, kept)
                ctypes.CDLL(None).fflush(None)
                os.dup2(2, 1)
        yield


def _restore(kept: int) -> None:
    ctypes.CDLL(None).fflush(None)
    os.dup2(kept, 1)
    os.close(kept)
