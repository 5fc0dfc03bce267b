"""Small ONNX graphs for the tests of graph_lint: node(), graph(), and whats() for what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import port_package  # noqa: F401
from onnx import ModelProto, TensorProto, helper, numpy_helper
from port.export.graph_lint import lint

FLOAT = TensorProto.FLOAT


def graph(
    *nodes: onnx.NodeProto, weights: dict[str, Any] | None = None, opset: int = 13, shape: Any = (1, 4, 8)
) -> ModelProto:
    """`input` -> nodes -> `output`, float32. A node's output gets the name of the node."""
    taken = helper.make_tensor_value_info("input", FLOAT, shape)
    given = helper.make_tensor_value_info("output", FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    made = helper.make_graph(nodes, "test", [taken], [given], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])


def node(kind: str, *inputs: str, out: str = "output", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [out], name=f"the_{kind}", **attributes)


def whats(model: ModelProto, folder: Path | None = None) -> list[str]:
    return [f"{finding.op} {finding.what}".strip() for finding in lint(model, folder)]


def add() -> ModelProto:
    return graph(node("Add", "input", "w"), weights={"w": np.ones(8, np.float32)})


def external(**entries: Any) -> ModelProto:
    """The 8 numbers of `w` are outside the graph."""
    model = add()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "vit.weights", **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model
