"""`InferSession` of an older and of a newer release. See ais_bench/__init__.py: this is a stand-in."""

from __future__ import annotations

import time
import weakref
from types import SimpleNamespace
from typing import Any

import aclruntime
import numpy as np
from aclruntime import RELEASE, WouldCorrupt, WouldCrash, say

if RELEASE == "new":
    from ais_bench.infer.interface_check import check_device_range_valid, check_model_path_legality

__all__ = ["InferSession", "WouldCorrupt", "WouldCrash"]

MODES = ("static", "dymbatch", "dymhw", "dymdims", "dymshape")
_sessions: weakref.WeakSet[aclruntime.InferenceSession] = weakref.WeakSet()


class _Session:
    """What both releases have."""

    def __init__(
        self, device_id: int, model_path: str, acl_json_path: str | None = None, debug: bool = False, loop: int = 1
    ) -> None:
        self.device_id, self.model_path = device_id, model_path
        self.session = aclruntime.InferenceSession(model_path, device_id)
        _sessions.add(self.session)
        self._times: list[tuple[float, float]] = []

    def get_inputs(self) -> list[SimpleNamespace]:
        return self.session.get_inputs()

    def get_outputs(self) -> list[SimpleNamespace]:
        return self.session.get_outputs()

    def _infer(self, feeds: Any, mode: str) -> list[np.ndarray]:
        if not isinstance(feeds, list):
            raise WouldCorrupt(say(f"infer iterates over axis 0 of a bare {type(feeds).__name__}; it takes a list"))
        for feed in feeds:
            if type(feed) is not np.ndarray:
                raise RuntimeError(say(f"type:{type(feed)} invalid"))
        if mode == "dymbatch":
            self._set_batch(feeds)
        elif mode == "static":
            self.session.set_staticbatch()
        else:
            raise RuntimeError(say(f"this is no model for mode {mode}"))
        started = time.perf_counter()
        outputs = self.session.run(feeds)
        self._times.append((started, time.perf_counter()))
        return outputs

    def _set_batch(self, feeds: list[np.ndarray]) -> None:
        inputs = self.get_inputs()
        if len(feeds) != len(inputs):
            raise RuntimeError(say("input datas and intensors nums not matched!"))
        dynamic = [feed.shape[i] for feed, desc in zip(feeds, inputs) for i, n in enumerate(desc.shape) if n == -1]
        if not dynamic:
            raise RuntimeError(say("not a dymbatch model!"))
        self.session.set_dynamic_batchsize(dynamic[0])


class _OldSession(_Session):
    def infer(self, feeds: Any, mode: str = "static", custom_sizes: int = 100000) -> list[np.ndarray]:
        if mode not in MODES:
            raise WouldCorrupt(say(f"mode {mode!r} is passed over, and the shape of the last call is taken"))
        return self._infer(feeds, mode)

    def sumary(self) -> SimpleNamespace:
        return SimpleNamespace(exec_time_list=[1e3 * (end - start) for start, end in self._times])

    def reset_sumaryinfo(self) -> None:
        self._times.clear()

    def finalize(self) -> None:
        _finalize()


class _NewSession(_Session):
    def __init__(
        self, device_id: int, model_path: str, acl_json_path: str | None = None, debug: bool = False, loop: int = 1
    ) -> None:
        check_model_path_legality(model_path)
        check_device_range_valid(device_id)
        super().__init__(device_id, model_path, acl_json_path, debug, loop)

    def infer(
        self, feeds: Any, mode: str = "static", custom_sizes: int = 100000, out_array: bool = True
    ) -> list[np.ndarray]:
        if mode not in MODES:
            raise ValueError(say(f"infer mode is illegal: {mode!r}"))
        if isinstance(feeds, list):
            feeds = [np.ascontiguousarray(feed) if type(feed) is np.ndarray else feed for feed in feeds]
        return self._infer(feeds, mode)

    def set_context(self) -> None:
        self.session.set_context()

    def free_resource(self) -> None:
        self.session.free_resource()

    def summary(self) -> SimpleNamespace:
        return SimpleNamespace(exec_time_list=list(self._times))

    def reset_summaryinfo(self) -> None:
        self._times.clear()

    @staticmethod
    def finalize() -> None:
        _finalize()


def _finalize() -> None:
    for session in list(_sessions):
        session.lose()
    aclruntime.finalize()


InferSession = _NewSession if RELEASE == "new" else _OldSession
