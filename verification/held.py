"""What a model holds, by the names of its state_dict, without a second copy of the model.

state_dict() unpacks every weight that is packed for the processor (models/llama_packing.py): all of them at once are as
large as the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn


class Held(Mapping[str, Tensor]):
    """The part of model.state_dict() whose names begin with one of `prefixes`, read module by module when asked for."""

    def __init__(self, model: nn.Module, *prefixes: str, strip: str = "") -> None:
        """strip: taken off the front of each name."""
        self._owner: dict[str, tuple[str, nn.Module]] = {}
        for path, module in model.named_modules():
            if not any(path.startswith(prefix.rstrip(".")) or prefix.startswith(path) for prefix in prefixes or ("",)):
                continue
            for name in _own(path, module):
                if name.startswith(prefixes or "") and not name.endswith(".position_ids"):
                    self._owner[name[len(strip) :]] = (path, module)
        self._strip = strip

    def __getitem__(self, name: str) -> Tensor:
        return _own(*self._owner[name])[self._strip + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._owner)

    def __len__(self) -> int:
        return len(self._owner)


def _own(path: str, module: nn.Module) -> dict[str, Tensor]:
    """What the module itself adds to the model's state_dict."""
    tensors: dict[str, Tensor] = {}
    module._save_to_state_dict(tensors, f"{path}." if path else "", False)
    return tensors
