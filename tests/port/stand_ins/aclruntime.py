"""A strict stand-in for aclruntime, the library under ais_bench: one .om on one device. See ais_bench/__init__.py."""

from __future__ import annotations

import contextlib
import enum
import os
import threading
from types import SimpleNamespace
from typing import Any

import acl
import numpy as np
import onnxruntime
from acl import WouldCrash

RELEASE = os.environ.get("AIS_BENCH_STAND_IN", "new")
PROFILES = "dynamic_batch_size"  # of the file's metadata_props: "1,2,4"


class WouldCorrupt(BaseException):
    """The real thing goes on here with bits that mean something else."""


class dtype(enum.Enum):
    """The values are ACL's codes."""

    float32 = 0
    float16 = 1
    int32 = 3
    int64 = 9
    double = 11


_DTYPES = {
    "tensor(float)": dtype.float32,
    "tensor(float16)": dtype.float16,
    "tensor(int32)": dtype.int32,
    "tensor(int64)": dtype.int64,
    "tensor(double)": dtype.double,
}
_started: list[bool] = []  # one entry once ACL has been asked for: whether it was this library that initialised it
_shared: dict[int, int] = {}  # the older release: device -> the context of all sessions on it
loaded: list[str] = []  # the models whose device memory is not given back yet


class InferenceSession:
    def __init__(self, model_path: str, device_id: int) -> None:
        self._state = "empty"
        if type(device_id) is not int or not isinstance(model_path, str):
            raise TypeError(say(f"InferenceSession(str, int), got ({model_path!r}, {device_id!r})"))
        _start_acl()
        if acl.rt.set_device(device_id):
            raise RuntimeError("[107001][Error code unknown] ")
        self._context = _context(device_id)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._model = onnxruntime.InferenceSession(model_path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise RuntimeError(f"[1][ACL: invalid parameter] {error}") from error
        profiles = self._model.get_modelmeta().custom_metadata_map.get(PROFILES, "")
        self.profiles = [int(n) for n in profiles.split(",") if n]
        self.path, self._batch = model_path, None
        self._busy = threading.Lock()
        self._state = "loaded"
        loaded.append(model_path)

    def get_inputs(self) -> list[SimpleNamespace]:
        return [_describe(node) for node in self._model.get_inputs()]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [_describe(node) for node in self._model.get_outputs()]

    def set_context(self) -> None:
        acl.rt.set_context(self._context)

    def set_dynamic_batchsize(self, batch: int) -> None:
        self._needs_context()
        if batch not in self.profiles:
            raise RuntimeError(f"[-1][ACL: general failure] {say(f'batch {batch} is none of {self.profiles}')}")
        self._batch = batch

    def set_staticbatch(self) -> None:
        self._batch = None

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        if self._state != "loaded":
            raise WouldCrash(say(f"infer on a session that is {self._state} is a segmentation fault"))
        self._needs_context()
        if not self._busy.acquire(blocking=False):
            raise WouldCrash(say("two threads in one session"))
        try:
            return self._run(arrays)
        finally:
            self._busy.release()

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        inputs = self.get_inputs()
        if len(arrays) > len(inputs):
            raise WouldCrash(say(f"{len(arrays)} arrays for {len(inputs)} inputs are a segmentation fault"))
        if len(arrays) < len(inputs):
            raise RuntimeError("[-1][ACL: general failure] ")
        for array, wanted in zip(arrays, inputs):
            _check_array(array, wanted, self._batch)
        outputs = self._model.run(None, {wanted.name: array for wanted, array in zip(inputs, arrays)})
        return [np.ascontiguousarray(output) for output in outputs]

    def free_resource(self) -> None:
        if self._state != "loaded":
            raise WouldCrash(say(f"a session that is {self._state} is released again"))
        self.set_context()
        self._leave("released")

    def lose(self) -> None:
        """ACL has been finalized under it, which gives the memory back as well."""
        if self._state == "loaded":
            self._leave("finalized")

    def _leave(self, state: str) -> None:
        self._state = state
        loaded.remove(self.path)
        _print("[INFO] unload model success")

    def _needs_context(self) -> None:
        if acl.rt.get_context() != (self._context, 0):
            raise RuntimeError("[107002][Error code unknown] " + say("the thread's context is not the session's"))

    def __del__(self) -> None:
        """The destructor makes the session's context current, in whatever thread it runs, and unloads the model."""
        if self._state != "loaded":
            return
        if not acl.is_initialised():
            os.write(2, say("segmentation fault: a session outlives ACL\n").encode())
            os._exit(139)
        with contextlib.suppress(WouldCrash):  # a test has destroyed the context
            self.set_context()
        self._leave("destroyed")


def finalize() -> None:
    """As DestroyDevices: every context of this library, and ACL itself, whoever else uses it."""
    _started.clear()
    _shared.clear()
    acl.finalize()


def _start_acl() -> None:
    """Its own aclInit: where another library was first it says so on standard output, and goes on."""
    if not _started:
        _started.append(acl.init() == 0)
        _print("[INFO] acl init success" if _started[0] else "[ERROR] acl init failed")


def _print(line: str) -> None:
    """Past Python, as printf; a closed standard output is no error."""
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())


def _context(device: int) -> int:
    if RELEASE == "new":
        return acl.rt.create_context(device)[0]
    if device not in _shared:
        _shared[device] = acl.rt.create_context(device)[0]
    acl.rt.set_context(_shared[device])
    return _shared[device]


def _check_array(array: np.ndarray, wanted: SimpleNamespace, batch: int | None) -> None:
    shape = [batch if n == -1 and batch else n for n in wanted.shape]
    name = "float64" if wanted.datatype is dtype.double else wanted.datatype.name
    size = int(np.prod(shape)) * np.dtype(name).itemsize
    if array.nbytes != size:
        raise RuntimeError("[-1][ACL: general failure] " + say(f"{array.nbytes} bytes for an input of {size}"))
    if array.dtype != np.dtype(name):
        raise WouldCorrupt(say(f"the bits of {array.dtype} are read as {name}"))
    if list(array.shape) != shape:
        raise WouldCorrupt(say(f"shape {array.shape} is read as {tuple(shape)}"))
    if not array.flags["C_CONTIGUOUS"]:
        raise WouldCorrupt(say("a non-contiguous array is read in memory order"))


def _describe(node: Any) -> SimpleNamespace:
    """As aclruntime's tensor_desc; -1 for a dynamic size, and a dynamic batch's extra input is hidden."""
    shape = [n if isinstance(n, int) else -1 for n in node.shape]
    return SimpleNamespace(name=node.name, datatype=_DTYPES[node.type], format=2, shape=shape)


def say(message: str) -> str:
    return f"ais_bench stand-in: {message}"
