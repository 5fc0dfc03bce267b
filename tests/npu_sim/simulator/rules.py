"""What a 910B asks of each fused operation and no schema shows: a call that breaks a rule raises `Forbidden`.

The real kernels check little of this: they compute something else, or nothing that can be used. Sources: op-plugin,
docs/zh/custom_APIs/torch_npu (commit 517f2e7d, 2026-08-21), and CANN's pages of aclnnInplaceScatterUpdate and
aclnnWeightQuantBatchMatmulV2. A use that is allowed there, but that the simulator cannot compute, raises
NotImplementedError. Rules about values are left out for tensors without any (values=False): fake ones, on `meta`.

The rules show which calls are accepted, never what a device computes.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from .attention_rules import HALVES, Forbidden, check_attention, need, need_contiguous, only

LARGEST_MATRIX = 65535


def rms_norm(call: dict[str, Any], values: bool) -> None:
    x, gamma = call["input"], call["gamma"]
    need(2 <= x.dim() <= 8 and x.numel() > 0, f"input must have 2 to 8 dimensions and not be empty, not {_shape(x)}")
    need(x.dtype in (*HALVES, torch.float32), f"input must be float16, bfloat16 or float32, not {x.dtype}")
    need(gamma.dtype in (torch.float32, x.dtype), f"gamma must be float32 or {x.dtype}, not {gamma.dtype}")
    _need_last_dimensions(gamma, x)


def add_rms_norm(call: dict[str, Any], values: bool) -> None:
    x1, x2, gamma = call["x1"], call["x2"], call["gamma"]
    need(x1.numel() > 0, "x1 must not be empty")
    need(x1.dtype in (*HALVES, torch.float32), f"x1 must be float16, bfloat16 or float32, not {x1.dtype}")
    need(x1.shape == x2.shape and x1.dtype == x2.dtype, "x1 and x2 must have one shape and one dtype")
    need(gamma.dtype == x1.dtype, f"gamma must have x1's dtype {x1.dtype}, not {gamma.dtype}")
    _need_last_dimensions(gamma, x1)


def _need_last_dimensions(gamma: Tensor, x: Tensor) -> None:
    same = 0 < gamma.dim() <= x.dim() and gamma.shape == x.shape[x.dim() - gamma.dim() :]
    need(same, f"gamma must have the shape of the input's last dimensions {_shape(x)}, not {_shape(gamma)}")


def rotary_mul(call: dict[str, Any], values: bool) -> None:
    x, r1, r2 = call["input"], call["r1"], call["r2"]
    need_contiguous(input=x, r1=r1, r2=r2)
    need(x.dim() == r1.dim() == r2.dim() == 4, "input, r1 and r2 must have four dimensions")
    need(x.dtype in (*HALVES, torch.float32), f"input must be float16, bfloat16 or float32, not {x.dtype}")
    need(r1.dtype == r2.dtype == x.dtype, f"r1 and r2 must have the input's dtype {x.dtype}")
    need(r1.shape == r2.shape, "r1 and r2 must have one shape")
    first, second, third, width = x.shape
    need(width % 2 == 0 and width < 896, f"D must be even and below 896, not {width}")
    need(first < 1000 and min(second, third) < 1000, "batch and heads must be below 1000")
    bnsd = r1.shape[0] in (1, first) and r1.shape[1] in (1, second) and r1.shape[2] == third
    bsnd = r1.shape[0] in (1, first) and r1.shape[1] == second and r1.shape[2] == 1
    fits = (bnsd or bsnd) and r1.shape[3] == width
    need(fits, f"r1 must be 11SD, B1SD or BNSD for BNSD, 1S1D or BS1D for BSND: {_shape(r1)} for {_shape(x)}")
    only(call["rotary_mode"] == "half", "rotary_mode other than half")
    only(call.get("rotate") is None, "rotate")
    if values:
        need(max(r1.abs().max(), r2.abs().max()) <= 1.001, "r1 and r2 must lie between -1 and 1")


def swiglu(call: dict[str, Any], values: bool) -> None:
    x, dim = call["input"], call["dim"]
    need_contiguous(input=x)
    need(x.dim() > 0 and x.numel() > 0, "input must not be empty")
    need(x.dtype in (*HALVES, torch.float32), f"input must be float16, bfloat16 or float32, not {x.dtype}")
    need(-x.dim() <= dim < x.dim() and x.shape[dim] % 2 == 0, f"dimension {dim} of {_shape(x)} must be even")


def scatter_update(call: dict[str, Any], values: bool) -> None:
    data, indices, updates, axis = call["input"], call["indices"], call["updates"], call["axis"]
    need_contiguous(data=data, indices=indices, updates=updates)
    need(data.dim() == updates.dim(), f"data and updates must have one rank, not {data.dim()} and {updates.dim()}")
    need(data.dtype == updates.dtype, f"data and updates must have one dtype, not {data.dtype} and {updates.dtype}")
    need(indices.dtype in (torch.int32, torch.int64), f"indices must be int32 or int64, not {indices.dtype}")
    need(indices.dim() in (1, 2), f"indices must have one or two dimensions, not {indices.dim()}")
    only(data.dim() == 4, "data of another rank than 4")
    only(indices.dim() == 1, "indices of two dimensions")
    only(axis in (2, -2), "an axis other than the last but one")
    need(len(indices) == len(data), f"one index per row of data's first dimension: {len(indices)} for {len(data)}")
    kept = (updates.shape[0], updates.shape[1], updates.shape[3]) == (data.shape[0], data.shape[1], data.shape[3])
    need(kept, f"updates must differ from data along the axis alone: {_shape(updates)} for {_shape(data)}")
    need(updates.shape[2] <= data.shape[2], "updates must not be longer than data along the axis")
    if values:
        last = data.shape[2] - updates.shape[2]
        inside = bool(((indices >= 0) & (indices <= last)).all())
        need(
            inside, f"indices {indices.tolist()} write outside data: the real kernel checks no bounds; 0 to {last} fit"
        )


def weight_quant_batchmatmul(call: dict[str, Any], values: bool) -> None:
    x, weight, scale, offset = call["x"], call["weight"], call["antiquant_scale"], call["antiquant_offset"]
    bias = call["bias"]
    for name in ("quant_scale", "quant_offset", "weight_dtype"):
        only(call.get(name) is None, name)
    only(call["antiquant_group_size"] == 0, "antiquant_group_size")
    need(x.dim() == 2 and weight.dim() == 2, f"x and weight must have two dimensions: {_shape(x)}, {_shape(weight)}")
    need(x.dtype in HALVES, f"x must be float16 or bfloat16, not {x.dtype}")
    only(weight.dtype == torch.int8, f"weight of {weight.dtype}")
    need(x.is_contiguous(), "x must be contiguous")
    need(weight.is_contiguous() or weight.t().is_contiguous(), "weight must be contiguous or transposed")
    need(x.shape[1] == weight.shape[0], f"x (M, K) and weight (K, N) must share K: {_shape(x)}, {_shape(weight)}")
    need(max(weight.shape) <= LARGEST_MATRIX, f"K and N must be at most {LARGEST_MATRIX}: {_shape(weight)}")
    need(1 <= x.shape[0] < 2**31, "M must be from 1 to 2^31 - 1")
    columns = weight.shape[1]
    for name, value in (("antiquant_scale", scale), ("antiquant_offset", offset)):
        if value is not None:
            fits = value.shape in ((columns,), (1, columns)) and value.dtype == x.dtype
            need(fits, f"{name} must be ({columns},) or (1, {columns}) in {x.dtype}: {_shape(value)}, {value.dtype}")
    if bias is not None:
        wanted = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
        need(bias.dtype == wanted, f"bias must be {wanted} beside {x.dtype}, not {bias.dtype}")
        need(bias.shape in ((columns,), (1, columns)), f"bias must be ({columns},), not {_shape(bias)}")
        need_contiguous(bias=bias)
    need(call["inner_precise"] in (0, 1), "inner_precise must be 0 or 1")
    only(call["inner_precise"] == 0, "inner_precise 1, which gives precision away for speed,")


def fusion_attention(call: dict[str, Any], values: bool) -> None:
    """What torch_npu makes of scaled_dot_product_attention (op-plugin, ScaledDotProductAttentionKernelNpuOpApi.cpp).

    Sources: torch_npu-npu_fusion_attention_v3.md for dtypes and sizes; it asks nothing of D but its range, and 88 is no
    multiple of 16. CANN's page of aclnnFlashAttentionScore takes inputs that are not contiguous. Both name training as
    the purpose; that it serves without gradients is known from the source alone.
    """
    query, key, value = call["query"], call["key"], call["value"]
    for name in ("pse", "padding_mask", "atten_mask", "prefix", "actual_seq_qlen", "actual_seq_kvlen", "sink"):
        only(call[name] is None, name)
    only(call["input_layout"] == "BNSD", "a layout other than BNSD")
    only(call["keep_prob"] == 1, "dropout")
    only(call["sparse_mode"] == 0, "a sparse_mode other than 0")
    need(query.dtype in (*HALVES, torch.float32), f"query must be float16, bfloat16 or float32, not {query.dtype}")
    need(query.dtype == key.dtype == value.dtype, "query, key and value must have one dtype")
    need(query.dim() == 4 and key.shape == value.shape, f"query, key and value must be BNSD: {_shape(query)}")
    alike = (query.shape[0], query.shape[3]) == (key.shape[0], key.shape[3])
    need(alike, f"query and key must have one B and one D: {_shape(query)}, {_shape(key)}")
    need(query.shape[1] == call["head_num"], f"query must have head_num heads: {_shape(query)}, {call['head_num']}")
    need(query.shape[1] % key.shape[1] == 0, "the heads of query must be a multiple of those of key")
    _, heads, tokens, width = query.shape
    need(1 <= heads <= 256 and 1 <= width <= 768, f"1 to 256 heads of 1 to 768 channels: {_shape(query)}")
    need(min(tokens, key.shape[2]) >= 1 and max(tokens, key.shape[2]) <= 2**20, "S must be from 1 to 1M")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


RULES: dict[str, Callable[[dict[str, Any], bool], None]] = {
    "npu_rms_norm": rms_norm,
    "npu_add_rms_norm": add_rms_norm,
    "npu_rotary_mul": rotary_mul,
    "npu_swiglu": swiglu,
    "scatter_update_": scatter_update,
    "npu_weight_quant_batchmatmul": weight_quant_batchmatmul,
    "npu_fused_infer_attention_score": check_attention,
    "npu_fusion_attention_v3": fusion_attention,
    "npu_format_cast": lambda call, values: only(call.get("customize_dtype") is None, "customize_dtype"),
}


def bound(schema: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
    """{argument: value} with the schema's defaults."""
    names = [argument.name for argument in schema.arguments]
    defaults = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    return {**defaults, **dict(zip(names, args)), **kwargs}


def check(schema: Any, args: tuple, kwargs: dict, values: bool = True) -> dict[str, Any]:
    """The bound arguments of an `npu::` call, or Forbidden with a sentence that names the operation and the rule."""
    call = bound(schema, args, kwargs)
    name = schema.name.removeprefix("npu::")
    try:
        if name in RULES:
            RULES[name](call, values)
    except (Forbidden, NotImplementedError) as error:
        raise type(error)(f"{name}: {error}") from None
    return call
