"""The decoder's matrices: in full precision or int8, and several of Hugging Face's fused into one.

One product with [q; k; v] reads the input once and starts one kernel instead of three. Outside, Hugging Face's names
remain: state_dict() gives q_proj, k_proj and v_proj as views of the fused weight, and load_state_dict takes them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .llama_ops import Ops


class Linear(nn.Module):
    """x (…, inputs) -> (…, outputs). weight (outputs, inputs); scale (outputs,) float32 when weight is int8."""

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


class FusedLinear(Linear):
    """Several of Hugging Face's linear layers over one input, their outputs one after the other."""

    def __init__(self, inputs: int, parts: dict[str, int], bias: bool = False) -> None:
        """parts: Hugging Face's name of each layer and its number of outputs, in order."""
        super().__init__(inputs, sum(parts.values()), bias)
        self.parts = parts

    def pieces(self) -> Iterator[tuple[str, Tensor]]:
        """("q_proj.weight", its rows of the fused weight), … for every part and each of weight, bias and scale."""
        start = 0
        for name, rows in self.parts.items():
            for kind in ("weight", "bias", "scale"):
                tensor = getattr(self, kind)
                if tensor is not None:
                    yield f"{name}.{kind}", tensor[start : start + rows]
            start += rows

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        for name, tensor in self.pieces():
            destination[_beside(prefix) + name] = tensor if keep_vars else tensor.detach()


def fuse_on_load(owner: nn.Module, name: str) -> None:
    """Let owner's load_state_dict take Hugging Face's names for the parts of its FusedLinear `name`."""
    fused: FusedLinear = getattr(owner, name)

    def join(state: dict[str, Tensor], prefix: str, *_: object) -> None:
        for kind in ("weight", "bias", "scale"):
            keys = [f"{prefix}{part}.{kind}" for part in fused.parts]
            if all(key in state for key in keys):
                state[f"{prefix}{name}.{kind}"] = torch.cat([state.pop(key) for key in keys])

    owner._register_load_state_dict_pre_hook(join)


def _beside(prefix: str) -> str:
    """ "layers.0.self_attn.qkv_proj." -> "layers.0.self_attn." """
    return prefix.rstrip(".").rpartition(".")[0] + "."


def linears(model: nn.Module) -> Iterator[tuple[str, Linear]]:
    """Every Linear of a model with its name; a fused one once."""
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            yield name, module
