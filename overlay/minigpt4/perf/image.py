"""Times of the image half: a picture decoded and resized, the encoder alone, a picture to embeddings, and several
files to embeddings, where the encoder leaves the CPU free to read the next one.

`half` below is what image_half.load gives: MiniGPT-4 without its language model. The encoder is asked by `encode`,
which keeps no answers: a picture that was encoded before takes as long as a new one.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import torch

from ..models.device import compute_dtype
from ..models.encoder_record import read_record
from ..models.eva_vit_weights import REAL_DEPTH, REAL_HIDDEN, REAL_WIDTH, Geometry, read_weights
from ..processors.read_ahead import read_ahead
from . import measure as clocks
from .image_rows import ImageRow, transformer_flop
from .run import device_name

DECODING = "picture decoding and resizing"
ENCODER = "image encoder alone"
EMBEDDINGS = "picture to embeddings (encoder, Q-Former, projection)"
WITHOUT_QFORMER = "picture to embeddings (encoder, projection)"
IN_TURN = "file to embeddings, of 8 each read when it is its turn"
AHEAD = "file to embeddings, of 8 the next ones read meanwhile"
FILES = 8
REAL_BYTES = 1_900_000_000  # ViT-g in 16 bits has 1.97 GB; what is smaller is another model


@torch.no_grad()
def measure(
    half: Any, read: Callable[[], torch.Tensor], batches: Sequence[int], repeat: int, note: Callable[[str], Any]
) -> Iterator[ImageRow]:
    """Each row as soon as it is complete.

    read: opens the picture file, decodes and resizes it: (3, S, S) float32 on the CPU, normalised. note: is told what
    comes next. The picture is on the device before the clock starts.
    """
    device, encode = half.device, half.visual_encoder.encode
    about = facts(half.visual_encoder, device)
    host = torch.device("cpu")
    on_host = {**about, "device": "cpu", "device_name": device_name(host), "dtype": "float32"}
    yield ImageRow(DECODING, 1, clocks.seconds_of(read, host, repeat), None, None, on_host)
    picture = read()
    flop = encoder_flop(half.visual_encoder.path, picture.shape[-1])
    half.visual_encoder = encode  # encode_img calls it
    name = EMBEDDINGS if half.has_qformer else WITHOUT_QFORMER
    peak = matmul_peak(about, device)  # before and after each row: what else the machine does comes and goes
    for batch in batches:
        pixels = picture.expand(batch, -1, -1, -1).contiguous().to(device)
        tokens = encode(pixels).shape[1]
        parts = {ENCODER: (encode, flop), name: (half.encode_img, flop and flop + rest_flop(half, tokens))}
        for what, (call, operations) in parts.items():
            note(f"batch {batch}, {what}")
            seconds = clocks.seconds_of(functools.partial(call, pixels), device, repeat)
            before, peak = peak, matmul_peak(about, device)
            yield ImageRow(what, batch, seconds, operations and batch * operations, max(before, peak) or None, about)
    if about["encoder_runs_on"] != "cpu":  # there, who reads takes the encoder's cores: minutes for nothing
        note(f"{FILES} files, each in turn and read ahead")
        yield from from_files(half, read, repeat, flop and flop + rest_flop(half, tokens), about)


@torch.no_grad()
def from_files(
    half: Any, read: Callable[[], torch.Tensor], repeat: int, flop: float | None, about: dict[str, Any]
) -> Iterator[ImageRow]:
    """The same pictures in the same order, with and without reading ahead; seconds of one picture."""
    each = {
        IN_TURN: lambda: (read() for _ in range(FILES)),
        AHEAD: lambda: read_ahead(lambda _: read(), range(FILES)),
    }
    for what, files in each.items():

        def embed_all(files: Callable[[], Iterator[torch.Tensor]] = files) -> None:
            for pixels in files():
                half.encode_img(pixels[None].to(half.device))

        seconds = clocks.seconds_of(embed_all, half.device, repeat)
        yield ImageRow(what, 1, [value / FILES for value in seconds], flop, None, about)


def facts(encoder: Any, device: torch.device) -> dict[str, Any]:
    """What every row says about the encoder and the device."""
    path, dtype = encoder.path, str(compute_dtype(device)).replace("torch.", "")
    record = {} if path.suffix == ".pth" else read_record(path)
    own = {".pth": dtype, ".onnx": record.get("precision", "the file's own")}
    own[".om"] = record.get("precision_mode", "the file's own")
    return {
        "device": str(device),
        "device_name": device_name(device),
        "encoder": path.name,
        "encoder_runs_on": _runs_on(path, device),
        "dtype": own[path.suffix],
        "dtype_behind_the_encoder": dtype,
        "torch": torch.__version__,
    }


def _runs_on(path: Path, device: torch.device) -> str:
    """The kind of device. onnxruntime has the CPU alone, unless its CUDA build is installed (image_encoder.py)."""
    if path.suffix != ".onnx":
        return "npu" if path.suffix == ".om" else device.type
    import onnxruntime

    on_cuda = device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return "cuda" if on_cuda else "cpu"


def matmul_peak(about: dict[str, Any], device: torch.device) -> float:
    """Of the device that the encoder runs on, in the faster dtype of those that a runner may compute in.

    0 where it was not measured: the encoder does not run on `device`, as an .onnx beside an NPU.
    """
    if about["encoder_runs_on"] != device.type:
        return 0.0
    dtypes = {compute_dtype(device), torch.float32 if device.type == "cpu" else torch.float16}
    with _all_cores(about["encoder"].endswith(".onnx")):
        return max(clocks.matmul_peak(device, dtype) for dtype in dtypes)


@contextlib.contextmanager
def _all_cores(wanted: bool) -> Iterator[None]:
    """onnxruntime takes every core, whatever OMP_NUM_THREADS leaves to PyTorch: so must what it is compared with."""
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(max(before, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def encoder_flop(path: Path, image_size: int) -> float | None:
    """Operations of one picture, or None where the file does not say what it computes.

    An .om hides its graph, so one of the size of ViT-g is taken for it. Raises what eva_vit_weights.read_weights does.
    """
    if path.suffix == ".onnx":
        return _onnx_flop(path, image_size)
    if path.suffix == ".pth":
        return geometry_flop(read_weights(path, None, image_size)[0])
    if path.stat().st_size < REAL_BYTES:
        return None
    return geometry_flop(Geometry(REAL_WIDTH, REAL_HIDDEN, REAL_DEPTH, 14, image_size))


def geometry_flop(g: Geometry) -> float:
    matrices = g.depth * (4 * g.width**2 + 2 * g.width * g.hidden) + 3 * g.patch**2 * g.width
    return transformer_flop(g.tokens, matrices, g.depth, g.width)


def _onnx_flop(path: Path, image_size: int) -> float | None:
    """From the weights' shapes and one Softmax per block; None without the onnx package or for another graph."""
    try:
        import onnx
    except ImportError:
        return None
    graph = onnx.load(str(path), load_external_data=False).graph
    shapes = [list(tensor.dims) for tensor in graph.initializer]
    filters = [shape for shape in shapes if len(shape) == 4 and shape[1] == 3]
    if len(filters) != 1:
        return None
    width, _, patch, _ = filters[0]
    # the table of positions has two dimensions too in some graphs, and is no matrix
    tokens = (image_size // patch) ** 2 + 1
    matrices = [a * b for a, b in (shape for shape in shapes if len(shape) == 2) if a != tokens]
    blocks = sum(node.op_type == "Softmax" for node in graph.node)
    return transformer_flop(tokens, sum(matrices) + 3 * patch**2 * width, blocks, width)


def rest_flop(half: Any, tokens: int) -> float:
    """Operations of Q-Former and projection for one picture of so many `tokens`."""
    if not half.has_qformer:
        return 2.0 * ((tokens - 1) // 4) * half.llama_proj.weight.numel()
    queries, hidden = half.query_tokens.shape[1:]
    flop = 2.0 * queries * half.llama_proj.weight.numel()
    for name, weight in half.Qformer.named_parameters():
        if weight.ndim != 2:
            continue
        # the keys and values of cross-attention are made of the picture, all else of the queries
        looked_at = ".crossattention.self.key." in name or ".crossattention.self.value." in name
        flop += 2.0 * (tokens if looked_at else queries) * weight.numel()
        if name.endswith("attention.self.query.weight"):  # both kinds: scores and their use
            flop += 4.0 * queries * (tokens if ".crossattention." in name else queries) * hidden
    return flop
