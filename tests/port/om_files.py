"""Small .om files for the stand-in ais_bench."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from port.models.encoder_record import write_record

SIZE, TOKENS, WIDTH = 8, 4, 1408


def write_om(
    path: Path, batch: int | None = 1, profiles: tuple[int, ...] = (), fp16: str = "", **record: Any
) -> tuple[Path, np.ndarray]:
    """A model from (B, 3, 8, 8) to (B, 4, 1408), and its weights, with which `features` gives what it answers.

    batch None: any of `profiles`. fp16: "input" and "output" may be named in it. record: written beside it where given.
    """
    weights = np.random.default_rng(3).standard_normal((WIDTH, 3, 4, 4), np.float32) * 0.1
    kinds = [TensorProto.FLOAT16 if name in fp16 else TensorProto.FLOAT for name in ("input", "output")]
    first = batch or "batch"
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input"], ["pictures"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["pictures", "weights"], ["map"], strides=[4, 4]),
            helper.make_node("Reshape", ["map", "shape"], ["channels"]),
            helper.make_node("Transpose", ["channels"], ["features"], perm=[0, 2, 1]),
            helper.make_node("Cast", ["features"], ["output"], to=kinds[1]),
        ],
        "encoder",
        [helper.make_tensor_value_info("input", kinds[0], [first, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", kinds[1], [first, TOKENS, WIDTH])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([0, WIDTH, TOKENS]), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if profiles:
        model.metadata_props.add(key="dynamic_batch_size", value=",".join(map(str, profiles)))
    save(model, path)
    if record:
        write_record(path, {"kind": "om", **record})
    return path, weights


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Readable for all and writable for the owner, whatever the umask: newer releases of ais_bench look at it."""
    path.write_bytes(model.SerializeToString())
    path.chmod(0o644)
    return path


def features(images: Any, weights: np.ndarray) -> np.ndarray:
    """What the model of `write_om` answers, (B, 4, 1408) float32, computed by numpy."""
    patches = np.asarray(images, np.float32).reshape(-1, 3, 2, 4, 2, 4).transpose(0, 2, 4, 1, 3, 5)
    return patches.reshape(-1, TOKENS, 48) @ weights.reshape(WIDTH, 48).T


def never(*arguments: Any, **options: Any) -> None:
    """In the place of a call that must not be made."""
    raise AssertionError("ais_bench was called")


# The exporter that ATC can read from; torch 2.0 has no other and no argument to choose.
OLDER_EXPORTER = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}


def export(model: torch.nn.Module, path: Path, batch: int | None = 1) -> Path:
    """Weights inside; batch None: dynamic. Written without the exporter under test, which has its own tests."""
    images = torch.zeros(batch or 1, 3, 224, 224)
    dynamic = None if batch else {"input": {0: "batch"}, "output": {0: "batch"}}
    torch.onnx.export(
        model, (images,), str(path), opset_version=17, input_names=["input"], dynamic_axes=dynamic,
        output_names=["output"], **OLDER_EXPORTER,
    )  # fmt: skip
    return path
