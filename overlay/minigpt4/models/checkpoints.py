"""Load a .pth file into a model, or say in one sentence what is wrong with the file.

Upstream loads with strict=False and drops the answer (minigpt4/models/base_model.py:223, minigpt4.py:193), so a
wrong file is silent and the model answers nonsense.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import torch
from torch import nn

_OTHER_FILES = {  # a key of the file, and what the file is then
    "patch_embed.proj.weight": "the image encoder's (eva_vit_g.pth): onnx_model_export.py reads that one",
    "model.embed_tokens.weight": "of the language model: llama_model names its folder",
    "bert.embeddings.word_embeddings.weight": "BERT's own: only its config.json is needed",
}
_FOUR_PATCHES = 4 * 1408  # llama_proj reads four patches at once where there is no Q-Former


class IncompleteCheckpoint(RuntimeError):
    """A checkpoint that cannot be read, is another file, or lacks weights of the part that it is there to fill."""


def load_checked(model: nn.Module, path: str | Path, prefixes: Sequence[str]) -> None:
    """Fill `model` from the "model" dict of the .pth file at `path`, which must hold every key under `prefixes`.

    Keys outside the prefixes belong to other files and may be missing; keys that the model lacks are ignored. The
    file is mapped, not read, so no second copy stays in memory. Raises IncompleteCheckpoint.
    """
    weights = _weights(path)
    wanted = _shown(model, {key.partition(".")[0] for key in (*prefixes, *weights)})
    for key in sorted(weights.keys() & wanted.keys(), key=lambda key: (not key.startswith(tuple(prefixes)), key)):
        found, expected = tuple(weights[key].shape), tuple(wanted[key].shape)
        if found != expected:
            raise IncompleteCheckpoint(
                f"{path}: {key} is {found}, but the model needs {expected}.{_why(key, found, expected)}"
            )
    missing = [key for key in wanted if key.startswith(tuple(prefixes)) and key not in weights]
    # a constant that some releases of transformers save and others do not
    missing = [key for key in missing if not key.endswith(".position_ids")]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise IncompleteCheckpoint(
            f"{path} lacks {len(missing)} weights that the model needs ({shown}). "
            "It is not the file that this configuration key is for, or it is damaged."
        )
    model.load_state_dict(weights, strict=False)


def _shown(model: nn.Module, parts: Set[str]) -> dict[str, torch.Tensor]:
    """state_dict() of these children and own parameters of `model`: the language model may have to copy its weights."""
    wanted = {name: tensor for name, tensor in model.named_parameters(recurse=False) if name in parts}
    for name, child in model.named_children():
        if name in parts:
            child.state_dict(destination=wanted, prefix=f"{name}.")
    return wanted


def read_pth(path: Path) -> Any:
    """What torch.save wrote, on the CPU; mapped where the format allows it, and never running code of the file."""
    try:
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # files in the format from before PyTorch 1.6 cannot be mapped
        return torch.load(str(path), map_location="cpu", weights_only=True)


def why_unreadable(path: Path, error: Exception) -> str:
    """One sentence or two for a weight file that `error` came out of."""
    with path.open("rb") as file:
        start = file.read(200).lstrip().lower()
    if not start:
        hint = "The file is empty: download it again."
    elif start.startswith(b"version https://git-lfs"):
        hint = "It is a Git LFS pointer: run `git lfs pull`."
    elif start.startswith((b"<!doctype", b"<html", b"<?xml")):
        hint = "It is a web page, not the file behind it: download it again, following the link to the file itself."
    else:
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        hint = f"{reason}. Is the download complete?"
    return f"{path} cannot be read as weights. {hint}"


def _weights(path: str | Path) -> dict[str, torch.Tensor]:
    if str(path).startswith(("http://", "https://")):
        raise IncompleteCheckpoint(f"{path} is an address: download the file and set its path in the YAML instead.")
    path = Path(path)
    if not path.is_file():
        raise IncompleteCheckpoint(f"{path} is a folder, not a file." if path.is_dir() else f"{path} does not exist.")
    try:
        content = read_pth(path)
    except Exception as error:
        raise IncompleteCheckpoint(why_unreadable(path, error)) from error
    keys = list(content) if isinstance(content, dict) else []
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        other = next((f" It is {what}." for key, what in _OTHER_FILES.items() if key in keys), "")
        shown = f" (it holds {', '.join(map(str, keys[:3]))}, …)" if keys else ""
        raise IncompleteCheckpoint(f'{path} has no part "model"{shown}: it is another file.{other}')
    return {key: value for key, value in content["model"].items() if isinstance(value, torch.Tensor)}


def _why(key: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """What usually stands behind a shape that differs."""
    if key.startswith(("Qformer.", "query_tokens")):
        return " The sizes come from config.json in the folder that `bert` names: is that bert-base-uncased?"
    if key == "llama_proj.weight" and found[-1:] == (_FOUR_PATCHES,):
        return " It is the checkpoint of the Llama-2 model; this configuration is Vicuna's."
    if key == "llama_proj.weight" and expected[-1:] == (_FOUR_PATCHES,):
        return " It is the checkpoint of the Vicuna model; this configuration is Llama-2's."
    if key.startswith("llama_proj."):
        return " It is the checkpoint of a language model of another size (7B, 13B)."
    return ""
