"""How far onnxruntime on the exported file is from PyTorch in float32, in little more memory than the file has.

A mixed file is measured twice: as it is, and with its arithmetic in float32 (`widened`). float16's rounding hides what
a wrong eps or the other GELU does; in float32 both stand out.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ..models.eva_vit_model import EvaViT
from ..models.eva_vit_weights import StateDict
from ..processors.pil_transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor
from .vit_graph import INPUT, OUTPUT

# Worst token's relative error. fp32: 20 times what rounding does (1e-6 at full size), and a quarter of what the
# tanh GELU does in one block alone (test_export_gate.py). mixed: the gate of the whole port for half precision.
BOUNDS = {"fp32": 2e-5, "mixed": 1e-2}
WIDENED = " in float32"  # after the picture's name: the mixed graph's error in float32, with the bound of fp32
ROUNDED = ("patch_embed.", "blocks.")  # what a mixed file holds in float16
# CLIP's statistics, blip_processors.py:21-24.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Difference:
    """How far one output is from the expected one, both (1, tokens, width)."""

    max_abs: float
    rel_l2: float
    worst_token: float  # |a - b| / |b| of the token where it is largest: one wrong token cannot hide among 257
    cosine: float

    def __str__(self) -> str:
        return (
            f"max abs {self.max_abs:.2e}, rel-L2 {self.rel_l2:.2e}, cosine {self.cosine:.8f}, "
            f"worst token {self.worst_token:.2e}"
        )

    def asdict(self) -> dict[str, float]:
        return {key: float(f"{value:.6g}") for key, value in asdict(self).items()}


def load_image(path: Path, size: int) -> torch.Tensor:
    """A picture file -> (1, 3, size, size), normalised as upstream's evaluation processor does.

    Raises ValueError where Pillow cannot read it.
    """
    from PIL import Image

    try:
        picture = Image.open(path).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
        raise ValueError(f"{path} cannot be read as a picture ({error}).") from error
    resize = Resize((size, size), interpolation=InterpolationMode.BICUBIC)
    return Compose([resize, ToTensor(), Normalize(MEAN, STD)])(picture)[None]


def random_images(size: int, count: int = 2) -> dict[str, torch.Tensor]:
    """Pictures of noise, normalised: what no photograph shows, all channels and edges at once."""
    generator = torch.Generator().manual_seed(0)
    return {f"random {i}": torch.randn(1, 3, size, size, generator=generator) for i in range(count)}


def measure(
    path: Path,
    model: EvaViT,
    state: StateDict,
    images: dict[str, torch.Tensor],
    mixed: bool,
    step: Callable[[str, str], AbstractContextManager[None]],
) -> dict[str, Difference]:
    """The file's error on each of `images`, (1, 3, S, S); of a mixed file also the last one's with WIDENED.

    model: eva_vit_model.empty_eva_vit's. `state` is emptied when it is not needed any more. step: announces a step.
    """
    last = list(images)[-1]
    with step("3/5", f"PyTorch in float32 on {len(images)} pictures"):
        features = reference(model, state, torch.cat(tuple(images.values()))).numpy()
        expected = dict(zip(images, np.split(features, len(images))))
        if mixed:  # eva_vit_g.pth is float16 as published: then there is nothing to round
            rounded = all(state[name].dtype == torch.float16 for name in state if name.startswith(ROUNDED))
            half = features[-1:] if rounded else reference(model, state, images[last], torch.float16).numpy()
            expected[last + WIDENED] = half
    state.clear()
    with step("4/5", "onnxruntime on the same"):
        actual = dict(zip(images, run_onnx(path, images.values())))
        if mixed:
            (actual[last + WIDENED],) = run_onnx(widened(path), [images[last]])
    return {name: compare(actual[name], expected[name]) for name in expected}


def widened(path: Path) -> Path:
    """The mixed graph `path` with float32 in the place of float16, over the same weights: a second file beside it.

    Casts to float16 do nothing then, vectors are stored in float32, and behind each matrix in the weights' file stands
    a Cast. The numbers that are no weights take the value that float16 had rounded.
    """
    model = onnx.load(str(path), load_external_data=False)
    nodes = list(model.graph.node)
    for node in (it for it in nodes if it.op_type == "Cast"):
        node.attribute[0].i = TensorProto.FLOAT
    casts = {}
    for tensor in (it for it in model.graph.initializer if it.data_type == TensorProto.FLOAT16):
        if tensor.data_location == TensorProto.EXTERNAL:
            wide = f"{tensor.name}.float32"
            casts[tensor.name] = helper.make_node("Cast", [tensor.name], [wide], name=wide, to=TensorProto.FLOAT)
        else:
            array = numpy_helper.to_array(tensor) if not tensor.doc_string else np.array(float(tensor.doc_string))
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.extend(casts[name] for name in node.input if name in casts)
        node.input[:] = [casts[name].output[0] if name in casts else name for name in node.input]
        model.graph.node.append(node)
    wide_path = path.with_suffix(".float32.onnx")
    wide_path.write_bytes(model.SerializeToString())
    return wide_path


@torch.no_grad()
def reference(model: EvaViT, state: StateDict, images: torch.Tensor, stored: torch.dtype | None = None) -> torch.Tensor:
    """EvaViT in float32, computed block by block: only one block's weights exist in float32 at a time.

    model: eva_vit_model.empty_eva_vit's. images: (B, 3, S, S) -> (B, tokens, width). stored: what the matrices and
    their biases are rounded to first. It is the model's own code that runs; before each block's turn a hook fills the
    buffers that all blocks share.
    """
    parts = {"patch_embed": model.patch_embed, "ln_vision": model.ln_vision}
    parts.update({f"blocks.{i}": block for i, block in enumerate(model.blocks)})
    buffers: dict[tuple[str, torch.Size], torch.Tensor] = {}

    def fill(prefix: str, module: nn.Module) -> None:
        for name, parameter in list(module.named_parameters()):
            buffer = buffers.setdefault((name, parameter.shape), torch.empty(parameter.shape))
            owner, _, leaf = name.rpartition(".")
            target, tensor = module.get_submodule(owner), state[f"{prefix}.{name}"]
            tensor = tensor if stored is None or isinstance(target, nn.LayerNorm) else tensor.to(stored)
            setattr(target, leaf, nn.Parameter(buffer.copy_(tensor), requires_grad=False))

    for name in ("cls_token", "pos_embed"):
        setattr(model, name, nn.Parameter(state[name].float(), requires_grad=False))
    hooks = [
        module.register_forward_pre_hook(lambda it, _, prefix=prefix: fill(prefix, it))
        for prefix, module in parts.items()
    ]
    try:
        return model(images)
    finally:
        for hook in hooks:
            hook.remove()


def run_onnx(path: Path, images: Iterable[torch.Tensor]) -> list[np.ndarray]:
    """The outputs for pictures (1, 3, S, S), in batches of the file's size; all at once where it is open.

    The weights stay on the disk, mapped, until they are used. Prepacking and constant folding would hold a second copy;
    where a CPU has no float16, onnxruntime turns each matrix into float32 first, in its default order all before any is
    used.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    stacked = torch.cat(tuple(images))
    size = session.get_inputs()[0].shape[0]
    count = size if isinstance(size, int) else len(stacked)
    filled = torch.cat((stacked, stacked[:1].expand(-len(stacked) % count, -1, -1, -1)))
    features = [session.run([OUTPUT], {INPUT: chunk.numpy()})[0] for chunk in filled.split(count)]
    return np.split(np.concatenate(features)[: len(stacked)], len(stacked))


def compare(actual: np.ndarray, expected: np.ndarray) -> Difference:
    """Both (1, tokens, width). Computed in float64."""
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    relative = np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)
    cosine = (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))
    rel_l2 = np.linalg.norm(a - b) / np.linalg.norm(b)
    return Difference(float(np.abs(a - b).max()), float(rel_l2), float(relative.max()), float(cosine))
