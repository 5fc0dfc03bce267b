"""The image half as an ONNX graph made for ATC, written node by node. Its twin in PyTorch is eva_vit_model.py.

torch's own exporters do not serve here. The newer one starts at opset 18, above what ATC reads; the older one is
deprecated, holds the weights several times in memory, and leaves nodes behind that compute shapes. The graph is 39
times the same block, so it is written out: every size a constant, every node named after its layer, and the patterns
of layer norm and GELU (the error function) those of torch's older exporter, which ATC's fusion passes look for.

That the twins compute the same is not believed but measured, at every export (parity.py).
"""

from __future__ import annotations

import math
from typing import Any, Protocol, Union

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ..models.eva_vit_model import BLOCK_EPS, LN_VISION_EPS
from ..models.eva_vit_weights import HEAD_DIM, Geometry, StateDict

OPSETS = range(11, 18)  # what ATC reads, CANN 7.0 and later
INPUT, OUTPUT = "input", "output"
Batch = Union[int, None]


class Sink(Protocol):
    """Takes the matrices one by one, so that only one is in memory; see weights_file.WeightsFile."""

    def put(self, name: str, array: np.ndarray) -> TensorProto: ...


def vit_graph(
    geometry: Geometry, state: StateDict, sink: Sink, opset: int = 13, mixed: bool = False, batch: Batch = 1
) -> ModelProto:
    """EvaViT with the weights of `state` (eva_vit_weights.read_weights): `input` -> `output`.

    input: (B, 3, image_size, image_size), float32, normalised. output: (B, tokens, width), float32.
    mixed: matrices and what they multiply are float16; norms, softmax and the residual stream stay float32, as in
        eva_vit_model.Block. Else all is float32.
    batch: B; None leaves the first dimension open, for ATC's --dynamic_batch_size.
    Raises ValueError for an opset out of OPSETS, and for a weight that float16 cannot hold.
    """
    if opset not in OPSETS:
        raise ValueError(f"opset {opset}: ATC reads {OPSETS[0]} to {OPSETS[-1]}.")
    g, b = geometry, _Builder(state, sink, opset, mixed, -1 if batch is None else batch)
    kernel = {"kernel_shape": [g.patch] * 2, "strides": [g.patch] * 2}
    x = b.half(INPUT, "patch_embed")
    x = b.op("Conv", x, b.weight("patch_embed.proj.weight"), b.weight("patch_embed.proj.bias"), **kernel)
    x = b.reshape(x, [b.batch, g.width, g.tokens - 1])
    x = b.full(b.op("Transpose", x, perm=[0, 2, 1]), "patch_embed")
    x = _tokens(b, x)
    for i in range(g.depth):
        b.scope = f"blocks.{i}."
        x = _block(b, x, g)
    b.scope = ""
    b.layer_norm("ln_vision", x, LN_VISION_EPS, output=OUTPUT)
    size: Any = "batch" if batch is None else batch
    taken = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [size, 3, g.image_size, g.image_size])
    given = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [size, g.tokens, g.width])
    graph = helper.make_graph(b.nodes, "eva_vit", [taken], [given], b.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="onnx_model_export")
    model.ir_version = {11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8}[opset]  # the first that has the opset
    return model


def _tokens(b: _Builder, patches: str) -> str:
    """(B, tokens - 1, width) -> (B, tokens, width): the class token in front, and to all their positions."""
    table = _positions(b.state)
    if b.batch > 0:
        first = b.put("positions.class", np.repeat(table[:, :1], b.batch, axis=0))
        return b.op("Concat", first, b.op("Add", patches, b.put("positions.patches", table[:, 1:])), axis=1)
    # An open batch: a row of zeros in front, and one table adds all. No Expand over the batch; but Pad, which the
    # documentation of CANN 8.0 and 8.1 names for 310P only (atc_operators.json), so it is left out where it can be.
    padded = b.op("Pad", patches, b.constant("front", np.array([0, 1, 0, 0, 0, 0])), mode="constant")
    return b.op("Add", padded, b.put("positions", table))


def _block(b: _Builder, x: str, g: Geometry) -> str:
    """eva_vit_model.Block: (B, N, width) -> (B, N, width), float32."""
    normed = b.half(b.layer_norm("norm1", x, BLOCK_EPS), "attn")
    x = b.op("Add", x, b.full(_attention(b, normed, g), "attn.proj"))
    normed = b.half(b.layer_norm("norm2", x, BLOCK_EPS), "mlp")
    hidden = b.linear("mlp.fc1", normed)
    erf = b.op("Erf", b.op("Div", hidden, b.number(math.sqrt(2))))
    gelu = b.op("Mul", b.op("Mul", hidden, b.op("Add", erf, b.number(1.0))), b.number(0.5))
    return b.op("Add", x, b.full(b.linear("mlp.fc2", gelu), "mlp.fc2"))


def _attention(b: _Builder, x: str, g: Geometry) -> str:
    """eva_vit_model.Attention. Scaling the queries, not the scores, keeps float16 scores in range."""
    q_bias, v_bias = (b.state[f"{b.scope}attn.{name}_bias"].float() for name in "qv")
    bias = torch.cat((q_bias, torch.zeros_like(v_bias), v_bias))
    q, k, v = b.split(b.linear("attn.qkv", x, bias), g.width)
    q = b.op("Mul", q, b.number(HEAD_DIM**-0.5))
    heads = [b.reshape(part, [b.batch, g.tokens, g.heads, HEAD_DIM]) for part in (q, k, v)]
    q, k, v = (b.op("Transpose", part, perm=perm) for part, perm in zip(heads, _PERMUTED))
    scores = b.full(b.op("MatMul", q, k), "attn.softmax")
    weights = b.half(b.op("Softmax", scores, axis=-1), "attn.weights")
    mixed = b.op("Transpose", b.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    return b.linear("attn.proj", b.reshape(mixed, [b.batch, g.tokens, g.width]))


_PERMUTED = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])  # q, k transposed, v: (B, heads, ...)


def _positions(state: StateDict) -> np.ndarray:
    """(1, tokens, width), float32: the class token is added to the first row."""
    table = state["pos_embed"].float().clone()
    table[:, :1] += state["cls_token"].float()
    return table.numpy()


class _Builder:
    """Collects nodes and weights. `scope` goes before every name; `batch` is -1 where the dimension is open."""

    def __init__(self, state: StateDict, sink: Sink, opset: int, mixed: bool, batch: int) -> None:
        self.state, self.sink, self.opset, self.batch = state, sink, opset, batch
        self.dtype = np.float16 if mixed else np.float32  # of the matrices
        self.nodes: list[Any] = []
        self.tensors: list[TensorProto] = []
        self.scope = ""
        self._known: set[str] = set()

    def op(self, kind: str, *inputs: str, output: str = "", name: str = "", **attributes: Any) -> str:
        """Add a node; the name of its output."""
        name = f"{self.scope}{name or kind}"
        while name in self._known:
            stem, _, number = name.rpartition("_")
            name = f"{stem}_{int(number) + 1}" if stem and number.isdigit() else f"{name}_1"
        self._known.add(name)
        self.nodes.append(helper.make_node(kind, list(inputs), [output or name], name=name, **attributes))
        return output or name

    def reshape(self, x: str, shape: list[int]) -> str:
        return self.op("Reshape", x, self.constant("shape_" + "_".join(map(str, shape)), np.array(shape)))

    def split(self, x: str, width: int) -> list[str]:
        """Three parts of `width` channels. The sizes are an attribute up to opset 12, then an input."""
        names = [f"{self.scope}attn.{part}" for part in "qkv"]
        sizes = [width] * 3
        old = self.opset < 13
        inputs = [x] if old else [x, self.constant("qkv_widths", np.array(sizes))]
        attributes = {"axis": -1, **({"split": sizes} if old else {})}
        self.nodes.append(helper.make_node("Split", inputs, names, name=f"{self.scope}Split", **attributes))
        return names

    def linear(self, layer: str, x: str, bias: torch.Tensor | None = None) -> str:
        """x @ weight.T + bias; the weight is stored transposed, ready to be multiplied."""
        weight = self.state[f"{self.scope}{layer}.weight"].float().t().contiguous().numpy()
        bias = self.state[f"{self.scope}{layer}.bias"] if bias is None else bias
        product = self.op("MatMul", x, self.put(f"{layer}.weight.T", weight), name=f"{layer}.MatMul")
        return self.op("Add", product, self.put(f"{layer}.bias", bias.float().numpy()), name=f"{layer}.Add")

    def layer_norm(self, layer: str, x: str, eps: float, output: str = "") -> str:
        """In float32. One operation from opset 17 on; nine before, which CANN fuses (LayerNormFusionPass, eps 1-D)."""
        scale, bias = (self.put(f"{layer}.{part}", self._float32(f"{layer}.{part}")) for part in ("weight", "bias"))
        if self.opset >= 17:
            return self.op("LayerNormalization", x, scale, bias, output=output, axis=-1, epsilon=eps, name=layer)
        two, small = self.constant("two", np.float32(2)), self.constant(f"eps_{eps:g}", np.array([eps], np.float32))
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1], name=f"{layer}.mean"), name=f"{layer}.Sub")
        square = self.op("Pow", centred, two, name=f"{layer}.Pow")
        variance = self.op("ReduceMean", square, axes=[-1], name=f"{layer}.variance")
        deviation = self.op("Sqrt", self.op("Add", variance, small, name=f"{layer}.eps"), name=f"{layer}.Sqrt")
        normed = self.op("Div", centred, deviation, name=f"{layer}.Div")
        return self.op("Add", self.op("Mul", normed, scale, name=f"{layer}.Mul"), bias, output=output, name=layer)

    def half(self, x: str, layer: str) -> str:
        """To the dtype of the matrices."""
        return x if self.dtype is np.float32 else self.op("Cast", x, to=TensorProto.FLOAT16, name=f"{layer}.half")

    def full(self, x: str, layer: str) -> str:
        return x if self.dtype is np.float32 else self.op("Cast", x, to=TensorProto.FLOAT, name=f"{layer}.full")

    def weight(self, name: str) -> str:
        return self.put(name, self._float32(name))

    def number(self, value: float) -> str:
        return self.constant(f"number_{value:.6g}", np.asarray(value, self.dtype), exact=repr(value))

    def constant(self, name: str, array: Any, exact: str = "") -> str:
        """A small constant that is shared by all blocks. exact: what float16 rounds, for parity.widened."""
        if name not in self._known:
            self._known.add(name)
            self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
            self.tensors[-1].doc_string = exact
        return name

    def put(self, layer: str, array: np.ndarray) -> str:
        """A weight, in float32 where norms and positions need it, else in the dtype of the matrices."""
        name = f"{self.scope}{layer}"
        kept = layer.startswith(("positions", "norm", "ln_vision"))
        with np.errstate(over="ignore"):  # said below, with the weight's name
            stored = array if kept else array.astype(self.dtype)
        if not np.isfinite(stored).all():
            if not np.isfinite(array).all():
                raise ValueError(f"the weight {name} has infinities or NaN: its file is damaged; download it again.")
            raise ValueError(f"the weight {name} has numbers that {stored.dtype} cannot hold: export it in float32.")
        self.tensors.append(self.sink.put(name, stored))
        return name

    def _float32(self, name: str) -> np.ndarray:
        return self.state[f"{self.scope}{name}"].float().numpy()
