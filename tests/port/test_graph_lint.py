"""graph_lint: what concerns a whole graph, each rule on a planted fault; and silence where there is nothing to say."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import vit_files
from lint_graphs import FLOAT, add, external, graph, node, whats
from onnx import ModelProto, TensorProto, helper, numpy_helper
from port.export.graph_lint import lint, lint_file, remarks
from port.export.vit_graph import vit_graph
from port.export.weights_file import WeightsFile
from port.models.eva_vit_weights import read_weights


def test_a_good_graph():
    assert lint(add()) == []


# Graphs without a fault


@pytest.mark.parametrize("mixed", [False, True], ids=["fp32", "mixed"])
@pytest.mark.parametrize("batch", [1, None], ids=["fixed", "open"])
@pytest.mark.parametrize("opset", [11, 12, 13, 16, 17])
def test_the_ports_own_graph(tmp_path, opset, batch, mixed):
    geometry, state = read_weights(*vit_files.write_files(tmp_path), image_size=56)
    sink = WeightsFile(tmp_path, "vit")
    model = vit_graph(geometry, state, sink, opset, mixed, batch)
    assert sink.place(model.graph.initializer)
    onnx.save(model, tmp_path / "vit.onnx")
    assert lint_file(tmp_path / "vit.onnx") == []
    undocumented = {finding.op for finding in remarks(model) if "opset" in finding.what}
    assert undocumented == ({"Sub"} if opset == 16 else set())


class SmallVit(torch.nn.Module):
    """The operators of a ViT, in plain PyTorch. flatten: the patches by torch.flatten, which asks for the shape."""

    def __init__(self, flatten: bool) -> None:
        super().__init__()
        self.flatten = flatten
        self.patches = torch.nn.Conv2d(3, 16, 4, 4)
        self.norm = torch.nn.LayerNorm(16)
        self.qkv, self.out = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x)
        x = (x.flatten(2) if self.flatten else x.reshape(1, 16, 16)).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).split(16, dim=-1)
        weights = torch.softmax(q @ k.transpose(-2, -1) * 0.25, dim=-1)
        return torch.nn.functional.gelu(self.out(weights @ v)) + x


def exported(path: Path, opset: int, flatten: bool) -> Path:
    """SmallVit by torch's older exporter."""
    options = {"input_names": ["input"], "output_names": ["output"], "opset_version": opset}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(SmallVit(flatten), (torch.zeros(1, 3, 16, 16),), str(path), **options)
    return path


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_torchs_older_exporter(tmp_path, opset):
    assert lint_file(exported(tmp_path / "small.onnx", opset, flatten=False)) == []
    assert "Shape computes with shapes" in whats(onnx.load(exported(tmp_path / "small.onnx", opset, flatten=True)))


# The graph as a whole


def test_names_of_both_ends():
    model = add()
    model.graph.input[0].name, model.graph.node[0].input[0] = "pixels", "pixels"
    model.graph.output[0].name, model.graph.node[0].output[0] = "features", "features"
    assert whats(model) == ["the graph's input is pixels", "the graph's output is features"]


def test_two_inputs():
    model = add()
    model.graph.input.append(helper.make_tensor_value_info("w2", FLOAT, (8,)))
    assert whats(model) == ["the graph's input is input, w2"]


def test_weights_listed_as_inputs_are_none():
    model = add()
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, (8,)))
    assert lint(model) == []


def test_dtype_of_the_input():
    model = add()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(8, np.float16), "w"))
    assert "the input input is float16" in whats(model)


@pytest.mark.parametrize(("shape", "what"), [(("batch", 4, 8), []), ((1, "n", 8), ["1"]), ((1, None, "w"), ["1", "2"])])
def test_open_dimensions(shape, what):
    model = add()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", FLOAT, shape))
    assert whats(model) == [f"dimension {position} of the input input is open" for position in what]


def test_no_shape():
    model = add()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", FLOAT, None))
    assert whats(model) == ["the input input has no shape"]


def test_dead_nodes_and_weights():
    model = add()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "spare"))
    model.graph.node.insert(0, node("Sqrt", "input", out="a"))
    model.graph.node.insert(1, node("Erf", "a", out="b"))
    assert whats(model) == ["Erf nobody uses its output", "Sqrt nobody uses its output", "nobody uses this weight"]


def test_unfolded_constants_count_through():
    weights = {"w": np.ones(8, np.float32)}
    chain = [node("Sqrt", "w", out="a"), node("Erf", "a", out="b"), node("Add", "input", "b")]
    assert whats(graph(*chain, weights=weights)) == ["Sqrt has constant inputs only", "Erf has constant inputs only"]


def test_an_input_that_is_left_out_is_no_input():
    weights = {"w": np.ones(8, np.float32), "pads": np.array([0, 0])}
    chain = [node("Pad", "w", "pads", "", out="a"), node("Add", "input", "a")]
    assert whats(graph(*chain, weights=weights)) == ["Pad has constant inputs only"]


def test_a_constant_node_is_a_constant():
    value = numpy_helper.from_array(np.ones(8, np.float32))
    chain = [node("Constant", out="w", value=value), node("Sqrt", "w", out="a"), node("Add", "input", "a")]
    assert whats(graph(*chain)) == ["Sqrt has constant inputs only"]


def test_a_graph_that_contradicts_itself():
    model = graph(node("MatMul", "input", "w"), weights={"w": np.ones((8, 8), np.float32)})
    model.graph.node[0].domain = "nowhere"  # and no opset of that domain
    assert "the graph contradicts itself" in whats(model)


def test_equal_faults_are_counted():
    nodes = [node("Celu", "input", out="a"), node("Celu", "a")]
    (finding,) = lint(graph(*nodes))
    assert finding.count == 2
    assert str(finding).startswith("Celu the_Celu (and 1 more): ATC is not known to take this operator. ")


# The weights' file


def test_weights_beside_the_graph(tmp_path):
    (tmp_path / "vit.weights").write_bytes(bytes(40))
    for entries in ({}, {"offset": 8}, {"offset": 8, "length": 32}, {"length": 32}):
        assert lint(external(**entries), tmp_path) == []


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({}, "vit.weights has 31 bytes"),
        ({"offset": 4096}, "vit.weights has 31 bytes"),
        ({"offset": "-8"}, "offset '-8', length '32'"),
        ({"length": "all"}, "offset '0', length 'all'"),
        ({"length": 16}, "the graph reads 16 bytes of vit.weights"),
        ({"location": "gone"}, "the weights gone are missing"),
        ({"location": "/vit.weights"}, "the weights are in /vit.weights"),
        ({"location": "../vit.weights"}, "the weights are in ../vit.weights"),
        ({"location": ""}, "the weights are in no file"),
    ],
    ids=str,
)
def test_weights_that_are_not_there(tmp_path, entries, what):
    (tmp_path / "vit.weights").write_bytes(bytes(31))
    assert what in whats(external(**entries), tmp_path)


def test_a_file_that_is_cut_off_is_one_fault(tmp_path):
    geometry, state = read_weights(*vit_files.write_files(tmp_path), image_size=56)
    sink = WeightsFile(tmp_path, "vit")
    model = vit_graph(geometry, state, sink)
    weights = sink.place(model.graph.initializer)
    weights.write_bytes(weights.read_bytes()[:-1])
    assert whats(model, tmp_path) == [f"{weights.name} has {weights.stat().st_size} bytes"]


def test_the_last_byte_decides_not_the_last_weight(tmp_path):
    model = external(offset=64)
    first = model.graph.initializer.add()
    first.CopyFrom(model.graph.initializer[0])
    first.name, first.external_data[1].value = "w2", "0"
    model.graph.node[0].output[0] = "a"
    model.graph.node.append(node("Mul", "a", "w2"))
    (tmp_path / "vit.weights").write_bytes(bytes(95))
    assert whats(model, tmp_path) == ["vit.weights has 95 bytes"]


def test_more_than_one_file(tmp_path):
    model = external()
    other = model.graph.initializer.add()
    other.CopyFrom(model.graph.initializer[0])
    other.name, other.external_data[0].value = "w2", "second"
    model.graph.node[0].output[0] = "a"
    model.graph.node.append(node("Mul", "a", "w2"))
    for name in ("vit.weights", "second"):
        (tmp_path / name).write_bytes(bytes(32))
    assert whats(model, tmp_path) == ["the weights are in 2 files"]
    assert lint(model, tmp_path, one_file=False) == []


def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "vit.onnx"
    path.write_text("this is no protobuf")
    with pytest.raises(ValueError, match=r"vit\.onnx cannot be read as an ONNX file"):
        lint_file(path)


def test_large_weights_inside_are_not_copied(monkeypatch):
    seen = []
    infer = onnx.shape_inference.infer_shapes

    def spy(model: ModelProto) -> ModelProto:
        seen.append(model.ByteSize())
        return infer(model)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", spy)
    weights = {"w": np.ones((8, 4096), np.float32)}
    assert lint(graph(node("MatMul", "input", "w"), weights=weights)) == []
    assert max(seen) < 1000
