"""torch_npu's fused operations in plain PyTorch, as strict as their documentation (pages: llama_ops_npu.py).

Where a page forbids something that the device would not notice, these raise. They compute in float32 and round once,
as a good kernel does. For unit tests without the torch_npu wheel; tests/npu_sim runs the same calls through the wheel.
"""

from __future__ import annotations

import types

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def require(condition: bool, what: str) -> None:
    if not condition:
        raise RuntimeError(f"the documentation does not allow: {what}")


def npu_rms_norm(self: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    require(2 <= self.dim() <= 8 and gamma.shape == self.shape[-gamma.dim() :], "shapes of rms_norm")
    require(self.dtype in (*HALF, torch.float32) and gamma.dtype in (self.dtype, torch.float32), "dtypes of rms_norm")
    x = self.float()
    rstd = (x.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()
    return (x * rstd * gamma.float()).to(self.dtype), rstd


def npu_add_rms_norm(x1: Tensor, x2: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor, Tensor]:
    require(x1.numel() > 0 and x1.shape == x2.shape, "an empty tensor, or two shapes")
    require(x1.dtype == x2.dtype == gamma.dtype, "two dtypes in add_rms_norm")
    total = x1 + x2
    normed, rstd = npu_rms_norm(total, gamma, epsilon)
    return normed, rstd, total


def npu_rotary_mul(input: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half") -> Tensor:
    batch, heads, tokens, width = input.shape  # BNSD
    allowed = [(1, 1, tokens, width), (batch, 1, tokens, width), (batch, heads, tokens, width)]
    require(tuple(r1.shape) in allowed and r1.shape == r2.shape, f"r1 of shape {tuple(r1.shape)}")
    require(rotary_mode in ("half", "interleave") and width < 896 and width % 2 == 0, "mode or width of rotary_mul")
    require(batch < 1000 and heads < 1000, "1000 rows or heads")
    require(float(r1.abs().max()) <= 1 and float(r2.abs().max()) <= 1, "r1 or r2 beyond 1")
    x = input.float()
    if rotary_mode == "half":
        first, second = x.chunk(2, dim=-1)
        rotated = torch.cat((-second, first), dim=-1)
    else:
        rotated = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    return (x * r1.float() + rotated * r2.float()).to(input.dtype)


def scatter_update_(self: Tensor, indices: Tensor, updates: Tensor, axis: int) -> Tensor:
    """Row i of the first dimension gets updates[i] from indices[i] on, along `axis`."""
    require(self.dim() == updates.dim() and 2 <= self.dim() <= 8 and self.numel() * updates.numel() > 0, "the ranks")
    require(indices.dtype in (torch.int32, torch.int64) and indices.shape == self.shape[:1], "the indices")
    require(self.dtype == updates.dtype, "two dtypes")
    others = [d for d in range(self.dim()) if d != axis % self.dim()]
    require(all(self.shape[d] == updates.shape[d] for d in others), "sizes that differ beside the axis")
    for row, start in enumerate(indices.tolist()):
        require(0 <= start <= self.shape[axis] - updates.shape[axis], "an index out of bounds")
        self[row].narrow(axis % self.dim() - 1, start, updates.shape[axis]).copy_(updates[row])
    return self


def npu_fused_infer_attention_score(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    atten_mask: Tensor | None = None,
    actual_seq_lengths_kv: list[int] | None = None,
    num_heads: int = 1,
    scale: float = 1.0,
    input_layout: str = "BSH",
    num_key_value_heads: int = 0,
    sparse_mode: int = 0,
) -> tuple[Tensor, Tensor]:
    require(input_layout == "BNSD", f"layout {input_layout} for tensors of four dimensions")
    batch, heads, tokens, width = query.shape
    slots = key.shape[2]
    require(query.dtype in HALF and query.dtype == key.dtype == value.dtype, f"{query.dtype}")
    require(key.shape == value.shape == (batch, num_key_value_heads or num_heads, slots, width), "shapes of key, value")
    require(num_heads == heads and heads % key.shape[1] == 0 and heads // key.shape[1] <= 64, "the numbers of heads")
    require(heads <= 256 and width <= 512 and width % 8 == 0, "heads or width")
    for tensor in (query, key, value, *([] if atten_mask is None else [atten_mask])):
        require(tensor.is_contiguous(), "a non-contiguous tensor in the attention")
    require(isinstance(scale, float) and scale != 1.0, "a scale that was not passed")
    lengths = list(actual_seq_lengths_kv or [slots])
    require(all(type(length) is int and 0 <= length <= slots for length in lengths), "key lengths")
    require(len(lengths) == 1 or len(lengths) >= batch, "the number of key lengths")
    lengths = lengths * batch if len(lengths) == 1 else lengths[:batch]
    hidden = _hidden(atten_mask, sparse_mode, batch, tokens, slots, lengths)
    k, v = (x.float().repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    scores = (query.float() @ k.transpose(-1, -2)) * scale
    scores = scores.masked_fill(hidden, float("-inf"))
    return (scores.softmax(-1) @ v).to(query.dtype), torch.zeros(1)


def _hidden(mask: Tensor | None, sparse_mode: int, batch: int, tokens: int, slots: int, lengths: list[int]) -> Tensor:
    """(B, 1, T, slots) bool, True where nothing is read."""
    device = mask.device if mask is not None else None
    every = torch.arange(slots, device=device)
    ends = torch.tensor(lengths, device=device)[:, None, None, None]
    hidden = (every >= ends).expand(batch, 1, tokens, slots)
    if tokens > 1 and sparse_mode == 3:  # with one token the mode is ignored
        require(mask is not None and tuple(mask.shape) in ((2048, 2048), (1, 2048, 2048), (1, 1, 2048, 2048)), "mask")
        require(mask.dtype in (torch.bool, torch.int8, torch.uint8), "dtype of the mask")
        require(bool((mask.reshape(2048, 2048).bool() == torch.ones(2048, 2048).triu(1).bool()).all()), "the triangle")
        last = ends - tokens + torch.arange(tokens, device=device)[:, None]
        return hidden | (every > last)
    require(sparse_mode in (0, 1) or tokens == 1, f"sparse_mode {sparse_mode}")
    if mask is None:
        return hidden
    shapes = [(1, tokens, slots), (batch, 1, tokens, slots), (1, 1, tokens, slots)]
    shapes.append((batch, slots) if tokens == 1 else (tokens, slots))
    require(tuple(mask.shape) in shapes, f"a mask of shape {tuple(mask.shape)} for {slots} slots")
    require(mask.dtype in (torch.bool, torch.int8, torch.uint8), "dtype of the mask")
    if mask.dim() == 2:
        mask = mask[:, None, None] if tokens == 1 else mask[None, None]
    return hidden | mask.bool()


def npu_swiglu(self: Tensor, dim: int = -1) -> Tensor:
    require(self.is_contiguous() and self.numel() > 0 and self.shape[dim] % 2 == 0, "input of swiglu")
    gate, up = self.float().chunk(2, dim)
    return (torch.nn.functional.silu(gate) * up).to(self.dtype)


def npu_weight_quant_batchmatmul(
    x: Tensor,
    weight: Tensor,
    antiquant_scale: Tensor,
    antiquant_offset: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    require(x.dim() == weight.dim() == 2 and x.shape[1] == weight.shape[0], "shapes of x and weight")
    require(x.dtype in HALF and weight.dtype is torch.int8 and antiquant_scale.dtype == x.dtype, "dtypes")
    require(max(weight.shape) <= 65535 and x.numel() > 0, "sizes")
    require(tuple(antiquant_scale.shape) in ((weight.shape[1],), (1, weight.shape[1])), "shape of the scale")
    y = x.float() @ (weight.float() * antiquant_scale.float())
    if bias is not None:
        require(bias.is_contiguous() and bias.numel() == weight.shape[1], "shape of the bias")
        require(bias.dtype is (torch.float32 if x.dtype is torch.bfloat16 else x.dtype), "dtype of the bias")
        y = y + bias.float()
    return y.to(x.dtype)


OPERATIONS = {
    function.__name__: function
    for function in (
        npu_rms_norm,
        npu_add_rms_norm,
        npu_rotary_mul,
        scatter_update_,
        npu_fused_infer_attention_score,
        npu_swiglu,
        npu_weight_quant_batchmatmul,
    )
}


def module(version: str = "2.13.0", cann: str = "9.2.0") -> types.ModuleType:
    """A stand-in to put into sys.modules as torch_npu."""
    fake = types.ModuleType("torch_npu")
    fake.__version__ = version
    fake.utils = types.SimpleNamespace(get_cann_version=lambda: cann)
    for name, function in OPERATIONS.items():
        setattr(fake, name, function)
    return fake
