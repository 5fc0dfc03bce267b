"""Faults for the stages to catch. Each changes the loaded port in place, as an edit of one line of its code would."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def vit(port: Any) -> Any:
    return port.encoder._runner.model


def swap_pair(first: nn.Parameter, second: nn.Parameter) -> None:
    kept = first.data.clone()
    first.data.copy_(second.data)
    second.data.copy_(kept)


def block_eps(port: Any) -> None:
    vit(port).blocks[0].norm1.eps = 1e-5


def ln_vision_eps(port: Any) -> None:
    vit(port).ln_vision.eps = 1e-6


def dropped_ln_vision(port: Any) -> None:
    nn.init.ones_(vit(port).ln_vision.weight.data)
    nn.init.zeros_(vit(port).ln_vision.bias.data)


def swapped_vit_qk(port: Any) -> None:
    attention = vit(port).blocks[1].attn
    query, key, value = attention.qkv.state_dict()["weight"].chunk(3)
    attention.qkv.load_state_dict({"weight": torch.cat((key, query, value))})


def missing_q_bias(port: Any) -> None:
    vit(port).blocks[0].attn.q_bias.data.zero_()


def one_block_too_few(port: Any) -> None:
    vit(port).blocks = vit(port).blocks[:-1]


def dropped_projection_bias(port: Any) -> None:
    port.projection.bias = torch.zeros_like(port.projection.bias)


def llama_eps(port: Any) -> None:
    for block in port.decoder.model.layers:
        block.input_layernorm.eps = 1e-5


def swapped_llama_qk(port: Any) -> None:
    attention = port.decoder.model.layers[2].self_attn
    swap_pair(*attention.qkv_proj.weight.split(attention.sizes["q_proj"])[:2])


def swapped_gate_and_up(port: Any) -> None:
    mlp = port.decoder.model.layers[3].mlp
    swap_pair(*mlp.gate_up_proj.weight.chunk(2))


def no_bos(port: Any) -> None:
    prompt = port.prompt
    port.prompt = lambda question, embeddings: prompt(question, embeddings)[:, 1:]


def other_template(port: Any) -> None:
    prompt = port.prompt
    port.prompt = lambda question, embeddings: prompt("USER: " + question, embeddings)


def sampling(port: Any) -> None:
    """What upstream's Chat.answer_prepare hard-codes."""
    generate = port.decoder.generate
    torch.manual_seed(0)
    port.decoder.generate = lambda **options: generate(**{**options, "do_sample": True})


def red_and_blue_swapped(port: Any) -> None:
    processor = port.processor
    port.processor = lambda picture: processor(picture)[[2, 1, 0]]


def bilinear(port: Any) -> None:
    steps = port.parts("processors.pil_transforms")
    port.processor.transforms[0].interpolation = steps.InterpolationMode.BILINEAR


def wrong_picture(port: Any) -> None:
    first = []
    processor = port.processor

    def remember(picture: Any) -> Any:
        first.append(processor(picture))
        return first[0]

    port.processor = remember


def not_a_number(port: Any) -> None:
    vit(port).patch_embed.proj.bias.data[0] = float("nan")


def forgets(tokens: int) -> Any:
    """Decode steps that do not see the first `tokens` of the cache."""

    def fault(port: Any) -> None:
        make = port.decoder.new_cache

        def new_cache(*size: Any) -> Any:
            cache = make(*size)
            update = cache.update

            def wrong(layer: int, k: Any, v: Any, slots: Any, ops: Any) -> Any:
                k, v = update(layer, k, v, slots, ops)
                return (k[:, :, tokens:], v[:, :, tokens:]) if len(slots) == 1 else (k, v)

            cache.update = wrong
            return cache

        port.decoder.new_cache = new_cache

    fault.__name__ = f"forgets_{tokens}_of_90"
    return fault


def noisy_steps(port: Any) -> None:
    """Noise of 0.05 on the logits of every decode step, none on the prefill's."""
    logits, random = port.decoder.logits, torch.Generator().manual_seed(0)
    first = []

    def noisy(hidden: Any) -> Any:
        values = logits(hidden)
        if hidden.dim() == 3 or not first:  # forward over all positions, or the prompt's last
            first.append(True)
            return values
        return values + 0.05 * torch.randn(values.shape, generator=random)

    port.decoder.logits = noisy


def one_token_too_dear(port: Any) -> None:
    """A token that the reference gives 5% jumps to the front: too little for the KL limits to see."""
    logits = port.decoder.logits

    def biased(hidden: Any) -> Any:
        values = logits(hidden)
        values.scatter_add_(-1, values.topk(2).indices[..., 1:], torch.full_like(values[..., :1], 0.4))
        return values

    port.decoder.logits = biased


FAULTS = {
    "processor": [red_and_blue_swapped, bilinear, wrong_picture],
    "encoder": [block_eps, ln_vision_eps, dropped_ln_vision, swapped_vit_qk, missing_q_bias, one_block_too_few],
    "projection": [dropped_projection_bias],
    "prompt": [no_bos, other_template],
    "LLM logits": [llama_eps, swapped_llama_qk, swapped_gate_and_up],
    "decode": [forgets(1), noisy_steps],
    "greedy ids": [sampling],
}
