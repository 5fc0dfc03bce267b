"""The decoder's matrices: in full precision or int8, and several of Hugging Face's fused into one.

One product with [q; k; v] reads the input once and starts one kernel instead of three. Outside, Hugging Face's names
remain: state_dict() gives q_proj, k_proj and v_proj as views of the fused weight, and load_state_dict takes them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Callable

import torch
from torch import Tensor, nn

from .llama_ops import Ops
from .llama_packing import pack, unpack


class Linear(nn.Module):
    """x (…, inputs) -> (…, outputs). weight (outputs, inputs); scale (outputs,) when weight is int8."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        # Hugging Face's initialisation (initializer_range): for models that are filled with nothing else
        self.weight = nn.Parameter(torch.empty(outputs, inputs).normal_(std=0.02), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=False) if bias else None
        self.scale: nn.Parameter | None = None

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        if self.scale is None:
            return ops.linear(x, self.weight, self.bias)
        return ops.int8_linear(x, self.weight, self.scale, self.bias)

    def pack(self, dtype: torch.dtype) -> None:
        """Keep what is read at every token in the form in which it is read, where that changes no number.

        The weight in this processor's order, where it has one; int8's scale in the dtype of the activations.
        """
        if self.scale is None:
            self.weight = nn.Parameter(pack(self.weight), requires_grad=False)
        elif torch.equal(self.scale.to(dtype).float(), self.scale.float()):
            self.scale = nn.Parameter(self.scale.to(dtype), requires_grad=False)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """("weight", …), ("bias", …), ("scale", …), as far as there are; of a packed weight a plain copy."""
        for kind in ("weight", "bias", "scale"):
            tensor = getattr(self, kind)
            if tensor is not None:
                yield kind, unpack(tensor)

    def _apply(self, fn: Callable[[Tensor], Tensor], *rest: Any) -> Linear:
        """What .to(), .half() and .float() come to: a packed weight can be neither moved nor converted."""
        if not self.weight.is_mkldnn:
            return super()._apply(fn, *rest)
        packed, before = self.weight, torch.empty(1, dtype=self.weight.dtype)
        after = fn(before)
        stays = (after.dtype, after.device) == (before.dtype, before.device)  # upstream's .to(device) on every start
        self._parameters["weight"] = None if stays else nn.Parameter(unpack(packed), requires_grad=False)
        super()._apply(fn, *rest)
        self.weight = packed if stays else nn.Parameter(pack(self.weight), requires_grad=False)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """For copy.deepcopy and pickle, which cannot take a packed weight: a plain copy goes, to be packed there."""
        plain = nn.Parameter(unpack(self.weight), requires_grad=False) if self.weight.is_mkldnn else self.weight
        parameters = {**self._parameters, "weight": plain}
        return {**self.__dict__, "_parameters": parameters, "_packed": self.weight.is_mkldnn}

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state.pop("_packed")
        super().__setstate__(state)
        if packed:
            self.weight = nn.Parameter(pack(self.weight), requires_grad=False)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        for kind, tensor in self.tensors():
            destination[prefix + kind] = tensor if keep_vars else tensor.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if prefix + "weight" in state_dict:  # nothing can be written into a packed one
            self.weight = nn.Parameter(unpack(self.weight), requires_grad=False)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class FusedLinear(Linear):
    """Several of Hugging Face's linear layers over one input, their outputs one after the other."""

    def __init__(self, inputs: int, parts: dict[str, int], bias: bool = False) -> None:
        """parts: Hugging Face's name of each layer and its number of outputs, in order."""
        super().__init__(inputs, sum(parts.values()), bias)
        self.parts = parts

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        """Under Hugging Face's names: each part's rows, as views."""
        beside = prefix.rstrip(".").rpartition(".")[0] + "."  # "layers.0.self_attn.qkv_proj." -> "layers.0.self_attn."
        for kind, tensor in self.tensors():
            for part, rows in zip(self.parts, tensor.split(list(self.parts.values()))):
                destination[f"{beside}{part}.{kind}"] = rows if keep_vars else rows.detach()


def fuse_on_load(owner: nn.Module, name: str) -> None:
    """Let owner's load_state_dict take Hugging Face's names for the parts of its FusedLinear `name`."""
    parts = getattr(owner, name).parts
    owner._register_load_state_dict_pre_hook(functools.partial(_join, name, parts))


def _join(name: str, parts: dict[str, int], state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for kind in ("weight", "bias", "scale"):
        keys = [f"{prefix}{part}.{kind}" for part in parts]
        if all(key in state for key in keys):
            state[f"{prefix}{name}.{kind}"] = torch.cat([state.pop(key) for key in keys])


def linears(model: nn.Module) -> Iterator[tuple[str, Linear]]:
    """Every Linear of a model with its name; a fused one once."""
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            yield name, module
