"""Is a recorded decode step the step itself? Tried on the user's device before anything is replayed there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import llama_graph
from .llama_config import LlamaConfig
from .llama_int8 import quantise
from .llama_linear import linears
from .modeling_vicuna_ascend import LlamaForCausalLM
from .ops_compare import require_alive


@torch.no_grad()
def check_graph(device: torch.device, dtype: torch.dtype) -> str | None:
    """Replay a small decoder's step on `device` against the step itself, over several windows; None or what is wrong.

    Its second layer has int8 weights: a recording must hold both kinds of product.
    The bound is what two orders of the same sums may differ by in `dtype`: logits here are of the size of 1.
    """
    reason = llama_graph.why_not(device)
    if reason is not None:
        return reason
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 4, "num_key_value_heads": 4}
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(0)  # not torch.manual_seed: the caller's seed on the device must stay
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, num_hidden_layers=2, **shape)).to(device, dtype)
    tokens = torch.randint(512, (2, 2 * llama_graph.WINDOW + 40)).to(device)
    torch.set_rng_state(state)
    for _, linear in linears(model.model.layers[1]):
        integers, scale = quantise(linear.weight)
        linear.weight = torch.nn.Parameter(integers, requires_grad=False)
        linear.scale = torch.nn.Parameter(scale.to(dtype), requires_grad=False)
    model.graph = "off"
    try:
        return _compare(model, llama_graph.RECORDINGS[device.type], tokens)
    except RuntimeError as error:
        require_alive(device, "a recorded step", error)
        return f"recording failed: {error}"


def _compare(model: Any, recording: Any, tokens: Tensor) -> str | None:
    """Both decode from the same prompts, with and without padding, of lengths on both sides of a window's edge."""
    recorded = llama_graph.RecordedStep(model, recording, *tokens.shape)
    for padded in (False, True):
        for start in (2 * llama_graph.WINDOW - 4, llama_graph.WINDOW - 4, 7):  # a longer prompt must leave no trace
            mask = torch.ones(len(tokens), start, dtype=torch.bool, device=tokens.device)
            mask[1, : start // 2] = not padded
            wrong = _decode_both(model, recorded, tokens, mask)
            if wrong is not None:
                return wrong + (" (with padding)" if padded else "")
    return None


def _decode_both(model: Any, recorded: llama_graph.RecordedStep, tokens: Tensor, mask: Tensor) -> str | None:
    """Read as many of `tokens` as mask (B, T) has, then 16 more one by one, in both ways."""
    start, decoder = mask.shape[1], model.model
    recorded.begin(mask)
    cache = model.new_cache(*tokens.shape)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    for target in (cache, recorded.cache):
        decoder(decoder.embed_tokens(tokens[:, :start]), positions, mask, target)
    for end in range(start, start + 16):
        positions = positions[:, -1:] + 1
        x = decoder.embed_tokens(tokens[:, end : end + 1])
        expected = model.logits(decoder(x, positions, mask, cache)[:, -1])
        difference = float((recorded(tokens[:, end]) - expected).abs().max())
        if not difference <= 8 * torch.finfo(model.dtype).eps * float(expected.abs().max()):
            return f"token {end} differs from the step itself by {difference:.1e}"
    return None
