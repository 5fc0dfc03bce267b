"""Weight files of the image half for the benchmarks: real shapes and formats, made-up numbers.

random    products that keep the variance, and a residual stream that grows from 0.1 to about 1, as in a trained ViT.
outliers  the same, with what trained transformers have besides. Three channels of the residual stream are 30 times the
          others (ln_vision damps them again, as the last norm of a trained stack does), and six channels behind every
          norm 20 times, whose matrices are that much smaller in those columns.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

KINDS = ("random", "outliers")
STREAM, STREAM_FACTOR = 3, 30.0
NORMED, NORM_FACTOR = 6, 20.0
IMAGE_SIZE, PATCH = 224, 14


def write_files(
    folder: Path, kind: str, width: int = 1408, hidden: int = 6144, depth: int = 39, image_size: int = IMAGE_SIZE
) -> tuple[Path, Path]:
    """eva_vit_g.pth (float16, with the last block that nobody uses) and blip2.pth in `folder`; -> both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    vit, blip2 = folder / "eva_vit_g.pth", folder / "blip2.pth"
    state = _state(width, hidden, depth + 1, (image_size // PATCH) ** 2 + 1)
    ln_vision = {"ln_vision.weight": 1 + _normal(width, std=0.15), "ln_vision.bias": _normal(width, std=0.1)}
    if kind == "outliers":
        _scale(state, ln_vision, width, depth + 1)
    torch.save({name: tensor.half() for name, tensor in state.items()}, vit)
    torch.save({"model": {name: tensor.float() for name, tensor in ln_vision.items()}}, blip2)
    return vit, blip2


def _normal(*shape: int, std: float) -> Tensor:
    return torch.randn(*shape) * std


def _state(width: int, hidden: int, blocks: int, tokens: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = {
        "cls_token": _normal(1, 1, width, std=0.1),
        "pos_embed": _normal(1, tokens, width, std=0.05),
        "patch_embed.proj.weight": _normal(width, 3, PATCH, PATCH, std=0.1 / math.sqrt(3 * PATCH**2)),
        "patch_embed.proj.bias": _normal(width, std=0.01),
    }
    for i in range(blocks):
        block = {f"norm{n}.weight": 1 + _normal(width, std=0.15) for n in (1, 2)}
        block.update({f"norm{n}.bias": _normal(width, std=0.05) for n in (1, 2)})
        block["attn.q_bias"], block["attn.v_bias"] = _normal(width, std=0.5), _normal(width, std=0.2)
        block["attn.qkv.weight"] = _normal(3 * width, width, std=1.2 / math.sqrt(width))
        block["attn.proj.weight"] = _normal(width, width, std=0.3 / math.sqrt(width))
        block["mlp.fc1.weight"] = _normal(hidden, width, std=1 / math.sqrt(width))
        block["mlp.fc2.weight"] = _normal(width, hidden, std=0.3 / math.sqrt(hidden))
        for name, size, std in (("attn.proj", width, 0.01), ("mlp.fc1", hidden, 0.1), ("mlp.fc2", width, 0.01)):
            block[f"{name}.bias"] = _normal(size, std=std)
        state.update({f"blocks.{i}.{name}": tensor.half() for name, tensor in block.items()})
    return state


def _scale(state: dict[str, Tensor], ln_vision: dict[str, Tensor], width: int, blocks: int) -> None:
    """Make the outliers of "outliers"; see the top of this file."""
    stream = torch.arange(STREAM) * (width // STREAM) + 3
    normed = torch.arange(NORMED) * (width // NORMED) + 7
    state["pos_embed"][..., stream] *= STREAM_FACTOR
    ln_vision["ln_vision.weight"][stream] /= STREAM_FACTOR
    for i in range(blocks):
        for writer in ("attn.proj", "mlp.fc2"):
            for end in ("weight", "bias"):
                state[f"blocks.{i}.{writer}.{end}"][stream] *= STREAM_FACTOR
        for norm, reader in (("norm1", "attn.qkv"), ("norm2", "mlp.fc1")):
            for end in ("weight", "bias"):
                state[f"blocks.{i}.{norm}.{end}"][normed] *= NORM_FACTOR
            state[f"blocks.{i}.{reader}.weight"][:, normed] /= NORM_FACTOR
