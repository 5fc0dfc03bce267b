"""What is asked of the port's language model, the same in both ports: logits, tokens and the text of an answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

STOP = "###"  # what Vicuna v0 writes where the next speaker's turn would begin
# What upstream's Chat samples with (conversation.py, answer_prepare) when nobody says otherwise.
SAMPLING = {"top_p": 0.9, "temperature": 1.0, "repetition_penalty": 1.05}


@dataclass(frozen=True)
class Answer:
    text: str
    stopped: bool  # the last token is the end token, or the end of a stop word
    tokens: int


def read_answer(tokenizer: Any, ids: list[int]) -> Answer:
    """The text less the stop word that ended it. Whatever else was said stays, for the judge to see."""
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    at_stop = text.endswith(STOP)
    stopped = at_stop or ids[-1:] == [tokenizer.eos_token_id]
    return Answer(text[: -len(STOP)].strip() if at_stop else text, stopped, len(ids))


def decoder_logits(decoder: Any, embed: Any, prompt: Tensor, ids: tuple[int, ...]) -> Tensor:
    follow = embed(torch.tensor([ids], device=prompt.device)).to(prompt.dtype)
    inputs = torch.cat((prompt, follow), dim=1)
    mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device)
    return decoder(inputs_embeds=inputs, attention_mask=mask).logits


def greedy_ids(decoder: Any, prompt: Tensor, max_new_tokens: int, **options: Any) -> tuple[int, ...]:
    return generated_ids(decoder, prompt, max_new_tokens, do_sample=False, **options)


def generated_ids(decoder: Any, prompt: Tensor, max_new_tokens: int, **options: Any) -> tuple[int, ...]:
    """What generate makes of prompt (1, T, hidden); `options` say whether it samples."""
    mask = torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device)
    options.update(max_new_tokens=max_new_tokens, num_beams=1)
    return tuple(decoder.generate(inputs_embeds=prompt, attention_mask=mask, **options)[0].tolist())


@contextlib.contextmanager
def seeded(device: torch.device, seed: int | None) -> Iterator[None]:
    """Draw from `seed` inside; afterwards the generators of the CPU and of `device` go on where they were.

    With None nothing is touched.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield


def forced_logits(decoder: Any, prompt: Tensor, ids: tuple[int, ...]) -> Tensor:
    """Run generate itself, its prefill and its one-token steps over the cache, along `ids`."""
    seen: list[Tensor] = []

    def force(_: Tensor, scores: Tensor) -> Tensor:
        seen.append(scores[:, None].clone())
        only = torch.full_like(scores, -torch.inf)
        only[:, ids[len(seen) - 1]] = 0
        return only

    greedy_ids(decoder, prompt, len(ids), logits_processor=[force])
    return torch.cat(seen, dim=1)
