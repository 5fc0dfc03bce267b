"""Names and shapes inside a weight file. Pickles are opened with weights_only alone: nothing in a file is executed."""

from __future__ import annotations

import inspect
import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verification.memory import available_memory
from verification.weightfiles.recognise import Trouble
from verification.weights import read_tensors

Shapes = Mapping[str, tuple[int, ...]]
NAMED = 3  # tensors in one sentence
DELTA = 0.1  # mean |weight| of LLaMA's last norm: above 1 in every LLaMA, near 0 in the difference of two of them


def shapes(path: Path) -> Shapes | Trouble | None:
    """Shape of every tensor in `path`. None: not opened, because torch is missing or would need too much memory."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        try:
            return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        except (KeyError, TypeError):
            return Trouble("damaged", "its header does not say the shapes of its tensors")
    content = tensors(path)
    if not isinstance(content, Mapping):
        return content
    return {name: tuple(tensor.shape) for name, tensor in content.items()}


def tensors(path: Path) -> Mapping[str, Any] | Trouble | None:
    """The tensors themselves, mapped rather than read."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    free = available_memory()
    mapped = path.suffix == ".safetensors" or "mmap" in inspect.signature(torch.load).parameters  # from torch 2.1 on
    if not mapped and free is not None and path.stat().st_size > free // 2:
        return None
    try:
        content = read_tensors(path)
        return {name: tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        what = f"it holds more than tensors, or is no PyTorch file, and was not opened: that could run code ({reason})"
        return Trouble("unsafe", what)
    except MemoryError:
        return None
    except Exception as error:  # torch has no class for a file that it cannot read
        return Trouble(
            "damaged", f"PyTorch cannot read it ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
        )


def compare(found: Shapes, expected: Shapes) -> str:
    """What is missing or has another shape, in one sentence; "" when all is there."""
    missing = [name for name in expected if name not in found]
    wrong = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    parts = wrong[:NAMED] + ([f"and {len(wrong) - NAMED} more"] if len(wrong) > NAMED else [])
    if missing:
        others = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        parts.append("missing: " + ", ".join(missing[:NAMED]) + others)
    return "; ".join(parts)


def is_delta(path: Path, name: str = "model.norm.weight") -> bool:
    """Is this shard of a Llama the difference to another model, to be added to it, as Vicuna was first published?"""
    content = tensors(path)
    return isinstance(content, Mapping) and name in content and float(content[name].float().abs().mean()) < DELTA
