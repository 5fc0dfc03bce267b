"""Vicuna's decoder in one page: a Llama for inference on NPU, CUDA and CPU.

Drop-in for upstream's LlamaForCausalLM (minigpt4/models/modeling_llama.py at the pin): the same names in state_dict,
the same forward arguments as far as upstream passes them, the same generate. It is not built on transformers' Llama,
so it stays the same under every release of transformers. Every operation comes from one table (llama_ops.py); the
matrices are llama_linear.py, reading weights is llama_loading.py, choosing tokens is llama_generate.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from .device import own_dtype
from .llama_cache import KVCache, Step
from .llama_config import LlamaConfig
from .llama_generate import generate
from .llama_graph import RecordedStep
from .llama_inputs import embed, padding_mask
from .llama_linear import FusedLinear, Linear, fuse_on_load, linears
from .llama_loading import load
from .llama_loss import shifted_loss
from .llama_ops import Ops, ops_for


class Attention(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        self.sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        self.qkv_proj = FusedLinear(config.hidden_size, self.sizes, config.attention_bias)
        fuse_on_load(self, "qkv_proj")
        self.o_proj = Linear(queries, config.hidden_size, config.attention_bias)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        parts = self.qkv_proj(x, step.ops).split(list(self.sizes.values()), dim=-1)
        q, k, v = [part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts]  # (B, heads, T, D)
        y = step.attend(self.layer, q, k, v)
        return self.o_proj(y.transpose(1, 2).flatten(2), step.ops)


class MLP(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        size, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up_proj = FusedLinear(size, {"gate_proj": inner, "up_proj": inner}, bias)
        fuse_on_load(self, "gate_up_proj")
        self.down_proj = Linear(inner, size, bias)

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        return self.down_proj(ops.swiglu(self.gate_up_proj(x, ops)), ops)


class RMSNorm(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.rms_norm_eps

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor, ops: Ops) -> tuple[Tensor, Tensor]:
        """-> the norm of x + residual, and x + residual"""
        return ops.add_rms_norm(x, residual, self.weight, self.eps)


class Block(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config)
        self.post_attention_layernorm = RMSNorm(config)

    def forward(self, x: Tensor, residual: Tensor | None, step: Step) -> tuple[Tensor, Tensor]:
        """The sum x + residual is what Hugging Face passes on; apart, the next norm adds them in one operation."""
        if residual is None:
            x, residual = self.input_layernorm(x, step.ops), x
        else:
            x, residual = self.input_layernorm.add(x, residual, step.ops)
        x, residual = self.post_attention_layernorm.add(self.self_attn(x, step), residual, step.ops)
        return self.mlp(x, step.ops), residual


class Decoder(nn.Module):
    """Embedding, layers and last norm; without attribute `model`, by which upstream recognises a LoRA wrapper."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """x (B, T, C), positions (B, T) or (1, T), mask (B, S) bool or None -> (B, T, C); fills the cache."""
        x = self.run(x, Step.after(cache, self.config, x, positions, mask))
        if cache is not None:
            cache.length += x.shape[1]
        return x

    def run(self, x: Tensor, step: Step) -> Tensor:
        """All layers and the last norm over x (B, T, C); touches no counter, so that it can be recorded."""
        residual = None
        for layer in self.layers:
            x, residual = layer(x, residual, step)
        return self.norm(x, step.ops) if residual is None else self.norm.add(x, residual, step.ops)[0]


class LlamaForCausalLM(nn.Module):
    """The decoder with its language-model head. Build it with from_pretrained; parameters never need a gradient."""

    def __init__(self, config: Any) -> None:
        """config: our LlamaConfig, or Hugging Face's."""
        super().__init__()
        self.config = config if isinstance(config, LlamaConfig) else LlamaConfig.from_dict(config.to_dict())
        self.generation_defaults: dict[str, Any] = {}  # what generation_config.json says
        self.graph = "auto"  # replay a recorded decode step: auto, on or off (llama_graph.py)
        self.compile_step = False  # let torch.compile fuse the recorded step (CUDA)
        self.recording: RecordedStep | None = None  # the last one
        self.prefill_chunk: int | None = None  # tokens of a prompt per pass; None: as many as memory allows
        self.model = Decoder(self.config)
        self.lm_head = Linear(self.config.hidden_size, self.config.vocab_size)
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        torch_dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        load_in_8bit: bool = False,
    ) -> LlamaForCausalLM:
        """Load a Hugging Face Llama folder, straight onto its device and into its dtype.

        torch_dtype: a dtype, or None or "auto" for the one in config.json. device_map: None (CPU), a device, or
        upstream's {"": device}. load_in_8bit: keep the matrices as int8 (llama_int8.py), half of float16's memory;
        torch_dtype is then what activations are in, and float16 means the device's own (on the CPU it is another).
        Errors name the file: see llama_loading.load.
        """
        model = load(cls, path, torch_dtype, device_map, load_in_8bit)
        model.pack()
        return model

    def pack(self) -> None:
        """Bring the matrices, one after the other, into the form that the device reads fastest; no number changes."""
        for _, linear in linears(self):
            if linear.weight is not self.model.embed_tokens.weight:
                linear.pack(self.dtype)

    generate = generate

    @property
    def base_model(self) -> Decoder:
        return self.model

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What activations are in; the weights too, unless they are int8."""
        return self.model.embed_tokens.weight.dtype

    @property
    def int8(self) -> bool:
        """Whether the matrices are 8 bits wide."""
        return any(linear.scale is not None for _, linear in linears(self))

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        return KVCache(self.config, batch, capacity, self.device, self.dtype)

    def forget_recording(self) -> None:
        """Free the recorded decode step and its cache."""
        self.recording = None

    def _apply(self, *args: Any, **options: Any) -> LlamaForCausalLM:
        """.to(), .half() and the like: a recording reads the weights where they were."""
        self.forget_recording()
        return super()._apply(*args, **options)

    def _load_from_state_dict(self, *args: Any) -> None:
        """The first module that load_state_dict comes to here; with assign=True the weights are other tensors after."""
        self.forget_recording()
        super()._load_from_state_dict(*args)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, C) -> (…, vocab_size) in float32"""
        return self.lm_head(hidden, ops_for(hidden.device)).float()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: KVCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = True,
        reduction: str = "mean",
    ) -> Any:
        """One pass over T new tokens; semantics of upstream's modeling_llama.py:16-111.

        input_ids (B, T) or inputs_embeds (B, T, C); attention_mask (B, S), 0 for padding; position_ids (B, T),
        counted from the cache's end when absent; labels (B, T), -100 is ignored. reduction: "mean", or "none" for
        one loss per sample, the mean over all its positions. A cache is made when use_cache is True (Hugging Face:
        also when it is left out) and goes into past_key_values of the next call.
        Returns an object with .loss, .logits (B, T, vocab) float32 and .past_key_values.
        """
        with own_dtype(self.device):
            x = embed(self, input_ids, inputs_embeds)
            batch, new = x.shape[:2]
            cache = self._cache_for(past_key_values, use_cache, batch, new)
            past = 0 if cache is None else cache.length
            if position_ids is None:
                position_ids = torch.arange(past, past + new, device=x.device)[None]
            mask = self._padding(attention_mask, batch, past + new)
            logits = self.logits(self.model(x, position_ids, mask, cache))
        loss = None if labels is None else shifted_loss(logits, labels, reduction)
        if not return_dict and return_dict is not None:
            return tuple(part for part in (loss, logits, cache) if part is not None)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)

    def _cache_for(self, past: Any, use_cache: bool | None, batch: int, new: int) -> KVCache | None:
        if past is None:
            return self.new_cache(batch, new) if use_cache else None
        if not isinstance(past, KVCache):
            raise TypeError(
                f"past_key_values is a {type(past).__name__}; pass back what this model returned (a KVCache)."
            )
        if past.batch != batch:
            raise ValueError(f"past_key_values holds {past.batch} sequences, and {batch} go on from it.")
        past.reserve(past.length + new)
        return past

    def _padding(self, mask: Tensor | None, batch: int, length: int) -> Tensor | None:
        """A (B, S) bool mask, or None where there is no padding and the faster causal path serves."""
        if mask is None:
            return None
        mask = padding_mask(mask, batch, length, self.device)
        return None if bool(mask.all()) else mask
