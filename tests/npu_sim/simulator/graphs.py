"""torch.npu.NPUGraph and torch.npu.graph for the simulated device, on the recorder of tests/recorded_graph.py.

The stand-in libraries record nothing in a capture, and a replay of the real class would do nothing. These have the
same names and arguments. They show the order of calls and what is frozen, never a device's graph.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recorded_graph import RecordedGraph


class NPUGraph(RecordedGraph):
    """As torch.npu.NPUGraph: made empty, captured through `graph`, then `update` and `replay`."""


class graph:
    """As torch.npu.graph: `with graph(npu_graph, auto_dispatch_capture=True): …`"""

    def __init__(
        self,
        npu_graph: NPUGraph,
        pool: Any = None,
        stream: Any = None,
        auto_dispatch_capture: bool = False,
        capture_error_mode: str = "global",
    ) -> None:
        self._context: AbstractContextManager = npu_graph.capture(auto_dispatch_capture)

    def __enter__(self) -> None:
        self._context.__enter__()

    def __exit__(self, *problem: Any) -> bool | None:
        return self._context.__exit__(*problem)


def install() -> None:
    torch.npu.NPUGraph, torch.npu.graph = NPUGraph, graph
