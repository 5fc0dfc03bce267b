"""What a caller hands to the decoder: token ids or embeddings and the padding mask, checked before anything runs.

A token id without a row in the embedding is an IndexError without a name on the CPU, and on CUDA and NPU an assertion
of the device after which the process cannot go on; a mask of the wrong kind gives wrong answers without a word.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor


def embed(model: Any, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """-> (B, T, C) on the device and in the dtype of the model, from input_ids (B, T) or inputs_embeds (B, T, C).

    Raises TypeError for what is no tensor, ValueError for anything else that is no prompt of this model.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("Pass either input_ids or inputs_embeds, and not both.")
    if inputs_embeds is None:
        return model.model.embed_tokens(token_ids(model, input_ids))
    _check_shape("inputs_embeds", inputs_embeds, 3)
    width = model.config.hidden_size
    if inputs_embeds.shape[2] != width:
        raise ValueError(
            f"inputs_embeds is {tuple(inputs_embeds.shape)}, and this language model is {width} wide: the embeddings "
            "come from another one, or the checkpoint of MiniGPT-4 belongs to another size of Vicuna or Llama-2."
        )
    if not inputs_embeds.is_floating_point():
        raise ValueError(f"inputs_embeds is {inputs_embeds.dtype}; embeddings are floating-point numbers.")
    # Under autocast the projection hands over float16 whatever the decoder runs in.
    return inputs_embeds.to(model.device, model.dtype)


def token_ids(model: Any, ids: Tensor) -> Tensor:
    """ids (B, T) -> the same on the model's device in int64. Waits for the device."""
    _check_shape("input_ids", ids, 2)
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"input_ids is {ids.dtype}; token ids are int64.")
    smallest, largest, count = int(ids.min()), int(ids.max()), model.config.vocab_size
    if smallest < 0 or largest >= count:
        wrong = smallest if smallest < 0 else largest
        raise ValueError(
            f"input_ids has {wrong}, and the model's vocabulary is 0 to {count - 1}: the tokenizer belongs to another "
            "model (Vicuna v0 has 32001 tokens, Llama-2 and Vicuna v1.x have 32000), or a placeholder was left in."
        )
    return ids.to(model.device, torch.int64)


def padding_mask(mask: Tensor, batch: int, length: int, device: torch.device) -> Tensor:
    """attention_mask of 1 for a token and 0 for padding -> (batch, length) bool on `device`. Waits for the device."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"attention_mask is a {type(mask).__name__}; pass a tensor.")
    if mask.shape != (batch, length):
        raise ValueError(
            f"attention_mask is {tuple(mask.shape)}, the prompt {(batch, length)}: one entry for each token so far, "
            "those in the cache included."
        )
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("attention_mask has other values than 0 (padding) and 1: a mask that is added is not meant.")
    return mask.to(device).bool()


def prompt_mask(model: Any, prompt: Tensor, embeds: Tensor, mask: Tensor | None, settings: Any) -> Tensor:
    """The padding of a prompt that is to be continued, (B, T) bool; found from `prompt` (B, T or 0) ids without one.

    settings: llama_sampling.Settings. A padding id that also ends sequences says nothing about padding.
    """
    batch, length = embeds.shape[:2]
    pad = settings.pad_token_id
    if mask is not None:
        mask = padding_mask(mask, batch, length, model.device)
        if not bool(mask.any(1).all()):
            raise ValueError("A prompt of the batch is empty: its row of attention_mask is all padding.")
    elif prompt.shape[1] and pad is not None and pad not in settings.eos:
        mask = prompt != pad
    else:
        return torch.ones(batch, length, dtype=torch.bool, device=model.device)
    if not bool(mask[:, -1].all()):
        logging.warning("A prompt ends with padding: answers are right only with padding on the left.")
    return mask


def _check_shape(name: str, given: Any, dimensions: int) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} is a {type(given).__name__}; pass a tensor.")
    if given.dim() != dimensions or 0 in given.shape[:2]:
        expected = "(batch, tokens)" if dimensions == 2 else "(batch, tokens, width)"
        raise ValueError(f"{name} is {tuple(given.shape)}; expected {expected}, neither of them 0.")
