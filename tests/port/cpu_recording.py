"""A recording of CudaRecording's kind, made on the CPU through tests/recorded_graph.py."""

from __future__ import annotations

import port_package  # noqa: F401 - makes `port`
from port.models import llama_graph

from tests.recorded_graph import RecordedGraph

WINDOW = 8


class LikeCuda(llama_graph.CudaRecording):
    """A mask inside the recording, one recording per window; `made` counts them."""

    made = 0

    def __init__(self, compute, device, batch):
        type(self).made += 1
        self.graph = RecordedGraph()
        with self.graph.capture():
            self.logits = compute()


def record_on_cpu(monkeypatch):
    """Let the CPU record, in windows that short prompts cross."""
    monkeypatch.setattr(llama_graph, "WINDOW", WINDOW)
    monkeypatch.setitem(llama_graph.RECORDINGS, "cpu", LikeCuda)
    LikeCuda.made = 0
