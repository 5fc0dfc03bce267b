"""An exported encoder on the disk: NAME.onnx, NAME.<8 hex digits>.weights and NAME.onnx.json, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

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


class Written(NamedTuple):
    """path: the .onnx file, which can be read at once. on_disk: waits until its weights are there, too."""

    path: Path
    on_disk: Callable[[], None]


def write(
    folder: Path, name: str, geometry: Geometry, state: StateDict, options: Options, progress: Progress
) -> Written:
    """Write the graph and its weights into `folder`, which is nobody's yet.

    Raises ValueError for a weight that the precision cannot hold, OSError where the disk is full.
    """
    sink = WeightsFile(folder, name, progress)
    batch = options.batches[0] if len(options.batches) == 1 else None
    try:
        model = vit_graph(geometry, state, sink, options.opset, options.precision == "mixed", batch)
    except BaseException:
        sink.discard()
        raise
    sink.place(model.graph.initializer)
    model.metadata_props.add(key=LN_VISION_KEY, value=options.ln_vision)
    path = folder / f"{name}.onnx"
    with path.open("wb") as file:
        file.write(model.SerializeToString())
        file.flush()
        os.fsync(file.fileno())
    return Written(path, sink.on_disk)


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


def is_current(path: Path, wanted: dict[str, Any], bound: float) -> bool:
    """Whether `path` is a complete export of just that, proven within `bound`: `wanted` are entries of its record."""
    with contextlib.suppress(ValueError, OSError, KeyError, TypeError):
        record = read_record(path) if path.is_file() else {}
        same = all(record.get(key) == value for key, value in wanted.items())
        if same and record["errors"]["bound"] <= bound and record["sha256"] == sha256(path):
            data = weights_file(path)
            return data is None or sha256(data).startswith(data.name.split(".")[-2])
    return False


def publish(unproven: Path, final: Path, record: dict[str, Any]) -> None:
    """Move the proven files out of the folder `unproven` to `final`.

    All is on the disk before, so what is left are renames. Weights first, under their own new name, then the graph in
    one step: until then the earlier export is whole, and from then on the new one. Only then the earlier one's weights
    are removed.
    """
    folder, graph = final.parent, unproven / final.name
    data = weights_file(graph)
    record = {**record, "sha256": sha256(graph), "weights_file": data and data.name}
    record["weights_bytes"] = data.stat().st_size if data else 0
    written = write_record(graph, record)
    if data:
        os.replace(data, folder / data.name)
    record_path(final).unlink(missing_ok=True)
    os.replace(graph, final)
    os.replace(written, record_path(final))
    for old in folder.glob(f"{final.stem}.{'[0-9a-f]' * 8}.weights"):
        if data is None or old.name != data.name:
            old.unlink()


@contextlib.contextmanager
def unproven_folder(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder for files that nobody may use yet, this process's alone; removed in the end, however it ends.

    What an earlier run left, that was killed, goes first. Raises OSError where another run writes there just now.
    """
    path = folder / f"{name}.unproven"
    path.mkdir(parents=True, exist_ok=True)
    with (path / "lock").open("w") as lock:
        try:
            with _without_locks():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock.fileno()).st_ino != (path / "lock").stat().st_ino:
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as error:
            raise OSError(f"another export writes {name} there just now; wait for it") from error
        work = path / "work"
        try:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)  # before the lock: from its end on, the next run's work is here
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _without_locks() -> Iterator[None]:
    """Go on where the file system knows no locks (some of clusters)."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise


def versions() -> dict[str, str]:
    modules = {"torch": torch, "onnx": onnx, "onnxruntime": onnxruntime, "numpy": np}
    return {"python": platform.python_version(), **{name: it.__version__ for name, it in modules.items()}}
