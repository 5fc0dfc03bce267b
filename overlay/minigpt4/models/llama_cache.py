"""What one pass through the decoder works on: the tokens seen so far (KVCache) and the new ones (Step)."""

from __future__ import annotations

import torch
from torch import Tensor

from .llama_config import LlamaConfig
from .llama_ops import Ops, ops_for, rope_angles


class KVCache:
    """Keys and values of all layers, allocated once for `capacity` tokens of each of `batch` sequences.

    keys, values: one (batch, key/value heads, capacity, head_dim) tensor per layer. length: tokens held so far.
    """

    def __init__(
        self, config: LlamaConfig, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (batch, config.num_key_value_heads, capacity, config.head_dim)
        layers = range(config.num_hidden_layers)
        # zeros, not empty: a slot that is masked out is still multiplied by 0, and 0 * NaN is NaN
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def update(self, layer: int, k: Tensor, v: Tensor, slots: Tensor, ops: Ops) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values at `slots`; return everything that the layer holds with them."""
        ops.write_kv(self.keys[layer], k, slots)
        ops.write_kv(self.values[layer], v, slots)
        end = self.length + slots.shape[0]
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` tokens, keeping what is held. Copies, so allocate enough at the start."""
        for tensors in (self.keys, self.values):
            for i, old in enumerate(tensors):
                if old.shape[2] < capacity:
                    tensors[i] = old.new_zeros((*old.shape[:2], capacity, old.shape[3]))
                    tensors[i][:, :, : self.length] = old[:, :, : self.length]

    def repeat(self, times: int) -> None:
        """Turn every sequence into `times` copies of itself, next to each other."""
        for tensors in (self.keys, self.values):
            for i, old in enumerate(tensors):
                tensors[i] = old.repeat_interleave(times, dim=0)

    def reorder(self, rows: Tensor) -> None:
        """Let sequence i go on from what sequence rows[i] holds (beam search)."""
        for tensor in (*self.keys, *self.values):
            tensor[:, :, : self.length] = tensor[rows, :, : self.length]


class Step:
    """What all layers share in one pass over T new tokens.

    cos, sin: the rotary angles of the new tokens. visible: who may look at whom, as llama_ops.attention wants it.
    slots: (T,) where the cache keeps the new tokens.
    """

    def __init__(
        self, config: LlamaConfig, x: Tensor, positions: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> None:
        past = 0 if cache is None else cache.length
        self.ops = ops_for(x.device.type)
        self.cache = cache
        self.slots = torch.arange(past, past + x.shape[1], device=x.device)
        self.cos, self.sin = rope_angles(positions, config.head_dim, config.rope_theta, x.dtype)
        self.visible = self._visible(mask, past)

    def _visible(self, mask: Tensor | None, past: int) -> Tensor | None:
        """mask: (B, S) bool, False for padding, or None -> (B, 1, T, S) bool, or None where causal order says it."""
        if mask is None and (past == 0 or len(self.slots) == 1):
            return None
        every = torch.arange(past + len(self.slots), device=self.slots.device)
        causal = every <= self.slots[:, None]
        if mask is None:
            return causal[None, None]
        # A padding token looks at itself: with nothing to look at, its softmax would be NaN and spread from there.
        itself = every == self.slots[:, None]
        return (causal & mask[:, None, None, :].bool()) | itself
