"""The table of what ATC takes, and every rule for one node on a planted fault."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from lint_graphs import FLOAT, add, graph, node, whats
from onnx import TensorProto, defs, helper
from port.export.graph_lint import lint, remarks
from port.export.operator_rules import table

NEEDED = """
Add Cast Concat Constant ConstantOfShape Conv Div Erf Expand Gather Gelu Gemm Identity LayerNormalization MatMul Mul Pad
Pow ReduceMean Reshape Shape Slice Softmax Split Sqrt Squeeze Sub Transpose Unsqueeze Where
"""


def test_the_table_has_what_a_vit_can_contain():
    assert set(NEEDED.split()) <= set(table()["operators"])


@pytest.mark.parametrize("name", sorted(table()["operators"]))
def test_a_row_names_its_sources_and_speaks_of_onnx(name):
    row, sources = table()["operators"][name], table()["sources"]
    assert not row["documented"] or row["page"].startswith(("atlasoxol_09_", "https://"))
    assert row["documented"] or row["why"]
    for key in ("plugin", "prototype"):
        assert key not in row or row[key].split(":")[0] in sources
    for span in (row.get("opsets"), row.get("parser")):
        assert span is None or span[0] <= span[1]
    versions = [it for it in defs.get_all_schemas_with_history() if it.name == name and it.domain == ""]
    attributes = {key for schema in versions for key in schema.attributes}
    assert set(row.get("attributes", {})) <= attributes
    assert set(row.get("required", [])) | set(row.get("one_of", [])) <= set(row.get("attributes", {}))
    dtypes = {dtype for names in row.get("dtypes", []) for dtype in names} | set(row.get("operator_dtypes", []))
    assert {dtype.upper() for dtype in dtypes} <= set(TensorProto.DataType.keys())


def test_an_operator_that_is_not_in_the_table():
    assert whats(graph(node("Celu", "input"))) == ["Celu ATC is not known to take this operator"]


def test_an_operator_that_is_known_to_be_missing():
    (finding,) = lint(graph(node("Gelu", "input"), opset=18))
    assert (finding.op, finding.what) == ("Gelu", "ATC is not known to take this operator")
    assert "no parser is registered" in finding.why


def test_an_operator_of_another_domain():
    model = graph(helper.make_node("Gelu", ["input"], ["output"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert whats(model) == ["Gelu ATC is not known to take this operator of the domain com.microsoft"]


def test_an_operator_at_an_opset_that_has_no_parser():
    weights = {"w": np.ones(8, np.float32)}
    model = graph(node("LayerNormalization", "input", "w"), weights=weights, opset=17)
    assert lint(model) == []
    model.opset_import[0].version = 11
    assert "LayerNormalization not registered for opset 11" in whats(model)


@pytest.mark.parametrize("opset", [8, 19, 20])
def test_an_opset_that_atc_does_not_read(opset):
    model = add()
    model.opset_import[0].version = opset
    assert f"the graph has opset {opset}" in whats(model)


def test_no_opset():
    model = add()
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    assert whats(model) == ["the graph has opset nothing"]


@pytest.mark.parametrize(
    ("first", "weights"),
    [
        (node("Shape", "input", out="x"), {}),
        (node("ConstantOfShape", "n", out="x"), {"n": np.array([2])}),
        (node("NonZero", "input", out="x"), {}),
        (node("Range", "a", "b", "c", out="x"), {"a": np.float32(0), "b": np.float32(4), "c": np.float32(1)}),
        (node("Expand", "input", "n", out="x"), {"n": np.array([2, 4, 8])}),
        (node("Where", "c", "input", "input", out="x"), {"c": np.array([True])}),
    ],
    ids=lambda it: it.op_type if isinstance(it, onnx.NodeProto) else "",
)
def test_computing_with_shapes(first, weights):
    model = graph(first, node("Cast", "x", to=FLOAT), weights=weights)
    assert f"{first.op_type} computes with shapes" in whats(model)


def test_a_dtype_that_nobody_takes():
    model = graph(node("Cast", "input", out="x", to=TensorProto.UINT16), node("Pow", "x", "x", out="y"))
    model.graph.node.append(node("Cast", "y", to=FLOAT))
    assert "Pow input 0 is uint16" in whats(model)


def test_a_dtype_that_only_the_operator_behind_takes():
    model = graph(node("MatMul", "input", "w"), weights={"w": np.ones((8, 8), np.float32)})
    assert lint(model) == []
    assert "input 1 is float" in [finding.what for finding in remarks(model)]


def test_every_input_has_its_own_dtypes():
    weights = {"w": np.ones((2, 3, 2, 2), np.float32)}
    model = graph(node("Conv", "input", "w", kernel_shape=[2, 2]), weights=weights, shape=(1, 3, 8, 8))
    assert lint(model) == []
    assert [it.what for it in remarks(model) if it.what.startswith("input")] == ["input 1 is float"]


def test_faults_are_no_remarks():
    assert remarks(graph(node("Celu", "input"))) == []


def test_the_dtypes_of_an_inner_value_are_inferred():
    weights = {"w": np.ones(8, np.float64)}
    model = graph(
        node("Cast", "input", out="x", to=TensorProto.DOUBLE),
        node("Mul", "x", "w", out="y"),
        node("LayerNormalization", "y", "w", out="z"),
        node("Cast", "z", to=FLOAT),
        weights=weights,
        opset=17,
    )
    assert "LayerNormalization input 0 is double" in whats(model)


@pytest.mark.parametrize(
    ("attributes", "what"),
    [
        ({"strides": [64, 64]}, "attribute strides is 64"),
        ({"dilations": [256, 1]}, "attribute dilations is 256"),
        ({"pads": [0, 0, 256, 0]}, "attribute pads is 256"),
        ({"pads": [-1, 0, 0, 0]}, "attribute pads is -1"),
        ({"auto_pad": "OTHER", "strides": [1, 1]}, "attribute auto_pad is OTHER"),
        ({}, "none of the attributes kernel_shape, strides, dilations, pads"),
    ],
    ids=str,
)
def test_attributes_outside_their_limits(attributes, what):
    weights = {"w": np.ones((2, 3, 2, 2), np.float32)}
    model = graph(node("Conv", "input", "w", **attributes), weights=weights, shape=(1, 3, 300, 300))
    assert f"Conv {what}" in whats(model)


def test_grouped_convolution():
    model = graph(
        node("Conv", "input", "w", group=3, kernel_shape=[2, 2]),
        weights={"w": np.ones((3, 1, 2, 2), np.float32)},
        shape=(1, 3, 8, 8),
    )
    assert whats(model) == ["Conv attribute group is 3"]


def test_a_cast_to_a_dtype_that_atc_has_not():
    model = graph(node("Cast", "input", out="x", to=TensorProto.COMPLEX64), node("Cast", "x", to=FLOAT))
    assert "Cast attribute to is complex64" in whats(model)


def test_a_cast_that_is_not_documented():
    model = graph(node("Cast", "input", out="x", to=TensorProto.BFLOAT16), node("Cast", "x", to=FLOAT))
    assert lint(model) == []
    assert "attribute to is bfloat16" in [finding.what for finding in remarks(model)]


def test_an_attribute_that_the_parser_does_not_read():
    assert whats(graph(node("Softmax", "input", axis=-1, mode="fast"))) == ["Softmax attribute mode"]


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (node("Transpose", "input"), "Transpose no attribute perm"),
        (node("ReduceMean", "input"), "ReduceMean no attribute axes"),
        (node("Unsqueeze", "input"), "Unsqueeze no attribute axes"),
    ],
    ids=lambda it: it.op_type if isinstance(it, onnx.NodeProto) else "",
)
def test_an_attribute_that_the_parser_needs(made, what):
    assert what in whats(graph(made, opset=12))


def test_too_many_dimensions():
    model = graph(node("MatMul", "input", "input"), shape=(1, 1, 1, 1, 1, 4, 4))
    assert whats(model) == ["MatMul the input has 7 dimensions"]


def test_what_the_documentation_leaves_open_is_a_remark():
    model = graph(
        node("Gemm", "input", "w", "b"), weights={"w": np.ones((8, 8), np.float32), "b": np.ones(8, np.float32)}
    )
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", FLOAT, (1, 8)))
    assert lint(model) == []
    assert [finding.what for finding in remarks(model)] == ["3 inputs"]


def test_operators_that_are_documented_for_older_opsets_only():
    model = graph(node("Unsqueeze", "input", "n"), weights={"n": np.array([0])})
    assert lint(model) == []
    assert "not documented for opset 13" in [finding.what for finding in remarks(model)]
