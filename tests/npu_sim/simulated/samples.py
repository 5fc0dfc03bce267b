"""One right call of every simulated operation, on npu:0, as keyword arguments that a test may change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BATCH, HEADS, KEY_HEADS, SLOTS, WIDTH = 2, 4, 2, 40, 16
CAUSAL = torch.ones(2048, 2048, dtype=torch.bool).triu(1)


def drawn(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).to("npu:0")


def attention(tokens: int, **changes: Any) -> dict[str, Any]:
    """tokens: of the query. One takes the decode branch, more the prefill branch."""
    call = {
        "query": drawn(BATCH, HEADS, tokens, WIDTH),
        "key": drawn(BATCH, KEY_HEADS, SLOTS, WIDTH),
        "value": drawn(BATCH, KEY_HEADS, SLOTS, WIDTH) + 1,
        "num_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "scale": 0.25,
        "input_layout": "BNSD",
        "actual_seq_lengths_kv": [30, 25],
    }
    if tokens > 1:
        call |= {"atten_mask": CAUSAL.to("npu:0"), "sparse_mode": 3}
    return call | changes


def encoder_attention() -> dict[str, Any]:
    """As scaled_dot_product_attention calls it for ViT-g's heads: parts of one product, with its strides."""
    query, key, value = drawn(BATCH, 5, 3, HEADS, 88).permute(2, 0, 3, 1, 4).unbind(0)
    call = {"query": query, "key": key, "value": value, "head_num": HEADS, "input_layout": "BNSD"}
    return {**call, "scale": 88**-0.5}


def whole_mask(tokens: int, dtype: torch.dtype = torch.bool) -> Tensor:
    """(B, 1, tokens, SLOTS): the first key is hidden."""
    mask = torch.zeros(BATCH, 1, tokens, SLOTS, dtype=dtype)
    mask[..., 0] = 1
    return mask.to("npu:0")


def samples() -> dict[str, tuple[str, dict[str, Any]]]:
    """{name of the sample: (operation, arguments)}"""
    angles = torch.arange(5.0)[:, None] * torch.ones(WIDTH)
    cos, sin = (part.half().view(1, 1, 5, WIDTH).to("npu:0") for part in (angles.cos(), angles.sin()))
    fused = "npu_fused_infer_attention_score"
    rotary = {"input": drawn(2, 3, 5, WIDTH), "r1": cos, "r2": sin}
    scatter = {"input": drawn(1, 6, 9, WIDTH), "updates": drawn(1, 6, 3, WIDTH), "axis": 2}
    product = {
        "x": drawn(3, 32),
        "weight": torch.randint(-127, 128, (8, 32), dtype=torch.int8).to("npu:0").t(),
        "antiquant_scale": drawn(8),
    }
    norm = {"gamma": drawn(32), "epsilon": 1e-5}
    return {
        "rms_norm": ("npu_rms_norm", {"input": drawn(2, 3, 32), **norm}),
        "add_rms_norm": ("npu_add_rms_norm", {"x1": drawn(2, 3, 32), "x2": drawn(2, 3, 32) * 2, **norm}),
        "rotary_mul": ("npu_rotary_mul", rotary),
        "swiglu": ("npu_swiglu", {"input": drawn(2, 3, 32)}),
        "scatter_update": ("scatter_update_", {**scatter, "indices": torch.tensor([4]).to("npu:0")}),
        "int8": ("npu_weight_quant_batchmatmul", product),
        "encoder": ("npu_fusion_attention_v3", encoder_attention()),
        "prefill": (fused, attention(5)),
        "prefill, whole mask": (fused, attention(5, sparse_mode=0, atten_mask=whole_mask(5))),
        "decode": (fused, attention(1)),
        "decode, mask": (fused, attention(1, atten_mask=whole_mask(1, torch.int8))),
    }


def run(name: str, arguments: dict[str, Any]) -> Any:
    op = getattr(torch.ops.npu, name).default
    args, kwargs = split(op, arguments)
    return op(*args, **kwargs)


def split(op: Any, arguments: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """(positional arguments, keyword arguments) of an overload: by position as far as none is left out."""
    rest, by_position = dict(arguments), []
    for argument in op._schema.arguments:
        if argument.kwarg_only or argument.name not in rest:
            break
        by_position.append(rest.pop(argument.name))
    return tuple(by_position), rest
