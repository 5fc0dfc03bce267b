"""Small weight files in the real formats, for the tests of the image half."""

from __future__ import annotations

from pathlib import Path

import torch

OUTLIERS = (3, 40, 101)  # channels that are far larger than the rest, as in trained ViTs


def vit_state(width: int, hidden: int, blocks: int, image_size: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of an eva_vit_g.pth, fp16, with the extras that the real file has.

    The residual stream is small (about 1e-2), so that the eps of every norm shows in the output.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float = 0.003) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * std).half()

    patch = 14
    state = {
        "cls_token": normal(1, 1, width),
        "pos_embed": normal(1, (image_size // patch) ** 2 + 1, width),
        "patch_embed.proj.weight": normal(width, 3, patch, patch, std=0.0003),
        "patch_embed.proj.bias": normal(width),
    }
    for channel in OUTLIERS:
        state["pos_embed"][..., channel] *= 20
    for i in range(blocks):
        block = {
            "norm1.weight": 1 + normal(width, std=0.1),
            "norm1.bias": normal(width, std=0.1),
            "attn.q_bias": normal(width, std=0.5),
            "attn.v_bias": normal(width, std=0.5),
            "attn.qkv.weight": normal(3 * width, width, std=width**-0.5),
            "attn.proj.weight": normal(width, width, std=0.01 * width**-0.5),
            "attn.proj.bias": normal(width),
            "norm2.weight": 1 + normal(width, std=0.1),
            "norm2.bias": normal(width, std=0.1),
            "mlp.fc1.weight": normal(hidden, width, std=width**-0.5),
            "mlp.fc1.bias": normal(hidden, std=0.1),
            "mlp.fc2.weight": normal(width, hidden, std=0.01 * hidden**-0.5),
            "mlp.fc2.bias": normal(width),
        }
        state.update({f"blocks.{i}.{key}": tensor for key, tensor in block.items()})
    state.update({"norm.weight": normal(width), "norm.bias": normal(width), "head.weight": normal(10, width)})
    return state


def ln_vision_state(width: int, seed: int = 1) -> dict[str, torch.Tensor]:
    """Two of the tensors of BLIP-2's Q-Former file, and one that has nothing to do with the image encoder."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "ln_vision.weight": 1 + 0.1 * torch.randn(width, generator=generator),
        "ln_vision.bias": 0.1 * torch.randn(width, generator=generator),
        "query_tokens": torch.zeros(1, 32, 8),
    }


def write_files(
    folder: Path, width: int = 176, hidden: int = 96, blocks: int = 3, image_size: int = 56
) -> tuple[Path, Path]:
    """Write eva_vit_g.pth and blip2.pth into `folder`; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    vit, blip2 = folder / "eva_vit_g.pth", folder / "blip2.pth"
    torch.save(vit_state(width, hidden, blocks, image_size), vit)
    torch.save({"model": ln_vision_state(width)}, blip2)
    return vit, blip2
