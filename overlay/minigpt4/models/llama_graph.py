"""One decode step, recorded once as a graph of the device and replayed for every token (CUDA and NPU).

A step of Vicuna-7B is some three hundred small operations: launched one by one they take the host longer than the
device needs to read the weights. A recording has no host values in it but those frozen when it was made, so all that
changes from token to token lives in tensors (`tokens`, `slots`), or is replaced at each replay (the NPU's key
lengths). Neither kind has run on a device: tests replay the same steps through a recorder of PyTorch operations.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from typing import Any, Callable

import torch
from torch import Tensor

from .device import compute_dtype, select_device
from .llama_cache import KVCache, Step
from .ops_check import graph_failure

WINDOW = 512  # slots: capacities are multiples, so that the next turn of a conversation can use the same recording

_CHOOSING = threading.Lock()


class CudaRecording:
    """A CUDA graph. The attention's reach is frozen: one recording per WINDOW of the cache, with a mask inside it."""

    needs_mask = True

    def __init__(self, compute: Callable[[], Tensor], device: torch.device, batch: int) -> None:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # kernels choose their algorithms and workspaces before they are recorded
            for _ in range(2):
                compute()
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do on the device meanwhile, such as encoding a picture, breaks no recording
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.logits = compute()

    def replay(self, length: int) -> Tensor:
        self.graph.replay()
        return self.logits

    @staticmethod
    def reach(length: int, capacity: int) -> int:
        """The slots that the recording which serves `length` reads."""
        return min(-(-length // WINDOW) * WINDOW, capacity)

    @staticmethod
    def available() -> str | None:
        """None, or why nothing can be recorded."""
        return None


class NpuRecording:
    """An NPUGraph. The attention's key lengths are host values, which `update` replaces in every recorded layer.

    torch_npu/npu/graphs.py (beta): `auto_dispatch_capture` records how to update them; releases 2.3.1.post6 and
    2.4.0.post4 lack it, and a replay would attend to the recorded length for ever.
    """

    needs_mask = False

    def __init__(self, compute: Callable[[], Tensor], device: torch.device, batch: int) -> None:
        compute()  # what is loaded or compiled at first use must not happen inside the recording
        torch.npu.synchronize(device)
        self.batch = batch
        self.graph = torch.npu.NPUGraph()
        with torch.npu.graph(self.graph, auto_dispatch_capture=True):
            self.logits = compute()

    def replay(self, length: int) -> Tensor:
        self.graph.update(cpu_update_input=[{"actual_seq_lengths_kv": [length] * self.batch}])
        self.graph.replay()
        return self.logits

    @staticmethod
    def reach(length: int, capacity: int) -> int:
        return capacity

    @staticmethod
    def available() -> str | None:
        graph = getattr(torch.npu, "graph", None)
        if graph is None or "auto_dispatch_capture" not in inspect.signature(graph).parameters:
            return "this torch_npu cannot update a recorded attention (auto_dispatch_capture is missing)"
        return None


RECORDINGS: dict[str, Any] = {"cuda": CudaRecording, "npu": NpuRecording}


class RecordedStep:
    """A decode step over one cache, with everything that changes in tensors of its own."""

    @torch.inference_mode(False)  # tensors made in inference mode could not be written to outside it
    @torch.no_grad()
    def __init__(self, model: Any, recording: Any, batch: int, capacity: int) -> None:
        self.model = weakref.ref(model)  # which keeps this: each would wait for the other to be freed
        self.recording = recording
        self.cache: KVCache = model.new_cache(batch, -(-capacity // WINDOW) * WINDOW)
        self.tokens = torch.zeros(batch, dtype=torch.long, device=model.device)
        self.slots = torch.zeros(1, dtype=torch.long, device=model.device)
        self.pads = torch.zeros(batch, dtype=torch.long, device=model.device)
        self.visible = torch.ones(batch, self.cache.capacity, dtype=torch.bool, device=model.device)
        self.padded = False
        self.recordings: dict[tuple[int, bool], Any] = {}
        self.user: Callable[[], Any] = lambda: None  # the Run that it serves

    def end(self) -> None:
        """The next prompt may use it."""
        self.user = lambda: None

    def begin(self, mask: Tensor) -> None:
        """Start a new prompt: mask (B, T) bool, False for padding on the left."""
        self.cache.length = 0
        self.padded = self.recording.needs_mask or not bool(mask.all())
        self.pads.copy_((~mask).sum(1))
        self.visible.fill_(True)
        self.visible[:, : mask.shape[1]] = mask

    def __call__(self, tokens: Tensor) -> Tensor:
        """Append tokens (B,) -> the scores (B, V) that follow; overwritten by the next call."""
        length = self.cache.length + 1
        self.tokens.copy_(tokens)
        self.slots.fill_(self.cache.length)
        reach = self.recording.reach(length, self.cache.capacity)
        if (reach, self.padded) not in self.recordings:
            self.recordings[reach, self.padded] = self._record(reach)
        logits = self.recordings[reach, self.padded].replay(length)
        self.cache.length = length
        return logits

    def _record(self, reach: int) -> Any:
        model, device, batch = self.model(), self.tokens.device, len(self.tokens)
        select_device(device)
        compute = functools.partial(self._compute, model, reach)
        if model.compile_step:  # fuses what lies between the products; a minute at the first token
            compute = torch.compile(compute, fullgraph=True, dynamic=False)
        return self.recording(compute, device, batch)

    def _compute(self, model: Any, reach: int) -> Tensor:
        """What is recorded. Computing it again changes nothing: the same slot gets the same keys."""
        decoder = model.model
        x = decoder.embed_tokens(self.tokens[:, None])
        positions = (self.slots - self.pads)[:, None]
        visible = self.visible if self.padded else None
        step = Step(model.config, x, positions, visible, self.cache, self.slots, reach)
        return model.logits(decoder.run(x, step)[:, -1])


def recorded_step(model: Any, batch: int, capacity: int, mask: Tensor, user: Any) -> RecordedStep | None:
    """The recorded step for a prompt with `mask`, begun; None where steps are computed one by one.

    The last one is kept with the model and used again while batch and capacity allow it: a conversation records once.
    It belongs to `user`, a Run, until that ends or is gone: an answer that begins meanwhile would overwrite its cache.
    """
    recording = _recording(model)
    if recording is None:
        return None
    with _CHOOSING:
        kept = model.recording
        if kept is None or kept.cache.batch != batch or kept.cache.capacity < capacity:
            model.recording = None  # free its cache before the next one is made
            kept = model.recording = RecordedStep(model, recording, batch, capacity)
        elif kept.user() is not None:
            return None
        kept.user = weakref.ref(user)
    kept.begin(mask)
    return kept


def why_not(device: torch.device) -> str | None:
    """None where a decode step can be recorded, or why it cannot."""
    recording = RECORDINGS.get(device.type)
    return f"there is no graph to record on {device.type}" if recording is None else recording.available()


def trouble(device: torch.device) -> str | None:
    """Like `why_not`, and on an NPU what `check_graph` finds there, once for its software (ops_check.py)."""
    reason = why_not(device)
    if reason is None and device.type == "npu":
        from .graph_check import check_graph

        return graph_failure(device, functools.partial(check_graph, dtype=compute_dtype(device)))
    return reason


def _recording(model: Any) -> Any:
    if model.graph not in ("auto", "on", "off"):
        raise ValueError(f"graph is {model.graph!r}: write auto, on or off.")
    if model.graph == "off":
        return None
    reason = trouble(model.device)
    if reason is None:
        return RECORDINGS[model.device.type]
    if model.graph == "on":
        raise ValueError(f"A recorded decode step was asked for, but {reason}.")
    return None
