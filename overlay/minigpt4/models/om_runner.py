"""The image encoder as an .om: pictures in, features out, on the batch sizes that the file was converted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .encoder_files import LN_VISION_KEY, PathLike, check_ln_vision, signature, to_numpy
from .encoder_record import read_record, record_path
from .om_session import OmSession


class OmRunner:
    """See image_encoder for what a runner has. `batches`: the batch sizes that may be run, ascending."""

    def __init__(self, path: Path, device: torch.device, ln_vision: PathLike | None) -> None:
        """device: an NPU, or another one for NPU 0. Raises as OmSession, and ValueError for a file of another kind."""
        record = read_record(path) or read_record(path.resolve())
        check_ln_vision(path, record.get(LN_VISION_KEY), ln_vision)
        self.session = OmSession(path, device.index or 0 if device.type == "npu" else 0)
        try:
            taken = self.session.inputs
            batch, self.image_shape = signature(path, taken, self.session.outputs, taken[0].dtype if taken else None)
            self.batches = (batch,) if batch else _profiles(path, record)
        except BaseException:
            self.session.close()
            raise
        self._mode = "static" if batch else "dymbatch"

    def run(self, images: torch.Tensor) -> torch.Tensor:
        """images: (B, 3, S, S), B one of `batches`. Returns what the file gives, on the host, float32 or float16."""
        array = to_numpy(images, self.session.inputs[0].dtype)
        if len(array) not in self.batches:
            raise ValueError(f"{self.session.file} takes batches of {self.batches}, got {len(array)} pictures.")
        return torch.from_numpy(self.session.infer([array], self._mode)[0])

    def close(self) -> None:
        self.session.close()


def _profiles(path: Path, record: dict[str, Any]) -> tuple[int, ...]:
    """The batch sizes of a dynamic batch, which an .om does not say itself.

    Raises ValueError where the record beside it is missing, belongs to another file, or does not list them.
    """
    batches = record.get("batches")
    usable = isinstance(batches, list) and batches and all(type(n) is int and n > 0 for n in batches)
    if not isinstance(batches, list) or not usable:
        raise ValueError(
            f"{path} has a dynamic batch and runs only the batch sizes that ATC was given, which "
            f"{record_path(path).name} beside it would list: it is missing, or not of this file. Convert with "
            "om_model_convert.py, which writes it (copy both files together), or with "
            '--input_shape="input:1,3,224,224": larger batches are split here.'
        )
    return tuple(sorted(set(batches)))
