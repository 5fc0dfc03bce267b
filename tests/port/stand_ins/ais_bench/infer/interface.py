"""`InferSession` with the behaviour seen in the real ais_bench 0.0.2, except that it never lets a mistake pass.

Where the real one raises, this raises the same kind of error. Where the real one crashes the process or computes with
wrong data without a word, this raises WouldCrash or WouldCorrupt. Both are BaseExceptions, so that no `except
Exception` of the code under test hides them.
"""

from __future__ import annotations

import enum
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

DEVICES = 8  # as on a machine with eight cards
MODES = ("static", "dymbatch", "dymhw", "dymdims", "dymshape")


class WouldCrash(BaseException):
    """The real ais_bench ends the process with a segmentation fault here."""


class WouldCorrupt(BaseException):
    """The real ais_bench goes on here with bits that mean something else."""


class dtype(enum.Enum):
    """aclruntime's data types; the values are ACL's codes."""

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


class InferSession:
    """One model on one device."""

    def __init__(
        self, device_id: int, model_path: str, acl_json_path: str | None = None, debug: bool = False, loop: int = 1
    ) -> None:
        if type(device_id) is not int or not isinstance(model_path, str):
            raise TypeError(_say(f"InferSession(int, str), got ({device_id!r}, {model_path!r})"))
        if not 0 <= device_id < DEVICES:
            raise RuntimeError(_say(f"[107001][Error code unknown] there is no device {device_id}"))
        _check_path(model_path)
        try:
            self._session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise RuntimeError(_say(f"[1][ACL: invalid parameter] {model_path} is no model: {error}")) from error
        self.device_id = device_id
        self._open = True

    def get_inputs(self) -> list[SimpleNamespace]:
        return [_describe(node) for node in self._session.get_inputs()]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [_describe(node) for node in self._session.get_outputs()]

    def infer(self, feeds: Any, mode: str = "static", custom_sizes: int = 100000) -> list[np.ndarray]:
        if not self._open:
            raise WouldCrash(_say("infer after finalize or free_resource is a segmentation fault"))
        if mode not in MODES:
            raise ValueError(_say(f"infer mode is illegal: {mode!r}"))
        if not isinstance(feeds, list):
            raise WouldCorrupt(_say(f"infer iterates over axis 0 of a bare {type(feeds).__name__}; it takes a list"))
        inputs = self.get_inputs()
        if len(feeds) > len(inputs):
            raise WouldCrash(_say(f"{len(feeds)} arrays for {len(inputs)} inputs are a segmentation fault"))
        if len(feeds) < len(inputs):
            raise RuntimeError(_say(f"[-1][ACL: general failure] {len(feeds)} arrays for {len(inputs)} inputs"))
        for array, wanted in zip(feeds, inputs):
            _check_array(array, wanted, mode)
        outputs = self._session.run(None, {wanted.name: array for wanted, array in zip(inputs, feeds)})
        return [np.ascontiguousarray(output) for output in outputs]

    def free_resource(self) -> None:
        self._open = False

    def finalize(self) -> None:
        self._open = False


def _check_path(path: str) -> None:
    if not os.path.isfile(path):
        raise RuntimeError(_say(f"[1][ACL: invalid parameter] {path} does not exist"))
    if not path.endswith(".om") or Path(path).is_symlink() or not re.fullmatch(r"[_A-Za-z0-9/.-]+", path):
        raise ValueError(_say(f"{path} must end in .om, be no symbolic link and hold only [_A-Za-z0-9/.-]"))


def _check_array(array: Any, wanted: SimpleNamespace, mode: str) -> None:
    if type(array) is not np.ndarray:
        raise RuntimeError(_say(f"type:{type(array)} invalid"))
    shape = list(wanted.shape)
    if -1 in shape:
        if mode == "static":
            raise RuntimeError(_say(f"[-1][ACL: general failure] a dynamic input {shape} in mode static"))
        shape = [given if n == -1 else n for n, given in zip(shape, array.shape)]
    size = int(np.prod(shape)) * np.dtype(_numpy_name(wanted)).itemsize
    if array.nbytes != size:
        raise RuntimeError(_say(f"[-1][ACL: general failure] {array.nbytes} bytes for an input of {size}"))
    if array.dtype != np.dtype(_numpy_name(wanted)):
        raise WouldCorrupt(_say(f"the bits of {array.dtype} are read as {wanted.datatype.name}"))
    if list(array.shape) != shape:
        raise WouldCorrupt(_say(f"shape {array.shape} is read as {tuple(shape)}"))
    if not array.flags["C_CONTIGUOUS"]:
        raise WouldCorrupt(_say("a non-contiguous array is read in memory order"))


def _describe(node: Any) -> SimpleNamespace:
    """What aclruntime's tensor_desc shows; -1 for a dynamic size."""
    shape = [n if isinstance(n, int) else -1 for n in node.shape]
    return SimpleNamespace(name=node.name, datatype=_DTYPES[node.type], format=2, shape=shape)


def _numpy_name(wanted: SimpleNamespace) -> str:
    return "float64" if wanted.datatype is dtype.double else wanted.datatype.name


def _say(message: str) -> str:
    return f"ais_bench stand-in: {message}"
