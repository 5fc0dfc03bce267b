"""What ATC would not take of an ONNX graph, said before ATC runs for minutes: lint, lint_file.

Nodes are compared with atc_operators.json (operator_rules.py); here is what concerns the graph as a whole: names and
shapes of input and output, nodes that compute nothing, and the file of the weights. Weights are not loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, shape_inference

from .operator_rules import FAULT, Finding, check_node, dtype_name, node_name, table

INPUT, OUTPUT = "input", "output"
SMALL = 1024  # bytes: larger weights are not needed to infer shapes
ITEM = {"float": 4, "float16": 2, "bfloat16": 2, "double": 8, "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2}
ITEM.update({"int32": 4, "uint32": 4, "int64": 8, "uint64": 8})


def lint_file(path: Path, one_file: bool = True) -> list[Finding]:
    """`lint` of the file `path`, with its weights beside it. Raises ValueError where it is no ONNX file."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has another name in every release
        raise ValueError(f"{path} cannot be read as an ONNX file: export it again. ({error})") from error
    return lint(model, path.parent, one_file)


def lint(model: ModelProto, folder: Path | None = None, one_file: bool = True) -> list[Finding]:
    """What ATC would not take of `model`; [] when there is nothing. Nodes with the same fault are counted as one.

    folder: where the external data lie; None leaves them out. one_file: more than one such file is a fault, as it is
    for an export of this port; ATC itself takes any number.
    """
    return _merged(finding for finding in _examine(model, folder, one_file) if finding.level == FAULT)


def remarks(model: ModelProto) -> list[Finding]:
    """Where the documentation says less than ATC's public sources, or has a limit that nothing here can check."""
    return _merged(finding for finding in _examine(model, None, False) if finding.level != FAULT)


def _merged(findings: Iterator[Finding]) -> list[Finding]:
    """The first of all that say the same, with their number."""
    counts: dict[Finding, int] = {}
    first: dict[Finding, Finding] = {}
    for finding in findings:
        key = replace(finding, node="")
        first.setdefault(key, finding)
        counts[key] = counts.get(key, 0) + 1
    return [replace(finding, count=counts[key]) for key, finding in first.items()]


def _examine(model: ModelProto, folder: Path | None, one_file: bool) -> Iterator[Finding]:
    opset = next((it.version for it in model.opset_import if it.domain in ("", "ai.onnx")), 0)
    low, high = table()["opsets"]
    if not low <= opset <= high:
        what, why = f"the graph has opset {opset or 'nothing'}", f"ATC reads opset {low} to {high}."
        yield Finding("", "", what, why, "Export with opset 13.")
    if not opset:
        return
    yield from _ends(model)
    yield from _useless(model)
    yield from _external(model, folder, one_file)
    try:
        dtypes, ranks = _known_types(model)
    except Exception as error:  # onnx's own InferenceError, TypeError, RuntimeError, by release
        why = f"onnx cannot infer the shapes of the graph: {error}"
        yield Finding("", "", "the graph contradicts itself", why, "Export it again.")
        dtypes, ranks = {}, {}
    for node in model.graph.node:
        inputs = [dtypes.get(name, -1) for name in node.input]
        yield from check_node(node, opset, inputs, [ranks.get(name, -1) for name in node.input])


def _ends(model: ModelProto) -> Iterator[Finding]:
    """Names, dtypes and dimensions of what goes in and comes out; the commands and image_encoder count on them."""
    weights = {it.name for it in model.graph.initializer}
    ends = ((INPUT, [it for it in model.graph.input if it.name not in weights]), (OUTPUT, list(model.graph.output)))
    for expected, values in ends:
        if [it.name for it in values] != [expected]:
            names = ", ".join(it.name for it in values) or "nothing"
            why = f"The commands of this port pass one tensor with the name {expected}."
            yield Finding("", "", f"the graph's {expected} is {names}", why, f"Name it {expected}.")
        for value in values:
            kind = value.type.tensor_type
            if kind.elem_type != TensorProto.FLOAT:
                name = dtype_name(kind.elem_type)
                why = "Pictures and features are float32 at both ends; ATC casts inside."
                yield Finding("", "", f"the {expected} {value.name} is {name}", why, "Cast inside the graph.")
    for value in ends[0][1]:
        yield from _dimensions(value)


def _dimensions(value: Any) -> Iterator[Finding]:
    kind, fix = value.type.tensor_type, "Fix it, with --image-size."
    if not kind.HasField("shape"):
        yield Finding("", "", f"the input {value.name} has no shape", "ATC then needs every size by hand.", fix)
    for position, dimension in enumerate(kind.shape.dim):
        if position and dimension.dim_value < 1:
            why = "Only the first one, the batch, may be open (ATC's --dynamic_batch_size)."
            what = f"dimension {position} of the input {value.name} is open"
            yield Finding("", "", what, why, fix)


def _useless(model: ModelProto) -> Iterator[Finding]:
    """Nodes and weights that nobody reads, and nodes that could be constants."""
    needed = {it.name for it in model.graph.output}
    for node in reversed(model.graph.node):
        if needed.isdisjoint(node.output):
            fix = "Remove it (the exporter's constant folding does)."
            yield Finding(node_name(node), node.op_type, "nobody uses its output", "ATC would compile it.", fix)
        else:
            needed.update(node.input)
    for weight in model.graph.initializer:
        if weight.name not in needed:
            yield Finding(weight.name, "", "nobody uses this weight", "ATC would carry it along.", "Remove it.")
    constant = {it.name for it in model.graph.initializer} | {""}
    for node in model.graph.node:
        if constant.issuperset(node.input) and (node.input or node.op_type == "Constant"):
            constant.update(node.output)
            if node.op_type != "Constant":
                why = "ATC would compute it once more for every model, in its own precision."
                fix = "Fold it into a weight (the exporter's constant folding does)."
                yield Finding(node_name(node), node.op_type, "has constant inputs only", why, fix)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _external(model: ModelProto, folder: Path | None, one_file: bool) -> Iterator[Finding]:
    """The files beside the graph: there, long enough for what the graph reads of them, and not more than one."""
    ends: dict[str, int] = {}  # file -> how many bytes it must have
    again = "Copy the graph and its weights together, or export again."
    for tensor in (it for it in _tensors(model) if it.data_location == TensorProto.EXTERNAL):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name, item = entries.get("location", ""), ITEM.get(dtype_name(tensor.data_type))
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            why = "ATC and onnxruntime look for it in the graph's folder."
            yield Finding(tensor.name, "", f"the weights are in {name or 'no file'}", why, again)
            continue
        needed = prod(tensor.dims) * (item or 0)
        offset, length = entries.get("offset", "0"), entries.get("length", str(needed))
        if not (offset.isdigit() and length.isdigit()):
            yield Finding(tensor.name, "", f"offset {offset!r}, length {length!r}", "These are no numbers.", again)
            continue
        if item and int(length) != needed:
            why = f"It has {'x'.join(map(str, tensor.dims))} numbers, which are {needed} bytes."
            yield Finding(tensor.name, "", f"the graph reads {length} bytes of {name}", why, again)
        ends[name] = max(ends.get(name, 0), int(offset) + int(length))
    if folder:
        yield from _files(folder, ends, again)
    if one_file and len(ends) > 1:
        why = "Files of several exports in one folder get mixed up."
        fix = "Export with onnx_model_export.py, which writes one."
        yield Finding("", "", f"the weights are in {len(ends)} files", why, fix)


def _files(folder: Path, ends: dict[str, int], fix: str) -> Iterator[Finding]:
    for name, end in ends.items():
        path = folder / name
        if not path.is_file():
            yield Finding("", "", f"the weights {name} are missing", f"The graph needs them in {folder}.", fix)
        elif path.stat().st_size < end:
            why = f"The graph needs at least {end}: they were not copied whole."
            yield Finding("", "", f"{name} has {path.stat().st_size} bytes", why, fix)


def _known_types(model: ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """Of every value: its dtype, as TensorProto's number, and its number of dimensions, as far as they are known."""
    skeleton = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = skeleton.graph
    graph.name = "skeleton"  # large weights stay out of it: what is inferred must fit into 2 GiB
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for weight in model.graph.initializer:
        if len(weight.raw_data) <= SMALL and weight.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(weight)
        else:
            named = graph.initializer.add(name=weight.name, data_type=weight.data_type, dims=weight.dims)
            named.data_location = TensorProto.EXTERNAL
            named.external_data.add(key="location", value="weights")
    inferred = shape_inference.infer_shapes(skeleton).graph
    dtypes = {it.name: it.data_type for it in inferred.initializer}
    ranks = {it.name: len(it.dims) for it in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        dtypes[value.name] = kind.elem_type
        if kind.HasField("shape"):
            ranks[value.name] = len(kind.shape.dim)
    return dtypes, ranks
