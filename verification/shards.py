"""The tensors of a Hugging Face folder by name, read a few at a time, in any of the formats that Vicuna comes in."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overlaykit.errors import FixTheCommand

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
DERIVED = "rotary_emb.inv_freq"  # tables that old files hold and that are no weights


class Shards:
    """Which file holds which tensor of a folder with *.safetensors or pytorch_model*.bin.

    A file is opened for each read and closed after it, so that none of its pages count as this process's memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
        self.shapes: dict[str, Shape] = {}
        self.file_of: dict[str, Path] = {}
        for file in files:
            found = _shapes(file)
            self.shapes.update(found)
            self.file_of.update(dict.fromkeys(found, file))

    def check(self, wanted: Mapping[str, Shape]) -> None:
        """That all these are there, of these shapes. Raises FixTheCommand."""
        lacking = [name for name in wanted if name not in self.shapes]
        if lacking:
            more = f" and {len(lacking) - 1} more" if lacking[1:] else ""
            raise FixTheCommand(
                f"{self.folder} lacks the tensor {lacking[0]}{more}.",
                f"{len(self.shapes)} are in {len(set(self.file_of.values()))} files; a shard may be missing.",
                "`python verify.py weights` tells which.",
            )
        other = [name for name, shape in wanted.items() if self.shapes[name] != shape]
        if other:
            raise FixTheCommand(
                f"{self.file_of[other[0]]} holds {other[0]} of the shape {self.shapes[other[0]]}.",
                f"By config.json it is {wanted[other[0]]}.",
                "Take both files from one download.",
            )

    def read(self, into: Mapping[str, Tensor]) -> None:
        """Fill each tensor with the one of that name, which must be there; in the dtype of the tensor to be filled."""
        for file in {self.file_of[name] for name in into}:
            get = _opened(file)
            for name, tensor in into.items():
                if self.file_of[name] == file:
                    tensor.copy_(get(name))

    def each(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight, only one of them in memory at a time."""
        for name in self.shapes:
            yield name, _opened(self.file_of[name])(name)


def _shapes(file: Path) -> dict[str, Shape]:
    if file.suffix == ".safetensors":
        header = _safe(file)
        found = {name: tuple(header.get_slice(name).get_shape()) for name in header.keys()}  # noqa: SIM118
    else:
        found = {name: tuple(tensor.shape) for name, tensor in _mapped(file).items()}
    return {name: shape for name, shape in found.items() if not name.endswith(DERIVED)}


def _opened(file: Path) -> Callable[[str], Tensor]:
    if file.suffix == ".safetensors":
        return _safe(file).get_tensor
    return _mapped(file).__getitem__


def _safe(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(file), "pt")
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error


def _mapped(file: Path) -> Mapping[str, Tensor]:
    """Nothing is read yet but the names; nothing in the file is executed."""
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> FixTheCommand:
    reason = str(error).strip().splitlines() or [""]
    return FixTheCommand(
        f"{file} cannot be read piece by piece.",
        f"It is cut off, damaged, or of the format before torch 1.6 ({type(error).__name__}: {reason[0][:120]}).",
        "`python verify.py weights` tells which. To write an old file anew: torch.save(torch.load(FILE), FILE).",
    )
