"""The rules of npu_fused_infer_attention_score on a 910B, and what all rules are written with.

Source: op-plugin, docs/zh/custom_APIs/torch_npu/torch_npu-npu_fused_infer_attention_score.md (commit 517f2e7d). One
query token takes the kernel's decode branch, more take its prefill branch; the rules of the two differ. They show
which calls are accepted, never what a device computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
MASK_DTYPES = (torch.bool, torch.int8, torch.uint8)
COMPRESSED = (2048, 2048)
# Given a value, these ask for something that the simulator does not compute.
UNSIMULATED = str.split(
    """
    pse_shift dequant_scale1 quant_scale1 dequant_scale2 quant_scale2 quant_offset2 antiquant_scale antiquant_offset
    key_antiquant_scale key_antiquant_offset value_antiquant_scale value_antiquant_offset block_table
    query_padding_size kv_padding_size key_shared_prefix value_shared_prefix actual_shared_prefix_len query_rope
    key_rope key_rope_antiquant_scale
    """
)


class Forbidden(RuntimeError):
    """A call that a 910B does not allow, or would answer wrongly."""


def need(fine: bool, rule: str) -> None:
    if not fine:
        raise Forbidden(rule)


def only(fine: bool, what: str) -> None:
    """For what a 910B allows and the simulator cannot compute."""
    if not fine:
        raise NotImplementedError(f"{what} is not simulated")


def need_contiguous(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        need(tensor.is_contiguous(), f"{name} must be contiguous, its strides are {tensor.stride()}")


def sizes(call: dict[str, Any]) -> tuple[int, int, int, int, int, int]:
    """batch, query heads, query tokens, key heads, key slots, width of a head of one call."""
    query, key, heads = call["query"], call["key"], call["num_heads"]
    key_heads = call["num_key_value_heads"] or heads
    layout = call["input_layout"]
    if layout == "BNSD":
        return len(query), heads, query.shape[2], key_heads, key.shape[2], query.shape[3]
    if layout == "BSND":
        return len(query), heads, query.shape[1], key_heads, key.shape[1], query.shape[3]
    return len(query), heads, query.shape[1], key_heads, key.shape[1], query.shape[2] // heads


def check_attention(call: dict[str, Any], values: bool) -> None:
    query, key, value = call["query"], call["key"], call["value"]
    for name in UNSIMULATED:
        only(call[name] is None, name)
    for name in ("block_size", "antiquant_mode", "key_antiquant_mode", "value_antiquant_mode", "softmax_lse_flag"):
        only(not call[name], name)
    need_contiguous(query=query, key=key, value=value)
    need(query.dtype in HALVES, f"query must be float16 or bfloat16, not {query.dtype}")
    need(key.dtype == value.dtype == query.dtype, f"key and value must have the query's dtype {query.dtype}")
    need(key.shape == value.shape, f"key and value must have one shape: {tuple(key.shape)}, {tuple(value.shape)}")
    _check_layout(call)
    batch, heads, tokens, key_heads, slots, width = sizes(call)
    need(heads % key_heads == 0, f"num_key_value_heads {key_heads} must divide num_heads {heads}")
    need(heads <= 256 and heads // key_heads <= 64, f"at most 256 heads, 64 to one key head: {heads}, {key_heads}")
    need(width <= 512 and width * query.element_size() % 16 == 0, f"D must be at most 512 and 16-byte aligned: {width}")
    need(call["scale"] != 1.0 or width == 1, f"scale was left at 1.0: pass 1/sqrt(D), D is {width} here")
    need(tokens > 1 or slots <= 262144, f"one query token takes at most 262144 key slots, not {slots}")
    precise = (0, 1) if tokens == 1 else (0, 1, 2, 3)
    need(call["inner_precise"] in precise, f"inner_precise must be one of {precise} for {tokens} query tokens")
    only(call["inner_precise"] in (0, 2), "inner_precise 1 or 3, which gives precision away for speed,")
    _check_lengths(call, "actual_seq_lengths_kv", batch, slots)
    _check_lengths(call, "actual_seq_lengths", batch, tokens)
    _check_mask(call, values)


def _check_layout(call: dict[str, Any]) -> None:
    layout, query, key = call["input_layout"], call["query"], call["key"]
    only(layout in ("BSH", "BSND", "BNSD"), f"input_layout {layout}")
    rank = 3 if layout == "BSH" else 4
    need(query.dim() == key.dim() == rank, f"input_layout {layout} takes {rank} dimensions, not {query.dim()}")
    batch, heads, _, key_heads, _, width = sizes(call)
    if layout == "BSH":
        fits = query.shape[2] == heads * width and key.shape[2] == key_heads * width
    else:
        place = layout.index("N")
        fits = query.shape[place] == heads and key.shape[place] == key_heads and key.shape[3] == width
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, {heads} heads and {key_heads} key heads"
    need(fits and len(key) == batch, f"the shapes do not fit input_layout {layout}: {shapes}")


def _check_lengths(call: dict[str, Any], name: str, batch: int, limit: int) -> None:
    lengths = call[name]
    if lengths is None:
        return
    enough = len(lengths) == 1 or len(lengths) >= batch  # of more, the first are taken
    need(enough, f"{name} needs one entry per sequence: {len(lengths)} for {batch}")
    need(all(1 <= length <= limit for length in lengths), f"{name} must lie between 1 and {limit}: {list(lengths)}")


def _check_mask(call: dict[str, Any], values: bool) -> None:
    mask, mode = call["atten_mask"], call["sparse_mode"]
    batch, _, tokens, _, slots, _ = sizes(call)
    need(mode in (0, 1, 2, 3, 4), f"sparse_mode must be 0 to 4, not {mode}")
    compressed = mode in (2, 3, 4) and tokens > 1  # with one query token the mode is ignored
    if mask is None:
        need(not compressed, f"sparse_mode {mode} needs the mask (2048, 2048)")
        need(mode != 1 or tokens == 1, "sparse_mode 1 needs the whole mask")
        return
    need(mask.dtype in MASK_DTYPES, f"atten_mask must be bool, int8 or uint8, not {mask.dtype}")
    need_contiguous(atten_mask=mask)
    only(call["pre_tokens"] >= slots and call["next_tokens"] >= slots, "pre_tokens, next_tokens")
    if compressed:
        only(mode != 4, "sparse_mode 4")
        fits = tuple(mask.shape) == COMPRESSED and mask.dtype == torch.bool
        need(fits, f"sparse_mode {mode} needs a (2048, 2048) bool mask, not {tuple(mask.shape)} {mask.dtype}")
        if values:
            upper = torch.ones(COMPRESSED, dtype=torch.bool).triu(1)
            need(
                torch.equal(mask, upper),
                f"the mask of sparse_mode {mode} must be True above the diagonal, nowhere else",
            )
        return
    shapes = [(batch, slots)] if tokens == 1 else [(tokens, slots), (1, tokens, slots), (1, 1, tokens, slots)]
    shapes += [(batch, tokens, slots), (batch, 1, tokens, slots)]
    fits = tuple(mask.shape) in shapes
    need(fits, f"atten_mask must be ({batch}, 1, {tokens}, {slots}), the whole key tensor wide: {tuple(mask.shape)}")
