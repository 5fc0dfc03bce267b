"""What each fused operation computes, on CPU tensors, after its page in op-plugin's documentation (see rules.py).

Sums run in float32 and are rounded once at the end. `install` puts these under torch.ops.npu for the simulated
device, behind the rules of a 910B; every other `npu::` operation raises. Written from the documentation, they show
that arguments mean what the port thinks they mean, and never the numerics of a device.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .aten_kernels import on_device, on_host, refuse_host_tensors
from .attention_rules import need, sizes
from .rules import check

# torch_npu uses these itself to make tensors: they work on the simulated device as they are.
KEPT = {"get_npu_format", "empty_with_format", "unsafe_empty_with_format"}
_libraries: list[torch.library.Library] = []


def rms_norm(call: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return _norm(call["input"], call["gamma"], call["epsilon"])


def add_rms_norm(call: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    total = call["x1"] + call["x2"]
    return (*_norm(total, call["gamma"], call["epsilon"]), total)


def _norm(x: Tensor, gamma: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    wide, over = x.float(), list(range(x.dim() - gamma.dim(), x.dim()))
    rstd = torch.rsqrt(wide.pow(2).mean(over, keepdim=True) + epsilon)
    return (wide * rstd * gamma.float()).to(x.dtype).contiguous(), rstd


def rotary_mul(call: dict[str, Any]) -> Tensor:
    x = call["input"].float()
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (x * call["r1"].float() + rotated * call["r2"].float()).to(call["input"].dtype)


def swiglu(call: dict[str, Any]) -> Tensor:
    first, second = call["input"].float().chunk(2, dim=call["dim"])
    return (torch.nn.functional.silu(first) * second).to(call["input"].dtype)


def scatter_update(call: dict[str, Any]) -> Tensor:
    data, updates = call["input"], call["updates"]
    for row, start in enumerate(call["indices"].tolist()):
        data[row, :, start : start + updates.shape[2]] = updates[row]
    return data


def weight_quant_batchmatmul(call: dict[str, Any]) -> Tensor:
    x, weight = call["x"], call["weight"].float()
    if call["antiquant_offset"] is not None:
        weight = weight + call["antiquant_offset"].float()
    y = x.float() @ (weight * call["antiquant_scale"].float())
    if call["bias"] is not None:
        y = y + call["bias"].float()
    return y.to(x.dtype)


def format_cast(call: dict[str, Any]) -> Tensor:
    """Only the order in memory would change: torch_npu's own nn.Module.to asks for it."""
    return call["input"].clone()


def dtype_cast(call: dict[str, Any]) -> Tensor:
    """What torch_npu makes of Tensor.to(dtype)."""
    return call["input"].to(call["dtype"])


def fused_infer_attention(call: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """One sequence after another, over its valid keys alone. The second result is empty, as softmax_lse_flag is off."""
    batch, heads, tokens, key_heads, slots, width = sizes(call)
    query = _bnsd(call["query"], call["input_layout"], heads, width)
    key = _bnsd(call["key"], call["input_layout"], key_heads, width)
    value = _bnsd(call["value"], call["input_layout"], key_heads, width)
    lengths = list(call["actual_seq_lengths_kv"] or [slots]) * (batch if call["actual_seq_lengths_kv"] is None else 1)
    lengths = lengths * batch if len(lengths) == 1 else lengths[:batch]
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for row, length in enumerate(lengths):
        k = key[row, :, :length].repeat_interleave(heads // key_heads, dim=0)
        v = value[row, :, :length].repeat_interleave(heads // key_heads, dim=0)
        scores = query[row].float() @ k.float().transpose(-1, -2) * call["scale"]
        hidden = _hidden(call, row, tokens, length)
        if hidden is not None:
            seen = not bool(hidden.all(-1).any())
            need(
                seen or call["inner_precise"] in (2, 3),
                "npu_fused_infer_attention_score: a query sees no key, its result is not defined",
            )
            scores = scores.masked_fill(hidden, float("-inf"))
        out[row] = (scores.softmax(dim=-1) @ v.float()).to(query.dtype)
    return _from_bnsd(out, call["input_layout"]), torch.empty(0)


def fusion_attention(call: dict[str, Any]) -> tuple[Tensor, ...]:
    """Without a mask. Only the first result is one; the others are what training needs, and hold nothing here."""
    query = call["query"]
    repeats = query.shape[1] // call["key"].shape[1]
    key, value = (call[name].float().repeat_interleave(repeats, dim=1) for name in ("key", "value"))
    out = (query.float() @ key.transpose(-1, -2) * call["scale"]).softmax(dim=-1) @ value
    most, total = (torch.full((*query.shape[:3], 8), float("nan")) for _ in range(2))
    seed, offset = (torch.zeros(1, dtype=torch.int64) for _ in range(2))
    return out.to(query.dtype), most, total, query.new_empty(0), seed, offset


def _hidden(call: dict[str, Any], row: int, tokens: int, length: int) -> Tensor | None:
    """(tokens, length) or (1, tokens, length) bool, True where a query may not look."""
    mask, mode = call["atten_mask"], call["sparse_mode"]
    if mask is None:
        return None
    if mode in (2, 3) and tokens > 1:
        # 2: the first query stands at the first key. 3: the last query stands at the last valid key.
        shift = length - tokens if mode == 3 else 0
        return torch.ones(tokens, length, dtype=torch.bool).triu(1 + shift)
    mask = mask.bool()
    if mask.dim() > 2 or tokens == 1:
        mask = mask[row if len(mask) > 1 else 0]
    return mask[..., :length]


def _bnsd(x: Tensor, layout: str, heads: int, width: int) -> Tensor:
    if layout == "BNSD":
        return x
    return x.reshape(len(x), x.shape[1], heads, width).transpose(1, 2)


def _from_bnsd(x: Tensor, layout: str) -> Tensor:
    if layout == "BNSD":
        return x
    x = x.transpose(1, 2).contiguous()
    return x if layout == "BSND" else x.flatten(2)


KERNELS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "npu_rms_norm": rms_norm,
    "npu_add_rms_norm": add_rms_norm,
    "npu_rotary_mul": rotary_mul,
    "npu_swiglu": swiglu,
    "scatter_update_": scatter_update,
    "npu_weight_quant_batchmatmul": weight_quant_batchmatmul,
    "npu_fused_infer_attention_score": fused_infer_attention,
    "npu_fusion_attention_v3": fusion_attention,
    "npu_format_cast": format_cast,
    "_npu_dtype_cast": dtype_cast,
}
CALLED: dict[str, int] = {}  # how often each operation ran


def install() -> int:
    """Put the kernels in place, refuse every other `npu::` operation; returns how many operations can run."""
    library = torch.library.Library("npu", "IMPL")
    _libraries.append(library)  # a library that is collected takes its kernels with it
    for full in torch._C._dispatch_get_all_op_names():
        space, _, name = full.partition("::")
        if space != "npu" or name in KEPT or "super_kernel" in name or "npugraph_tensor" in name:
            continue
        if name in KERNELS:
            library.impl(name, _through_rules(name), "PrivateUse1")
        elif torch._C._dispatch_has_kernel_for_dispatch_key(full, "PrivateUse1"):
            library.impl(name, _refusing(full), "PrivateUse1")
    return len(KERNELS)


def _through_rules(name: str) -> Callable:
    schema = getattr(torch.ops.npu, name).default._schema
    in_place = any(argument.alias_info and argument.alias_info.is_write for argument in schema.arguments)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        refuse_host_tensors(name, (args, kwargs))
        call = check(schema, tree_map(on_host, args), tree_map(on_host, kwargs))
        CALLED[name] = CALLED.get(name, 0) + 1
        result = KERNELS[name](call)
        return args[0] if in_place else tree_map(on_device, result)

    return kernel


def _refusing(full: str) -> Callable:
    def kernel(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{full} is not simulated: write its rules and its kernel first")

    return kernel
