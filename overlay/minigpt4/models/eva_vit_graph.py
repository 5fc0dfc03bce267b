"""EvaViT replayed as a graph of the device, one recording per number of pictures (CUDA).

A picture takes ViT-g some four hundred small operations beside its matrix products, and a recording launches them all
at once. `compile_blocks` fuses them too (norms, casts, GELU, residual sums).

It has never run on a GPU: tests replay the same computation through a recorder of PyTorch operations, and compile for
the CPU. On an NPU the operations run one by one: nobody could try anything else there.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any, Callable

import torch
from torch import Tensor

from .device import select_device
from .eva_vit_model import Block, EvaViT
from .llama_graph import CudaRecording
from .ops_compare import in_a_line

RECORDINGS: dict[str, Any] = {"cuda": CudaRecording}
KEPT = 4  # numbers of pictures: each recording holds memory of its own for what lies between the layers


class FastEvaViT:
    """Calls an EvaViT the fastest way its device has: images (B, 3, S, S) -> features (B, tokens, width), float32.

    The first call with a number of pictures runs the operations one by one, so that a single picture waits for nothing;
    the second one records. What cannot be recorded or compiled is said in the log, once, and goes on without.
    """

    def __init__(self, model: EvaViT, device: torch.device, compile_blocks: bool = False) -> None:
        """compile_blocks: let torch.compile fuse a block's operations before they are recorded, which takes tens of
        seconds, once per number of pictures. May be set later, before the second call."""
        self.model, self.device, self.compile_blocks = model, device, compile_blocks
        self._recording = RECORDINGS.get(device.type)
        self._seen: set[torch.Size] = set()
        self._recorded: dict[torch.Size, _Recorded] = {}
        self._turn = threading.Lock()  # a recording has one place for pictures and one for features

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if self._recording is None or images.shape not in self._seen:
            features = self.model(images.to(self.device))
            self._seen.add(images.shape)
            return features
        with self._turn:
            recorded = self._recorded.get(images.shape) or self._record(images)
            if recorded is None:
                return self.model(images.to(self.device))
            return recorded(images)

    def _record(self, images: Tensor) -> _Recorded | None:
        """As fast as it can be had: compiled, else as it is, else None and no further try."""
        if self._recording is None:  # another thread has tried meanwhile
            return None
        while len(self._recorded) >= KEPT:
            del self._recorded[next(iter(self._recorded))]  # the oldest
        for compiled in (True, False) if self.compile_blocks else (False,):
            run_block = torch.compile(Block.forward, fullgraph=True, dynamic=False) if compiled else None
            compute = functools.partial(self.model, run_block=run_block)
            try:
                recorded = _Recorded(self._recording, compute, images, self.device)
            except Exception as error:  # torch.compile: whatever its compilers raise
                what = "compiled" if compiled else "recorded"
                logging.warning("The image encoder cannot be %s (%s); going on without.", what, in_a_line(error))
                self.compile_blocks = False
                continue
            self._recorded[images.shape] = recorded
            return recorded
        self._recording = None
        return None


class _Recorded:
    """One recording and the tensor that it reads its pictures from."""

    @torch.inference_mode(False)  # tensors made in inference mode could not be written to outside it
    @torch.no_grad()
    def __init__(
        self, recording: Any, compute: Callable[[Tensor], Tensor], images: Tensor, device: torch.device
    ) -> None:
        select_device(device)
        self.images = torch.zeros(images.shape, dtype=torch.float32, device=device)  # whatever dtype pictures come in
        self.graph = recording(functools.partial(compute, self.images), device, len(images))

    def __call__(self, images: Tensor) -> Tensor:
        self.images.copy_(images)
        return self.graph.replay(0).clone()  # the next replay writes over it; the 0 is a length that only NPUs read
