"""The two weight files of the image half, and what their tensors say about its size.

`eva_vit_g.pth` has the transformer, BLIP-2's Q-Former file has `ln_vision` (and is the only file that has it).
"""

from __future__ import annotations

import inspect
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import torch
import torch.nn.functional as F

StateDict = dict[str, torch.Tensor]
PathLike = Union[str, Path]

HEAD_DIM = 88  # ViT-g: 1408 channels in 16 heads
REAL_WIDTH, REAL_HIDDEN, REAL_DEPTH = 1408, 6144, 39


@dataclass(frozen=True)
class Geometry:
    """The sizes of a ViT: `width` and `hidden` in channels, `patch` and `image_size` in pixels, `depth` in blocks."""

    width: int
    hidden: int
    depth: int
    patch: int
    image_size: int

    @property
    def heads(self) -> int:
        return self.width // HEAD_DIM

    @property
    def tokens(self) -> int:
        """One per patch and the class token in front."""
        return (self.image_size // self.patch) ** 2 + 1


def read_weights(
    vit_weights: PathLike, ln_vision: PathLike | None = None, image_size: int = 224
) -> tuple[Geometry, StateDict]:
    """Both files' tensors under EvaViT's names, positions interpolated to `image_size`; see eva_vit_model.load_eva_vit.

    The tensors of a file in torch's zip format stay on the disk until they are used (memory-mapped). The geometry is
    read from them. Raises FileNotFoundError, or ValueError for a file that is no such model.
    """
    norm = _read_ln_vision(ln_vision)
    state = _read(vit_weights)
    geometry = _geometry(state, vit_weights, image_size)
    state["pos_embed"] = _resize_positions(state["pos_embed"], geometry)
    width = geometry.width
    state.update(norm or {"ln_vision.weight": torch.ones(width), "ln_vision.bias": torch.zeros(width)})
    return geometry, state


def _read(path: PathLike) -> StateDict:
    """The tensors of a .pth file, with or without a `model` level around them."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the weight file {path} does not exist. Set its path in the model's YAML.")
    try:
        content = _load(path)
    except (MemoryError, PermissionError):
        raise  # another download would not help
    except Exception as error:
        raise ValueError(f"{path} cannot be read as PyTorch weights; download it again. ({error})") from error
    if isinstance(content, dict):
        content = content.get("model", content)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not weights by name: it is another file.")
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _load(path: PathLike) -> StateDict:
    """torch.load; mapped where the file is a zip archive and torch can (from 2.1)."""
    options = {"map_location": "cpu", "weights_only": True}
    if "mmap" in inspect.signature(torch.load).parameters and zipfile.is_zipfile(path):
        options["mmap"] = True
    return torch.load(str(path), **options)


def _read_ln_vision(path: PathLike | None) -> StateDict:
    """`ln_vision.weight` and `.bias` alone, so that the rest of the Q-Former file is freed. Empty when path is None."""
    if path is None:
        return {}
    state = _read(path)
    missing = [key for key in ("ln_vision.weight", "ln_vision.bias") if key not in state]
    if missing:
        raise ValueError(
            f"{path} has no {' and no '.join(missing)}. Without it every answer is wrong; it must be BLIP-2's file "
            "blip2_pretrained_flant5xxl.pth."
        )
    return {key: state[key] for key in ("ln_vision.weight", "ln_vision.bias")}


def _geometry(state: StateDict, path: PathLike, image_size: int) -> Geometry:
    wanted = {"patch_embed.proj.weight": 4, "blocks.0.mlp.fc1.weight": 2, "pos_embed": 3, "cls_token": 3}
    for name, dimensions in wanted.items():
        if name not in state:
            raise ValueError(f"{path} has no {name!r}: this is not an EVA ViT. It must be eva_vit_g.pth.")
        if state[name].dim() != dimensions:
            shape = tuple(state[name].shape)
            raise ValueError(f"{path} has a {name} of {shape}: this is not an EVA ViT. It must be eva_vit_g.pth.")
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    rows, side = state["pos_embed"].shape[1], round((state["pos_embed"].shape[1] - 1) ** 0.5)
    if rows != side * side + 1 or state["pos_embed"].shape[2] != width:
        raise ValueError(
            f"{path} has a pos_embed of {tuple(state['pos_embed'].shape)}, which is no square of patches and a class "
            f"token, {width} channels wide. Wrong file."
        )
    if width % HEAD_DIM:
        raise ValueError(f"{path} is {width} channels wide; ViT-g has heads of {HEAD_DIM} channels. Wrong file.")
    if image_size % patch:
        raise ValueError(f"an image size of {image_size} pixels is no multiple of the patch size {patch}.")
    stored = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    return Geometry(width, hidden, _depth(width, hidden, stored, path), patch, image_size)


def _depth(width: int, hidden: int, stored: int, path: PathLike) -> int:
    """BLIP-2 uses all blocks but the last (LAVIS builds 39 of the file's 40)."""
    if (width, hidden) != (REAL_WIDTH, REAL_HIDDEN):
        return stored - 1  # a small set for tests, made in the same shape
    if stored < REAL_DEPTH:
        raise ValueError(f"{path} has {stored} blocks; ViT-g needs {REAL_DEPTH}. The file is damaged or another one.")
    return REAL_DEPTH


def _resize_positions(pos_embed: torch.Tensor, g: Geometry) -> torch.Tensor:
    """(1, 1 + n * n, width) -> (1, tokens, width). The class token's row stays, the grid is interpolated."""
    if pos_embed.shape[1] == g.tokens:
        return pos_embed
    old, new = round((pos_embed.shape[1] - 1) ** 0.5), g.image_size // g.patch
    grid = pos_embed[:, 1:].float().reshape(1, old, old, g.width).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat((pos_embed[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
