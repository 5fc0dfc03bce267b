"""What one pass through the decoder works on: the tokens seen so far (KVCache) and the new ones (Step)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .llama_config import LlamaConfig
from .llama_ops import ops_for, rope_angles

GROWTH = 256  # slots: a cache that grows a token at a time must not be copied at every token


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
    def batch(self) -> int:
        return self.keys[0].shape[0]

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` tokens, keeping what is held. Copies, so allocate enough at the start."""
        if capacity <= self.capacity:
            return
        capacity = -(-capacity // GROWTH) * GROWTH
        for tensors in (self.keys, self.values):
            for i, old in enumerate(tensors):
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

    slots: (T,) where the cache keeps the new tokens. length: slots that the new tokens may look at, theirs included.
    cos, sin: the rotary angles of the new tokens. mask: who may look at whom, as `ops.attention` wants it.
    """

    def __init__(
        self,
        config: LlamaConfig,
        x: Tensor,
        positions: Tensor,
        padding: Tensor | None,
        cache: KVCache | None,
        slots: Tensor,
        length: int,
    ) -> None:
        """x (B, T, C), positions (B, T) or (1, T), padding (B, at most the capacity) bool, False for padding."""
        self.ops = ops_for(x.device)
        self.cache = cache
        self.slots = slots
        self.length = length
        capacity = length if cache is None else cache.capacity
        if padding is not None and padding.shape[1] < capacity:
            padding = F.pad(padding, (0, capacity - padding.shape[1]), value=True)
        self.mask = self.ops.mask(padding, slots, length, capacity)
        self.cos, self.sin = rope_angles(positions, config.head_dim, config.rope_theta, x.dtype)

    @classmethod
    def after(
        cls, cache: KVCache | None, config: LlamaConfig, x: Tensor, positions: Tensor, padding: Tensor | None
    ) -> Step:
        """The pass that puts x behind what the cache holds."""
        past = 0 if cache is None else cache.length
        slots = torch.arange(past, past + x.shape[1], device=x.device)
        return cls(config, x, positions, padding, cache, slots, past + x.shape[1])

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Rotate, store and look: q (B, H, T, D), k and v (B, K, T, D) -> (B, H, T, D)."""
        q, k = self.ops.rope(q, k, self.cos, self.sin)
        if self.cache is not None:
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            self.ops.write_kv(keys, k, self.slots)
            self.ops.write_kv(values, v, self.slots)
            k, v = keys, values
        return self.ops.attention(q, k, v, self.length, self.mask)
