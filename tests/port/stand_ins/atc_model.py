"""The stand-in ATC's work on the model, once its arguments are checked; see `atc` beside this file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Refused(Exception):
    """ATC's message."""


def convert(options: dict[str, str], shape: list[int], batches: list[int], modes: set[str]) -> None:
    model = load(Path(options["model"]), 4096 if "old" in modes else 1)
    check_shape(model, shape, batches)
    check_types(model, options)
    write(model, options, batches, modes)


def load(path: Path, page: int) -> onnx.ModelProto:
    """The model with its weights inside. Weights lie in the current folder, offsets count in pages."""
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        if set(said) - {"location", "offset", "length"}:
            raise Refused(f"E10001: Value {said} for parameter checksum is invalid. Reason: stol")
        file, offset = Path(said["location"]), int(said.get("offset", 0)) * page
        if file.name != str(file) or not file.is_file():
            raise Refused(f"E13001: Failed to open file [{file}]. Reason: No such file or directory.")
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        count = int(np.prod(tensor.dims))
        if offset + count * kind.itemsize > file.stat().st_size:
            raise Refused(f"E19999: Inner Error! read {file} from {offset}: past its end")
        array = np.fromfile(file, kind, count, offset=offset).reshape(tuple(tensor.dims))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def check_shape(model: onnx.ModelProto, shape: list[int], batches: list[int]) -> None:
    sizes = [size.dim_value or -1 for size in model.graph.input[0].type.tensor_type.shape.dim]
    if len(sizes) != len(shape):
        raise Refused(f"E10049: Dimension count {len(shape)} configured in --input_shape does not match {len(sizes)}.")
    wrong = [wanted for there, wanted in zip(sizes, shape) if there not in (-1, wanted)]
    if wrong or (batches and sizes[0] != -1):
        raise SystemExit(f"stand-in: --input_shape {shape} for a model of {sizes}: nobody knows what becomes of it")


def check_types(model: onnx.ModelProto, options: dict[str, str]) -> None:
    """Documented as not supported: a float32 Conv where the types are kept."""
    kept = options.get("precision_mode_v2") == "origin" or options.get("precision_mode") == "must_keep_origin_dtype"
    floats = {it.name for it in model.graph.initializer if it.data_type == TensorProto.FLOAT}
    if kept and any(floats & set(node.input) for node in model.graph.node if node.op_type == "Conv"):
        raise Refused(
            "EZ3002: Optype [Conv2D] of Ops kernel [AIcoreEngine] is unsupported. Reason: float32 is not supported."
        )


def write(model: onnx.ModelProto, options: dict[str, str], batches: list[int], modes: set[str]) -> None:
    if not batches and not model.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    if {"wrong", "nan"} & modes:
        spoil(model, np.float32("nan") if "nan" in modes else np.float32(1.5))
    props = {"soc_version": options["soc_version"]}  # and nothing of the ONNX model's: an OM does not keep it
    if batches:
        props["dynamic_batch_size"] = ",".join(map(str, batches))
    helper.set_model_props(model, props)
    suffix = "_linux_aarch64.om" if "suffix" in modes else ".om"
    Path(f"{options['output']}{suffix}").write_bytes(model.SerializeToString())
    os.chmod(f"{options['output']}{suffix}", 0o666)  # as a careless umask would
    Path("fusion_result.json").write_text("{}")
    Path("kernel_meta").mkdir(exist_ok=True)


def spoil(model: onnx.ModelProto, factor: np.float32) -> None:
    graph = model.graph
    last = next(node for node in graph.node if graph.output[0].name in node.output)
    last.output[list(last.output).index(graph.output[0].name)] = "unspoiled"
    graph.initializer.append(numpy_helper.from_array(np.array(factor), "spoil"))
    graph.node.append(helper.make_node("Mul", ["unspoiled", "spoil"], [graph.output[0].name]))
