"""What the image half's benchmarks set side by side: encoders of one set of weights, and MiniGPT-4 up to a token."""

from __future__ import annotations

import gc
import importlib
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import onnxruntime
import port_package  # noqa: F401  the overlay's model files become `port.models`
import torch
from port.export import onnx_file
from port.models.device import choose_dtype
from port.models.eva_vit_weights import read_weights
from port.models.image_encoder import IMAGE_ENCODER_OM
from port.perf.measure import read_clock
from torch import Tensor, nn

from benchmarks.upstream_source import TheirEncoder, Upstream

Files = tuple[Path, Path]  # eva_vit_g.pth and blip2.pth
Side = Callable[[Tensor], Tensor]
UPSTREAM = "upstream, eager"
# What the goals name and users get from IMAGE_ENCODER_OM without a switch.
CANDIDATES = ("ours, float16", "ours, bfloat16", "onnxruntime, float32")
OPSET = 13
SHAPE: dict[str, int] = {}  # of the language model, where not Vicuna-7B's
LLAMA_WIDTH, QUERIES, BERT_WIDTH = 4096, 32, 768


def on_cpu(upstream: Upstream, files: Files, folder: Path) -> dict[str, Side]:
    """All sides with the same weights and threads."""
    device = torch.device("cpu")
    return {
        f"{UPSTREAM} float32": TheirEncoder(upstream, *files, device),
        "ours, float32": ours(files, device, "float32"),
        "ours, bfloat16": ours(files, device, "bfloat16"),
        "onnxruntime, float32": exported(folder, files, "fp32"),
    }


def on_cuda(upstream: Upstream, files: Files, device: torch.device) -> dict[str, Side]:
    theirs = TheirEncoder(upstream, *files, device).halve()
    return {
        f"{UPSTREAM} float16": lambda images: theirs(images, torch.float16),
        "ours, float16": ours(files, device, "float16"),
        "ours, bfloat16": ours(files, device, "bfloat16"),
        "ours, bfloat16, compiled": ours(files, device, "bfloat16", compiled=True),
    }


def exactly(upstream: Upstream, files: Files, images: Tensor) -> Tensor:
    """Upstream's features in float32, without TF32, on the CPU. The model is gone when this returns."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return TheirEncoder(upstream, *files, images.device)(images).cpu()


def ours(files: Files, device: torch.device, dtype: str, compiled: bool = False) -> Side:
    """The port's encoder on eva_vit_g.pth; uncached."""
    choose_dtype(device, dtype)
    try:
        encoder = IMAGE_ENCODER_OM(files[0], device, ln_vision=files[1])
        if compiled:
            encoder.compile()
    finally:
        choose_dtype(device, "auto")

    def encode(images: Tensor) -> Tensor:
        features = encoder.encode(images)
        if encoder.compiled != compiled:
            raise SystemExit("torch.compile failed, see the warning above: nothing compiled would be measured.")
        return features

    return encode


def exported(folder: Path, files: Files, precision: str) -> Side:
    """The file of onnx_model_export.py in onnxruntime, with as many threads as PyTorch has: it counts them itself."""
    geometry, state = read_weights(*files)
    options = onnx_file.Options(OPSET, precision, (1,), geometry.image_size, "blip2")
    path, on_disk = onnx_file.write(folder, "eva_vit_g", geometry, state, options, lambda count: None)
    on_disk()  # no timing beside a busy disk
    del state
    gc.collect()
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = torch.get_num_threads()
    session = partial(onnxruntime.InferenceSession, sess_options=session_options)
    with mock.patch.object(onnxruntime, "InferenceSession", session):
        return IMAGE_ENCODER_OM(path, "cpu", ln_vision=files[1]).encode


@torch.no_grad()
def interleave(
    sides: dict[str, Callable[[], Any]], device: torch.device, repeat: int, calls: int, beside: Callable[[], Any]
) -> tuple[dict[str, list[float]], list[Any]]:
    """Seconds of each side, one value per round, and what `beside` gave in each.

    A different side is first in every round, so that what else the machine does falls on all of them. A value is the
    median of `calls` calls, each waited for. Three calls come before: one may record, one compile.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        for _ in range(3 if device.type == "cuda" else 1):
            side()
    found = []
    for turn in range(repeat):
        found.append(beside())
        order = list(sides.items())
        first = turn % len(order)
        for name, side in order[first:] + order[:first]:
            taken[name].append(statistics.median(_seconds(side, device) for _ in range(calls)))
    return taken, found


def _seconds(side: Callable[[], Any], device: torch.device) -> float:
    start = read_clock(device)
    side()
    return read_clock(device) - start


class FirstToken:
    """MiniGPT-4 from pixels to the first token, with random weights of the real shape, and its parts.

    In a patched workspace Q-Former, projection and how they are called are upstream's, as a user runs them; without
    one, Hugging Face's Blip2QFormerModel stands in for the Q-Former.
    """

    def __init__(self, files: Files, upstream: Upstream, device: torch.device, dtype: str, layers: int) -> None:
        package = "port"
        if upstream.repo is not None:
            package = "minigpt4"
            sys.path.insert(0, str(upstream.workspace()))
        importlib.import_module(f"{package}.models.device").choose_dtype(device, dtype)
        perf = importlib.import_module(f"{package}.perf.run")
        shape = importlib.import_module(f"{package}.models.llama_config").LlamaConfig
        config = shape(**SHAPE, num_hidden_layers=layers)
        self.llm = perf.random_model(config, device, getattr(torch, dtype), int8=False)
        self.run = importlib.import_module(f"{package}.models.llama_generate").Run
        if upstream.repo is None:
            self.half, self.encode = HuggingFaceHalf(device, getattr(torch, dtype)), ours(files, device, dtype)
        else:
            self.half = _upstreams_half(files, upstream.folder, device)
            self.encode = self.half.visual_encoder.encode

    def ids(self, count: int) -> Tensor:
        """(1, count) of a text; speed does not depend on which."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(3, self.llm.config.vocab_size, (1, count), generator=generator)

    @torch.no_grad()
    def features_to_embeddings(self, pixels: Tensor, features: Tensor) -> Tensor:
        self.half.visual_encoder = lambda images: features
        return self.half.encode_img(pixels)[0]

    @torch.no_grad()
    def prefill(self, ids: Tensor, embeddings: Tensor) -> int:
        """ids: (1, T) of the text around the picture. Returns the first token."""
        text = self.llm.model.embed_tokens(ids)
        middle = ids.shape[1] // 2
        prompt = torch.cat((text[:, :middle], embeddings.to(text.dtype), text[:, middle:]), dim=1)
        mask = torch.ones(prompt.shape[:2], dtype=torch.bool, device=prompt.device)
        return int(self.run(self.llm, prompt, mask, capacity=prompt.shape[1] + 1).prefill().argmax(-1))

    @torch.no_grad()
    def whole(self, pixels: Tensor, ids: Tensor) -> int:
        self.half.visual_encoder = self.encode
        return self.prefill(ids, self.half.encode_img(pixels)[0])


def _upstreams_half(files: Files, folder: Path, device: torch.device) -> Any:
    """perf/image_half.py's, of the workspace, with the encoder of `files` and the rest random."""
    from omegaconf import OmegaConf

    image_half = importlib.import_module("minigpt4.perf.image_half")
    config = OmegaConf.create({"encoder": str(files[0]), "num_query_token": QUERIES, "image_size": 224})
    (folder / "random").mkdir()
    config.update(image_half.write_random(folder / "random", config, str(files[1])))
    return image_half.load(config, device)


class HuggingFaceHalf(nn.Module):
    """Q-Former and projection of the real shape with upstream's interface."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        self.qformer = Blip2QFormerModel(Blip2QFormerConfig(encoder_hidden_size=IMAGE_ENCODER_OM.num_features))
        self.queries = nn.Parameter(torch.randn(1, QUERIES, BERT_WIDTH))
        self.projection = nn.Linear(BERT_WIDTH, LLAMA_WIDTH)
        self.visual_encoder: Side = lambda images: images
        self.to(device, dtype).eval()

    def encode_img(self, pixels: Tensor) -> tuple[Tensor, None]:
        features = self.visual_encoder(pixels).to(self.queries.dtype)
        queries = self.queries.expand(len(features), -1, -1)
        return self.projection(self.qformer(query_embeds=queries, encoder_hidden_states=features)[0]), None
