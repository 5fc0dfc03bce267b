"""One file for the weights of an ONNX graph: written tensor by tensor, named after its content."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

INSIDE = 64 * 1024  # bytes: vectors and constants stay in the graph, where ATC's fusions look at them; matrices do not
PAGE = 4096  # onnx.proto: offsets should be multiples of the page size, so that a reader can map them


class WeightsFile:
    """A sink for vit_graph. `place` gives the file its name, NAME.<8 hex digits>.weights, and tells the tensors.

    The name changes with the content, so a new export never touches the file that an earlier graph points into.
    The disk takes its time over gigabytes, and the proof does not need it: it goes on behind `place`, until `on_disk`.
    """

    def __init__(self, folder: Path, name: str, progress: Callable[[int], Any] = lambda count: None) -> None:
        """progress: called with the number of bytes written since the last call."""
        self.folder, self.name, self.progress = folder, name, progress
        self.unnamed = folder / f"{name}.weights"
        self.sha256 = hashlib.sha256()
        self._tensors: list[TensorProto] = []
        self._file = self.unnamed.open("wb")
        self._syncing = threading.Thread(target=self._sync, daemon=True)  # of a run that fails, nobody waits for it
        self._failed: BaseException | None = None

    def put(self, name: str, array: np.ndarray) -> TensorProto:
        """Small: into the proto. Large: to the end of the file, and the proto says where."""
        if array.nbytes < INSIDE:
            return numpy_helper.from_array(array, name)
        data = memoryview(np.ascontiguousarray(array)).cast("B")
        self._write(bytes(-self._file.tell() % PAGE))
        kind = TensorProto.FLOAT16 if array.dtype == np.float16 else TensorProto.FLOAT
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("offset", self._file.tell()), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(value))
        self._write(data)
        self._tensors.append(tensor)
        return tensor

    def _write(self, data: Any) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self.progress(len(data))

    def discard(self) -> None:
        """Nobody wants it."""
        self._file.close()

    def on_disk(self) -> None:
        """Wait until the placed file is on the disk. Raises OSError where it cannot get there."""
        self._syncing.join()
        if self._failed:
            raise self._failed

    def _sync(self) -> None:
        try:
            with self._file:
                os.fsync(self._file.fileno())
        except BaseException as error:  # for on_disk, or nobody would hear of it
            self._failed = error

    def place(self, tensors: Any) -> Path | None:
        """Nothing more comes: name the file, and write its name into those of `tensors` that lie in it.

        None when none does. From now on the file goes to the disk.
        """
        self._file.flush()
        self._syncing.start()
        if not self._tensors:
            self.unnamed.unlink()
            return None
        named = self.folder / f"{self.name}.{self.sha256.hexdigest()[:8]}.weights"
        os.replace(self.unnamed, named)
        for tensor in tensors:
            if tensor.data_location == TensorProto.EXTERNAL:
                tensor.external_data.add(key="location", value=named.name)
        return named
