"""MiniGPT-4 without its language model, so that encoding a picture can be measured without 13 GB of weights.

It is upstream's own class with its own `encode_img`; only init_llm gives back an empty stand-in. Runs in a workspace.
"""

from __future__ import annotations

import json
import pickle
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.checkpoints import read_pth
from ..models.device import compute_dtype
from ..models.eva_vit_weights import REAL_WIDTH

LLAMA_WIDTH = 4096  # Vicuna-7B's


class NoLanguageModel(nn.Module):
    """What MiniGPT4 asks of the language model before there is a prompt: its width and its dtype."""

    int8 = False

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(hidden_size=width)
        self.dtype = dtype


def load(model_cfg: Any, device: torch.device) -> Any:
    """The MiniGPT4 of a YAML's model section on `device`, with the encoder, the Q-Former and the projection it names.

    Raises what IMAGE_ENCODER_OM and checkpoints.load_checked raise for files that are missing or others.
    """
    from ..models.minigpt4 import MiniGPT4  # upstream's, with the patches: not there outside a workspace

    llm = NoLanguageModel(_llama_width(model_cfg.ckpt), compute_dtype(device))

    class ImageHalf(MiniGPT4):
        def init_llm(self, *_: Any, **__: Any) -> tuple[nn.Module, None]:
            return llm, None

    model_cfg.device_8bit = str(device)
    return ImageHalf.from_config(model_cfg).to(device).eval()


def _llama_width(checkpoint: str) -> int:
    """Rows of llama_proj. load_checked says what is wrong with a file that has none."""
    try:
        weights = read_pth(Path(checkpoint))
        return int(weights.get("model", weights)["llama_proj.weight"].shape[0])
    except (OSError, RuntimeError, ValueError, LookupError, AttributeError, pickle.UnpicklingError):
        return LLAMA_WIDTH


def write_random(folder: Path, model_cfg: Any, ln_vision: str | None) -> dict[str, str]:
    """Random Q-Former and projection of the real shape as files in `folder`: {key of the model section: path}.

    All tensors are views of one, which the file holds once, so that it has 100 MB at most. ln_vision: a file to take
    that layer from, else it is one of ones and zeros.
    """
    has_qformer = model_cfg.get("has_qformer", True)
    paths = {"ckpt": folder / "projection.pth"}
    shapes = {"llama_proj.weight": (LLAMA_WIDTH, 768 if has_qformer else 4 * REAL_WIDTH), "llama_proj.bias": (4096,)}
    torch.save({"model": _random(shapes)}, paths["ckpt"])
    if has_qformer:
        from ..models.minigpt4 import MiniGPT4

        paths.update(bert=folder / "bert", q_former_model=folder / "qformer.pth")
        paths["bert"].mkdir()
        (paths["bert"] / "config.json").write_text(json.dumps({"model_type": "bert"}))  # all defaults: bert-base
        with torch.device("meta"):
            qformer, queries = MiniGPT4.init_Qformer(model_cfg.num_query_token, REAL_WIDTH, True, str(paths["bert"]))
        state = {f"Qformer.{name}": tensor for name, tensor in qformer.state_dict().items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if tensor.is_floating_point()}
        weights = _random({**shapes, "query_tokens": tuple(queries.shape)})
        weights.update({"ln_vision.weight": torch.ones(REAL_WIDTH), "ln_vision.bias": torch.zeros(REAL_WIDTH)})
        if ln_vision:
            weights.update(_ln_vision(ln_vision))
        torch.save({"model": weights}, paths["q_former_model"])
    return {key: str(path) for key, path in paths.items()}


def _ln_vision(path: str) -> dict[str, torch.Tensor]:
    given = read_pth(Path(path))
    given = given.get("model", given)
    try:
        return {name: given[name] for name in ("ln_vision.weight", "ln_vision.bias")}
    except KeyError as missing:
        raise ValueError(f"--ln-vision: {path} has no {missing}. It must be BLIP-2's Q-Former file.") from missing


def _random(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Matrices of the usual size; norms' weights are ones."""
    generator = torch.Generator().manual_seed(0)
    numbers = 0.02 * torch.randn(max(torch.Size(shape).numel() for shape in shapes.values()), generator=generator)
    return {
        name: torch.ones(shape)
        if name.endswith("LayerNorm.weight")
        else numbers[: torch.Size(shape).numel()].view(shape)
        for name, shape in shapes.items()
    }
