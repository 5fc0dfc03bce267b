"""ViT-g and `ln_vision` as one module: picture in, 257 features out.

MiniGPT-4 sees through EVA's ViT-g (https://arxiv.org/abs/2211.07636) the way BLIP-2 does (https://arxiv.org/abs/2301.12597):
the last block is left out, and a layer norm of BLIP-2's own, `ln_vision`, follows. The weights lie in two files:
`eva_vit_g.pth` has the transformer, BLIP-2's Q-Former file has `ln_vision` (and is the only file that has it).

Read it from the top: `EvaViT.forward` is the whole computation, `load_eva_vit` fills it from the files.
Parameters keep the names that they have in those files. eva_vit_graph.py replays it on CUDA; the ONNX file is not
exported from here but written node by node (export/vit_graph.py).
Upstream's counterpart: minigpt4/models/eva_vit.py and base_model.py:142-169 at d94738a.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .device import own_dtype
from .eva_vit_weights import HEAD_DIM, Geometry, PathLike, StateDict, read_weights
from .llama_linear import Linear, linears
from .llama_packing import linear, pack

BLOCK_EPS = 1e-6  # eva_vit.py:426
LN_VISION_EPS = 1e-5  # torch's default, base_model.py:237


class EvaViT(nn.Module):
    """The image half of MiniGPT-4. Build it with `load_eva_vit`; `geometry` says what it is."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        g = self.geometry = geometry
        self.cls_token = nn.Parameter(torch.zeros(1, 1, g.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, g.tokens, g.width))
        self.patch_embed = PatchEmbed(g)
        self.blocks = nn.ModuleList(Block(g) for _ in range(g.depth))
        self.ln_vision = nn.LayerNorm(g.width, eps=LN_VISION_EPS)

    def forward(self, images: Tensor, run_block: Callable[[Block, Tensor], Tensor] | None = None) -> Tensor:
        """Encode normalised pictures.

        images: (B, 3, image_size, image_size), any float dtype.
        run_block: computes one block instead of calling it; eva_vit_graph.py gives a compiled one.
        Returns (B, tokens, width), float32: the class token, then the patches row by row.
        Raises ValueError for pictures of another size.
        """
        size = self.geometry.image_size
        if tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(f"the image encoder takes (B, 3, {size}, {size}) pictures, got {tuple(images.shape)}.")
        with own_dtype(images.device):
            # A row of zeros in front, then one table adds the class token and all positions.
            table = torch.cat((self.cls_token + self.pos_embed[:, :1], self.pos_embed[:, 1:]), dim=1)
            x = F.pad(self.patch_embed(images), (0, 0, 1, 0)) + table
            for block in self.blocks:
                x = block(x) if run_block is None else run_block(block, x)
            return self.ln_vision(x)


class PatchEmbed(nn.Module):
    """(B, 3, S, S) -> (B, patches, width) in the matrices' dtype, row by row.

    The convolution's windows do not overlap, so it is a matrix product, and faster as one.
    """

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.patch, self.side = g.patch, g.image_size // g.patch
        self.proj = nn.Conv2d(3, g.width, kernel_size=g.patch, stride=g.patch)

    def forward(self, images: Tensor) -> Tensor:
        weight, side, patch = self.proj.weight, self.side, self.patch
        cells = images.to(weight.dtype).reshape(-1, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
        return F.linear(cells.reshape(-1, side * side, 3 * patch * patch), weight.flatten(1), self.proj.bias)


class Block(nn.Module):
    """One pre-norm transformer block, (B, N, width) -> (B, N, width).

    The residual stream and the norms stay in float32 also when the matrices are float16, as they do under upstream's
    autocast: 78 additions would pile up float16's rounding, and a norm's squares overflow above 255.
    """

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(g.width, eps=BLOCK_EPS)
        self.attn = Attention(g)
        self.norm2 = nn.LayerNorm(g.width, eps=BLOCK_EPS)
        self.mlp = Mlp(g)

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.mlp.fc1.weight.dtype
        x = x + self.attn(self.norm1(x).to(dtype))  # adding float16 to float32 gives float32
        return x + self.mlp(self.norm2(x).to(dtype))


class Attention(nn.Module):
    """Self-attention over all tokens; queries and values have a bias, keys have none."""

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.width, self.head_count = g.width, g.heads
        self.qkv = Linear(g.width, 3 * g.width)
        self.q_bias = nn.Parameter(torch.zeros(g.width))
        self.v_bias = nn.Parameter(torch.zeros(g.width))
        self.proj = Linear(g.width, g.width, bias=True)
        self._bias: Tensor | None = None  # of q, k and v, once `fuse` has made it

    def forward(self, x: Tensor) -> Tensor:
        qkv = linear(x, self.qkv.weight, self._join() if self._bias is None else self._bias)
        q, k, v = qkv.unflatten(-1, (3, self.head_count, HEAD_DIM)).permute(2, 0, 3, 1, 4).unbind(0)
        # Its scale is HEAD_DIM ** -0.5. Where it is fused, scores are float32. On an NPU that is npu_fusion_attention
        # from op-plugin 6.0.0 on (ScaledDotProductAttentionKernelNpuOpApi.cpp); before, without gradients and with 88
        # channels, the products and the softmax run one by one.
        mixed = F.scaled_dot_product_attention(q, k, v)
        return linear(mixed.transpose(1, 2).flatten(2), self.proj.weight, self.proj.bias)

    def fuse(self) -> None:
        """Keep the three biases in one tensor, instead of joining them at every call. q_bias and v_bias are its parts.

        A change of them in place is seen, and load_state_dict's; setting another parameter there is not.
        """
        self._bias = self._join()
        for name, part in (("q_bias", self._bias[: self.width]), ("v_bias", self._bias[-self.width :])):
            setattr(self, name, nn.Parameter(part, requires_grad=False))

    def _join(self) -> Tensor:
        return torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias)).detach()

    def _apply(self, fn: Callable[[Tensor], Tensor], *rest: Any) -> Attention:
        """.to(), .half() and the like make new parameters, which are parts of nothing."""
        super()._apply(fn, *rest)
        self._fuse_again()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """So do copy.deepcopy and pickle."""
        super().__setstate__(state)
        self._fuse_again()

    def _load_from_state_dict(self, *args: Any) -> None:
        """And load_state_dict with assign=True."""
        super()._load_from_state_dict(*args)
        self._fuse_again()

    def _fuse_again(self) -> None:
        if self._bias is not None:
            self.fuse()


class Mlp(nn.Module):
    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.fc1 = Linear(g.width, g.hidden, bias=True)
        self.fc2 = Linear(g.hidden, g.width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return linear(linear(x, self.fc1.weight, self.fc1.bias, gelu=True), self.fc2.weight, self.fc2.bias)


def load_eva_vit(
    vit_weights: PathLike,
    ln_vision: PathLike | None = None,
    image_size: int = 224,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> EvaViT:
    """Read the two weight files into an EvaViT, ready for inference.

    vit_weights: `eva_vit_g.pth`. Its sizes are read from the tensors; blocks behind the ones that BLIP-2 uses, `norm`
        and `head` are ignored.
    ln_vision: BLIP-2's Q-Former file, or None for a layer norm of ones and zeros. None is right for MiniGPT-4's Llama-2
        stage only: upstream has no Q-Former there and never loads one (minigpt4.py:60-71).
    image_size: pixels; position embeddings of another size are interpolated as upstream does (eva_vit.py:373).
    dtype: of the matrices. Norms, class token and positions are float32 always.
    device: where it will run. Each tensor goes there as it is read, and a processor's matrices are packed in the order
        in which it reads them (llama_packing.py; state_dict() gives plain copies). None: the CPU, and plain tensors.
    Raises FileNotFoundError, or ValueError that names the file and the keys when something is missing or does not fit.
    """
    geometry, state = read_weights(vit_weights, ln_vision, image_size)
    model = empty_eva_vit(geometry, state, vit_weights, ln_vision)
    _fill(model, state, dtype, device)
    for block in model.blocks:
        block.attn.fuse()
    return model


def empty_eva_vit(
    geometry: Geometry, state: StateDict, vit_weights: PathLike, ln_vision: PathLike | None = None
) -> EvaViT:
    """An EvaViT without numbers (on the meta device), once `state` is known to hold a tensor for each parameter.

    Raises ValueError that names the file and the keys that it lacks.
    """
    with torch.device("meta"):
        model = EvaViT(geometry)
    norm = {key.split(".")[1]: tensor for key, tensor in state.items() if key.startswith("ln_vision.")}
    _check(model.ln_vision, norm, ln_vision)
    _check(model, state, vit_weights)
    return model.eval()


def _check(module: nn.Module, state: StateDict, path: PathLike | None) -> None:
    """Every parameter of the module has a tensor of its shape in `state`, or ValueError names all that have not."""
    problems: list[str] = []
    for name, parameter in module.named_parameters():
        if name not in state:
            problems.append(f"{name} is missing")
        elif state[name].shape != parameter.shape:
            problems.append(f"{name} is {tuple(state[name].shape)}, expected {tuple(parameter.shape)}")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ValueError(f"{path} does not fit the image encoder: {shown}.")


def _fill(model: EvaViT, state: StateDict, dtype: torch.dtype, device: torch.device | None) -> None:
    """Move the tensors into the (meta) model one by one, so that the weights never exist twice."""
    largest = max((layer.weight.numel() for _, layer in linears(model)), default=0)
    space = torch.empty(largest if device is not None and device.type == "cpu" else 0, dtype=dtype)
    for name, _ in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        tensor = state.pop(name)
        if len(space) and leaf == "weight" and isinstance(module, Linear):
            tensor = _packed(tensor, space)
        else:
            kept = torch.float32 if isinstance(module, (nn.LayerNorm, EvaViT)) else dtype
            tensor = tensor.to(device or "cpu", kept, copy=True)
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))


def _packed(weight: Tensor, space: Tensor) -> Tensor:
    """The weight in `space`'s dtype, packed where this processor packs it.

    Converted in `space`: what is allocated and freed between tensors that stay leaves holes, a third of the model.
    """
    plain = space[: weight.numel()].view(weight.shape).copy_(weight)
    packed = pack(plain, float32=True)
    return plain.clone() if packed is plain else packed
