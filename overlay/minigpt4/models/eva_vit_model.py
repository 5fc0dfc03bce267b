"""ViT-g and `ln_vision` as one module: picture in, 257 features out.

MiniGPT-4 sees through EVA's ViT-g (https://arxiv.org/abs/2211.07636) the way BLIP-2 does (https://arxiv.org/abs/2301.12597):
the last block is left out, and a layer norm of BLIP-2's own, `ln_vision`, follows. The weights lie in two files:
`eva_vit_g.pth` has the transformer, BLIP-2's Q-Former file has `ln_vision` (and is the only file that has it).

Read it from the top: `EvaViT.forward` is the whole computation, `load_eva_vit` fills it from the files.
Parameters keep the names that they have in those files.
Upstream's counterpart: minigpt4/models/eva_vit.py and base_model.py:142-169 at d94738a.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F

from .eva_vit_weights import HEAD_DIM, Geometry, PathLike, StateDict, read_weights

BLOCK_EPS = 1e-6  # eva_vit.py:426
LN_VISION_EPS = 1e-5  # torch's default, base_model.py:237


class EvaViT(nn.Module):
    """The image half of MiniGPT-4. Build it with `load_eva_vit`; `geometry` says what it is."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        g = self.geometry = geometry
        self.cls_token = nn.Parameter(torch.zeros(1, 1, g.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, g.tokens, g.width))
        self.patch_embed = _named(proj=nn.Conv2d(3, g.width, kernel_size=g.patch, stride=g.patch))
        self.blocks = nn.ModuleList(Block(g) for _ in range(g.depth))
        self.ln_vision = nn.LayerNorm(g.width, eps=LN_VISION_EPS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Encode normalised pictures.

        images: (B, 3, image_size, image_size), any float dtype.
        Returns (B, tokens, width), float32: the class token, then the patches row by row.
        Raises ValueError for pictures of another size.
        """
        self._check_size(images)
        patches = self.patch_embed(_cast(images, self.patch_embed.proj.weight.dtype))
        patches = patches.reshape(-1, self.geometry.width, self.geometry.tokens - 1).transpose(1, 2)
        # A row of zeros in front, then one table adds the class token and all positions. Upstream expands the class
        # token over the batch instead: the same numbers, but Shape, Where and Expand nodes in the exported graph.
        table = torch.cat((self.cls_token + self.pos_embed[:, :1], self.pos_embed[:, 1:]), dim=1)
        x = F.pad(_cast(patches, table.dtype), (0, 0, 1, 0)) + table
        for block in self.blocks:
            x = block(x)
        return self.ln_vision(x)

    def _check_size(self, images: torch.Tensor) -> None:
        # While a graph is traced, sizes are tensors and a Python `if` on them means nothing.
        size = self.geometry.image_size
        if not torch.jit.is_tracing() and tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(f"the image encoder takes (B, 3, {size}, {size}) pictures, got {tuple(images.shape)}.")


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
        self.mlp = _named(fc1=nn.Linear(g.width, g.hidden), act=nn.GELU(), fc2=nn.Linear(g.hidden, g.width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.mlp.fc1.weight.dtype
        x = x + _cast(self.attn(_cast(self.norm1(x), dtype)), x.dtype)
        return x + _cast(self.mlp(_cast(self.norm2(x), dtype)), x.dtype)


class Attention(nn.Module):
    """Self-attention over all tokens; queries and values have a bias, keys have none.

    Written out, with sizes as plain numbers: no scaled_dot_product_attention, chunk or flatten. So every ONNX opset
    from 11 on can express it and the exported graph computes no shapes.
    """

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.width, self.head_count, self.tokens = g.width, g.heads, g.tokens
        self.qkv = nn.Linear(g.width, 3 * g.width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(g.width))
        self.v_bias = nn.Parameter(torch.zeros(g.width))
        self.proj = nn.Linear(g.width, g.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        q, k, v = F.linear(x, self.qkv.weight, bias).split(self.width, dim=-1)
        # Scaling the queries, not the scores, keeps float16 scores in range.
        scores = self._heads(q * HEAD_DIM**-0.5) @ self._heads(k).transpose(-2, -1)
        weights = _cast(_cast(scores, torch.float32).softmax(dim=-1), v.dtype)
        mixed = (weights @ self._heads(v)).transpose(1, 2).reshape(-1, self.tokens, self.width)
        return self.proj(mixed)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, width) -> (B, heads, N, HEAD_DIM)"""
        return x.reshape(-1, self.tokens, self.head_count, HEAD_DIM).transpose(1, 2)


def load_eva_vit(
    vit_weights: PathLike,
    ln_vision: PathLike | None = None,
    image_size: int = 224,
    dtype: torch.dtype = torch.float32,
) -> EvaViT:
    """Read the two weight files into an EvaViT on the CPU, ready for inference.

    vit_weights: `eva_vit_g.pth`. Its sizes are read from the tensors; blocks behind the ones that BLIP-2 uses, `norm`
        and `head` are ignored.
    ln_vision: BLIP-2's Q-Former file, or None for a layer norm of ones and zeros. None is right for MiniGPT-4's Llama-2
        stage only: upstream has no Q-Former there and never loads one (minigpt4.py:60-71).
    image_size: pixels; position embeddings of another size are interpolated as upstream does (eva_vit.py:373).
    dtype: of the matrices. Norms, class token and positions are float32 always.
    Raises FileNotFoundError, or ValueError that names the file and the keys when something is missing or does not fit.
    """
    geometry, state = read_weights(vit_weights, ln_vision, image_size)
    model = empty_eva_vit(geometry, state, vit_weights, ln_vision)
    _fill(model, state, dtype)
    return model.eval()


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


def _fill(model: EvaViT, state: StateDict, dtype: torch.dtype) -> None:
    """Move the tensors into the (meta) model one by one, so that the weights never exist twice."""
    for name, _ in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        kept = torch.float32 if isinstance(module, (nn.LayerNorm, EvaViT)) else dtype
        setattr(module, leaf, nn.Parameter(state.pop(name).to(kept, copy=True), requires_grad=False))


def _named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Like `x.to(dtype)`, but leaves no Cast node in an exported graph that needs none."""
    return x if x.dtype == dtype else x.to(dtype)
