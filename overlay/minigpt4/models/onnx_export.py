"""EvaViT as an ONNX file, and how far onnxruntime is from PyTorch on it. onnx_model_export.py is the command."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from minigpt4.processors.pil_transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor
from PIL import Image

from .eva_vit_model import EvaViT
from .image_encoder import LN_VISION_KEY, ln_vision_kind

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
# Worst token's relative error. fp32: far above rounding (1e-6 at full size), far below any fault. fp16: the gate that
# the port uses everywhere for half precision.
BOUNDS = {"fp32": 1e-4, "fp16": 1e-2}
# CLIP's statistics, blip_processors.py:21-24.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class CannotExport(ValueError):
    """What was asked for cannot be done, in a sentence for the user."""


@dataclass(frozen=True)
class Difference:
    """How far onnxruntime's features are from PyTorch's, both (1, tokens, width)."""

    max_abs: float
    worst_token: float  # |a - b| / |b| of the token where it is largest: one wrong token cannot hide among 257
    cosine: float


def load_image(path: Path, size: int) -> torch.Tensor:
    """A picture file -> (1, 3, size, size), normalised as upstream's evaluation processor does."""
    try:
        picture = Image.open(path).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
        raise CannotExport(f"--image-path: {path} cannot be read as a picture ({error}).") from error
    resize = Resize((size, size), interpolation=InterpolationMode.BICUBIC)
    return Compose([resize, ToTensor(), Normalize(MEAN, STD)])(picture)[None]


def export_onnx(model: EvaViT, image: torch.Tensor, path: Path, opset: int, dynamic_batch: bool) -> None:
    """Write `path`, and for a model above 2 GiB one weight file per tensor beside it, all named after the model.

    This takes torch's TorchScript exporter. The newer one starts at opset 18, above what ATC reads, and puts all
    weights into one file at offsets, which ATC of older CANN releases multiplies by 4096 (its parser's
    onnx_file_constant_parser.cc): it would read wrong weights without a word.
    """
    options = {"dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}}} if dynamic_batch else {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:  # not in torch 2.0 and 2.1
        options["dynamo"] = False
    names = {"input_names": ["input"], "output_names": ["output"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message="Constant folding")
        try:
            torch.onnx.export(model, (image,), str(path), opset_version=opset, **names, **options)
        except RuntimeError as error:
            if "not implemented for 'Half'" not in str(error):
                raise
            raise CannotExport(
                f"PyTorch {torch.__version__} cannot run float16 on the CPU, which --dtype fp16 needs. Export fp32: "
                f"ATC makes float16 of it by itself. ({error})"
            ) from error
    _name_weight_files_after(path)


def _name_weight_files_after(path: Path) -> None:
    """Two encoders may share a folder: torch's `onnx__MatMul_321` becomes `eva_vit_g.weights.onnx__MatMul_321`."""
    if len(list(path.parent.iterdir())) == 1:
        return  # all weights are inside
    proto = onnx.load(str(path), load_external_data=False)
    entries = [entry for tensor in proto.graph.initializer for entry in tensor.external_data]
    for entry in (entry for entry in entries if entry.key == "location"):
        renamed = f"{path.stem}.weights.{entry.value}"
        (path.parent / entry.value).rename(path.parent / renamed)
        entry.value = renamed
    path.write_bytes(proto.SerializeToString())


def write_ln_vision(path: Path, ln_vision: Path | None) -> None:
    """Let the file say which ln_vision it has inside, for image_encoder to check.

    A protobuf message may be written in pieces, one after the other: appending costs no memory, and the graph of the
    real model in fp16 has 2 GB.
    """
    entry = onnx.StringStringEntryProto(key=LN_VISION_KEY, value=ln_vision_kind(ln_vision))
    with path.open("ab") as file:
        file.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString())


def run_onnx(path: Path, image: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": image.numpy()})[0]


def compare(actual: np.ndarray, expected: np.ndarray) -> Difference:
    """Both (1, tokens, width). Computed in float64."""
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    relative = np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)
    cosine = (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))
    return Difference(float(np.abs(a - b).max()), float(relative.max()), float(cosine))
