"""What the file of an image encoder is, what it takes and gives, and which ln_vision it has inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

import numpy as np
import torch

PathLike = Union[str, Path]
LN_VISION_KEY = "ln_vision"  # of an .onnx file's metadata and of a record; the values are those of ln_vision_kind


def find_file(path: PathLike, ln_vision: PathLike | None) -> Path:
    """The encoder's file. The seed names its folder (`${om_model_path}/`), so that is taken too."""
    found = Path(path).expanduser()
    if found.is_dir():
        found = _inside(found, ln_vision)
    if found.suffix not in (".om", ".onnx", ".pth"):
        raise ValueError(
            f"the image encoder {str(path)!r} is neither .om, .onnx nor .pth: the suffix picks what runs it."
        )
    if not found.is_file():
        raise FileNotFoundError(
            f"the image encoder {found} does not exist. Set `encoder` in the model's YAML to an .om (NPU), an .onnx "
            "from onnx_model_export.py, or eva_vit_g.pth."
        )
    return found


def _inside(folder: Path, ln_vision: PathLike | None) -> Path:
    if ln_vision is None:
        raise ValueError(
            f"the folder {folder} stands for its eva_vit_g, which is not the encoder of a model without Q-Former. "
            "Set `encoder` in the model's YAML to the file itself, such as eva_vit_g_llama2.om."
        )
    files = [file for file in (folder / "eva_vit_g.om", folder / "eva_vit_g.onnx") if file.is_file()]
    if len(files) != 1:
        raise FileNotFoundError(
            f"the folder {folder} holds {len(files)} of eva_vit_g.om and eva_vit_g.onnx, and there must be exactly "
            "one. Set `encoder` in the model's YAML to the file itself."
        )
    return files[0]


def ln_vision_kind(ln_vision: PathLike | None) -> str:
    """Which ln_vision an encoder has inside: "blip2" (trained, from the Q-Former's file) or "default" (untrained)."""
    return "default" if ln_vision is None else "blip2"


def check_ln_vision(path: Path, inside: str | None, ln_vision: PathLike | None) -> None:
    """inside: what the file says of itself, None when it says nothing. Raises ValueError where it is the other one."""
    wanted = ln_vision_kind(ln_vision)
    if inside not in (None, wanted):
        right = "eva_vit_g_llama2" if wanted == "default" else "eva_vit_g"
        raise ValueError(
            f"{path} was exported with ln_vision={inside}, and this model needs ln_vision={wanted}: it would answer "
            f"nonsense. Set `encoder` in the model's YAML to {right}{path.suffix}, or export it with the model's own "
            "YAML: python onnx_model_export.py --cfg-path YAML."
        )


def signature(path: Path, taken: list[Any], given: list[Any], dtype: Any) -> tuple[int | None, tuple[int, ...]]:
    """(batch, or None when it is dynamic, and (3, S, S)) of a file that takes pictures and gives one output.

    taken, given: what has `name` and `shape`, of every input and output; a dynamic size is -1 or a name. dtype: numpy's
    of the input, None when it is no float. Raises ValueError for a file that is no such encoder.
    """
    shape = list(taken[0].shape) if len(taken) == 1 else []
    fixed = len(shape) == 4 and all(isinstance(n, int) and n > 0 for n in shape[1:])
    if dtype is None or not fixed or shape[1] != 3 or len(given) != 1:
        raise ValueError(
            f"{path} has inputs {[(t.name, list(t.shape)) for t in taken]} and {len(given)} outputs; MiniGPT-4's image "
            "encoder has one float input (B, 3, S, S) and one output. Make it with onnx_model_export.py."
        )
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    return batch, tuple(shape[1:])


def to_numpy(images: torch.Tensor, dtype: Any) -> np.ndarray:
    """A plain C-contiguous array of the file's own dtype, on the host."""
    return np.ascontiguousarray(images.to("cpu", torch.float32).numpy(), dtype=dtype)
