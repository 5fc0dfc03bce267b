"""The ONNX graph: what is in it, at every opset, precision and batch, and that it computes what PyTorch computes."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_exports import features
from port.export import parity
from port.export.vit_graph import OPSETS, vit_graph
from port.export.weights_file import INSIDE, PAGE, WeightsFile
from port.models.eva_vit_model import empty_eva_vit, load_eva_vit
from port.models.eva_vit_weights import read_weights
from vit_files import vit_state, write_files

COMPUTES_SHAPES = {"Shape", "Where", "Expand", "ConstantOfShape", "Gather", "Slice", "Range", "NonZero", "If", "Loop"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_files(tmp_path_factory.mktemp("vit"))


def export(files, folder: Path, size: int = 56, **options) -> Path:
    """A graph and its weights on the disk."""
    geometry, state = read_weights(*files, size)
    sink = WeightsFile(folder, "vit")
    model = vit_graph(geometry, state, sink, **options)
    sink.place(model.graph.initializer)
    (folder / "vit.onnx").write_bytes(model.SerializeToString())
    return folder / "vit.onnx"


def pictures(count: int, size: int = 56) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("size", [56, 84])
@pytest.mark.parametrize("batch", [1, 2, None])
@pytest.mark.parametrize("opset", OPSETS)
def test_computes_what_pytorch_computes(opset: int, batch: int | None, size: int, files, tmp_path: Path) -> None:
    """84 pixels: another size than the file's, for which the positions are interpolated."""
    path = export(files, tmp_path, size, opset=opset, batch=batch)
    onnx.checker.check_model(str(path), full_check=True)
    images = pictures(batch or 3, size)
    expected = load_eva_vit(*files, image_size=size)(images).numpy()
    assert np.abs(features(path, images) - expected).max() <= 2e-5


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_mixed_precision(opset: int, files, tmp_path: Path) -> None:
    """float16 for every matrix, float32 for norms, softmax and the residual stream; outside all is float32."""
    path = export(files, tmp_path, opset=opset, mixed=True)
    onnx.checker.check_model(str(path), full_check=True)
    images = pictures(1)
    expected = load_eva_vit(*files, image_size=56)(images).numpy()
    found = parity.compare(features(path, images), expected)
    assert 1e-6 < found.worst_token < 1e-2
    typed = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*typed.value_info, *typed.input, *typed.output)}
    types.update({tensor.name: tensor.data_type for tensor in typed.initializer})
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    for node in typed.node:
        wanted = {"MatMul": half, "Conv": half, "Erf": half, "Softmax": full, "LayerNormalization": full, "Sqrt": full}
        if node.op_type in wanted:
            assert types[node.output[0]] == wanted[node.op_type], node.name
    assert (types["input"], types["output"]) == (full, full)


def test_static_and_small(files, tmp_path: Path) -> None:
    """No node computes a shape or a constant, every name is its own, and a block has no node too many."""
    for opset, nodes in ((13, 46), (17, 30)):
        model = onnx.load(str(export(files, tmp_path, opset=opset)))
        graph, blocks = model.graph, 2
        count = Counter(node.op_type for node in graph.node)
        assert not COMPUTES_SHAPES & set(count)
        assert "Constant" not in count
        constants = {tensor.name for tensor in graph.initializer}
        assert all(set(node.input) - constants for node in graph.node)
        assert count["Softmax"] == blocks
        assert len([node for node in graph.node if node.name.startswith("blocks.0.")]) == nodes
        names = [node.name for node in graph.node]
        assert len(set(names)) == len(names)
        assert all(name.startswith("blocks.1.") for name in names if ".1." in name)
        shapes = onnx.shape_inference.infer_shapes(model).graph.value_info
        assert all(dim.dim_value > 0 for value in shapes for dim in value.type.tensor_type.shape.dim)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_operations_are_those_of_torchs_own_exporter(files, tmp_path: Path) -> None:
    """ATC's fusions know the patterns of torch's older exporter. Its own are the seed's way to this file."""

    class Written(torch.nn.Module):
        """One layer norm and one GELU, as PyTorch has them."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.LayerNorm(176, eps=1e-6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.gelu(self.norm(x))

    options = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    torch.onnx.export(Written(), (torch.ones(1, 17, 176),), str(tmp_path / "t.onnx"), opset_version=13, **options)
    theirs = [node.op_type for node in onnx.load(str(tmp_path / "t.onnx")).graph.node if node.op_type != "Constant"]
    ours = [
        node
        for node in onnx.load(str(export(files, tmp_path, opset=13))).graph.node
        if node.name.startswith("blocks.0")
    ]
    norm = [node.op_type for node in ours if ".norm1" in node.name]
    first = next(i for i, node in enumerate(ours) if node.op_type == "Div" and "norm" not in node.name)
    assert norm + [node.op_type for node in ours[first : first + 5]] == theirs


def test_weights_lie_in_one_file_at_pages(files, tmp_path: Path) -> None:
    path = export(files, tmp_path)
    graph = onnx.load(str(path), load_external_data=False).graph
    outside = [tensor for tensor in graph.initializer if tensor.external_data]
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in outside]
    (name,) = {entry["location"] for entry in entries}
    assert sorted(file.name for file in tmp_path.iterdir()) == [name, "vit.onnx"]
    assert all(int(entry["offset"]) % PAGE == 0 for entry in entries)
    sizes = [np.prod(tensor.dims) * 4 for tensor in outside]
    assert [int(entry["length"]) for entry in entries] == sizes
    assert min(sizes) >= INSIDE
    assert all(len(tensor.raw_data) < INSIDE for tensor in graph.initializer)
    last = entries[-1]
    assert (tmp_path / name).stat().st_size == int(last["offset"]) + int(last["length"])


def test_other_weights_other_name(files, tmp_path: Path) -> None:
    """An earlier graph keeps the file that it points into."""
    export(files, tmp_path)
    first = {file.name for file in tmp_path.iterdir()}
    other = tmp_path / "other.pth"
    torch.save(vit_state(176, 96, 3, 56, seed=9), other)
    export((other, files[1]), tmp_path)
    assert len({file.name for file in tmp_path.iterdir()} - first) == 2  # and other.pth


def test_a_weight_that_float16_cannot_hold(files, tmp_path: Path) -> None:
    geometry, state = read_weights(*files, 56)
    state["blocks.1.mlp.fc1.weight"] = state["blocks.1.mlp.fc1.weight"].float() * 1e6
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.fc1\.weight\.T has numbers that float16 cannot hold"):
        vit_graph(geometry, state, WeightsFile(tmp_path, "vit"), mixed=True)


@pytest.mark.parametrize("opset", [10, 18])
def test_opsets_that_atc_does_not_read(opset: int, files, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ATC reads 11 to 17"):
        vit_graph(*read_weights(*files, 56), WeightsFile(tmp_path, "vit"), opset=opset)


# The reference that the file is compared with


def test_the_reference_is_the_model_itself(files) -> None:
    """Block by block, and bit for bit; with bfloat16 files too."""
    images = pictures(2)
    geometry, state = read_weights(*files, 56)
    model = empty_eva_vit(geometry, state, *files)
    found = parity.reference(model, state, images)
    assert torch.equal(found, load_eva_vit(*files, image_size=56)(images))
    assert torch.equal(found, parity.reference(model, state, images))


def test_the_reference_sees_every_weight(files) -> None:
    """A tensor that is changed in the file changes the reference: none is left over from an earlier block."""
    geometry, state = read_weights(*files, 56)
    model = empty_eva_vit(geometry, state, *files)
    before = parity.reference(model, state, pictures(1))
    for name in state:
        if name.startswith(("blocks.2", "norm.", "head.")):
            continue  # not of the image half
        changed = {**state, name: state[name].float() * 1.5 + 0.01}
        assert not torch.equal(parity.reference(model, changed, pictures(1)), before), name


def test_comparison() -> None:
    """One wrong token among many must show, and NaN is never within a bound."""
    expected = np.random.default_rng(0).standard_normal((1, 257, 64)).astype(np.float32)
    assert parity.compare(expected, expected).worst_token == 0
    one_wrong = expected.copy()
    one_wrong[0, 100] = -one_wrong[0, 100]
    difference = parity.compare(one_wrong, expected)
    assert difference.worst_token == pytest.approx(2)
    assert difference.max_abs == pytest.approx(2 * np.abs(expected[0, 100]).max())
    assert difference.rel_l2 == pytest.approx(2 / 257**0.5, rel=0.2)
    assert difference.cosine > 0.98
    one_wrong[0, 100, 0] = np.nan
    assert not parity.compare(one_wrong, expected).worst_token <= 1e9
