"""An exported encoder on the disk: NAME.onnx, NAME.<8 hex digits>.weights and NAME.onnx.json, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from ..models.encoder_record import read_record, record_path, write_record
from ..models.eva_vit_weights import Geometry, StateDict
from ..models.image_encoder import LN_VISION_KEY
from .vit_graph import vit_graph
from .weights_file import WeightsFile

Progress = Callable[[int], Any]
ITEM = {"fp32": 4, "mixed": 2}  # bytes of a number in a matrix


@dataclass(frozen=True)
class Options:
    """What decides how the graph looks. batches: one number for a fixed batch, several for ATC's profiles."""

    opset: int
    precision: str  # fp32 | mixed
    batches: tuple[int, ...]
    image_size: int
    ln_vision: str  # blip2 | default

    def asdict(self) -> dict[str, Any]:
        return {**asdict(self), "batches": list(self.batches)}


def size_of(state: StateDict, precision: str) -> int:
    """Bytes of the exported weights, about."""
    return sum(tensor.numel() for tensor in state.values()) * ITEM[precision]


def write(folder: Path, name: str, geometry: Geometry, state: StateDict, options: Options, progress: Progress) -> Path:
    """Write the graph and its weights into `folder`, which is nobody's yet. -> the .onnx file.

    Raises ValueError for a weight that the precision cannot hold, OSError where the disk is full.
    """
    sink = WeightsFile(folder, name, progress)
    batch = options.batches[0] if len(options.batches) == 1 else None
    try:
        model = vit_graph(geometry, state, sink, options.opset, options.precision == "mixed", batch)
    except BaseException:
        sink.close()
        raise
    sink.place(model.graph.initializer)
    model.metadata_props.add(key=LN_VISION_KEY, value=options.ln_vision)
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def weights_file(path: Path) -> Path | None:
    """The one data file that the graph names; None where all weights are inside."""
    graph = onnx.load(str(path), load_external_data=False).graph
    names = {entry.value for it in graph.initializer for entry in it.external_data if entry.key == "location"}
    return path.parent / names.pop() if names else None


def node_counts(path: Path) -> dict[str, int]:
    graph = onnx.load(str(path), load_external_data=False).graph
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))


def sha256(path: Path, progress: Progress = lambda count: None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()


def is_current(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether `path` is a complete, proven export of just that: `wanted` are entries of its record."""
    with contextlib.suppress(ValueError, OSError):
        record = read_record(path) if path.is_file() else {}
        if all(record.get(key) == value for key, value in wanted.items()) and record.get("sha256") == sha256(path):
            data = weights_file(path)
            return data is None or (data.is_file() and data.stat().st_size == record.get("weights_bytes"))
    return False


def publish(unproven: Path, name: str, record: dict[str, Any]) -> Path:
    """Move the proven files out of the folder `unproven`, one up; -> the .onnx file there.

    Weights first, under their own new name, then the graph in one step: until then the earlier export is whole, and
    from then on the new one. Only then the earlier one's weights are removed.
    """
    folder, graph = unproven.parent, unproven / f"{name}.onnx"
    data = weights_file(graph)
    record = {**record, "sha256": sha256(graph), "weights_file": data and data.name}
    record["weights_bytes"] = data.stat().st_size if data else 0
    if data:
        os.replace(data, folder / data.name)
    record_path(folder / graph.name).unlink(missing_ok=True)
    os.replace(graph, folder / graph.name)
    write_record(folder / graph.name, record)
    for old in folder.glob(f"{name}.{'[0-9a-f]' * 8}.weights"):
        if data is None or old.name != data.name:
            old.unlink()
    shutil.rmtree(unproven, ignore_errors=True)
    return folder / graph.name


@contextlib.contextmanager
def unproven_folder(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder for files that nobody may use yet; removed when the export breaks off."""
    path = folder / f"{name}.unproven"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def versions() -> dict[str, str]:
    modules = {"torch": torch, "onnx": onnx, "onnxruntime": onnxruntime, "numpy": np}
    return {"python": platform.python_version(), **{name: it.__version__ for name, it in modules.items()}}
