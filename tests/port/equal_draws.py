"""Random Llamas and random calls of generate, drawn from a seed: what the tests of token equality run through."""

from __future__ import annotations

import contextlib
import inspect
import logging
import random
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from llama_folders import write_folder
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
# 5.x leaves as many ids out of the repetition penalty as the row has padding, even where no padding is among them.
PENALTY_SKIPS_PADDING = VERSION >= (5, 0)
# Up to 4.57 a prompt of one embedding is read again in every step, in place of the new token.
SHORTEST_EMBEDS = 2 if VERSION < (5, 0) else 1
# 4.30 begins the answer to embeddings with the id 1, which then counts and is penalised; None as end id means the
# configuration's.
COUNTS_BOS = VERSION < (4, 57)
# What an old release's LlamaConfig does not know is left at its default. 5.x reads the older keys from config.json.
_HF_KNOWS = inspect.signature(transformers.LlamaConfig.__init__).parameters
_UNKNOWN = {"num_key_value_heads", "head_dim", "rope_theta", "attention_bias", "mlp_bias"} - _HF_KNOWS.keys()
if "rope_parameters" in _HF_KNOWS:
    _UNKNOWN -= {"rope_theta"}


def draw_shape(draw: random.Random) -> dict[str, Any]:
    """Changes to TINY: anything that a Llama's config.json may say and the release at hand can compute."""
    heads = draw.choice([1, 2, 3, 4, 6, 8])
    hidden = heads * draw.choice([4, 8, 10])
    shape = {
        "vocab_size": draw.choice([97, 97, 257, 1000, 32001]),
        "hidden_size": hidden,
        "intermediate_size": draw.choice([24, 37, 56, 83]),
        "num_hidden_layers": draw.randint(1, 3),
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice([kv for kv in range(1, heads + 1) if heads % kv == 0]),
        "head_dim": draw.choice([hidden // heads, hidden // heads, 6, 16]),
        "rms_norm_eps": draw.choice([1e-6, 1e-5, 1e-3]),
        "rope_theta": draw.choice([10000.0, 500.0, 1e6]),
        "attention_bias": draw.random() < 0.3,
        "mlp_bias": draw.random() < 0.3,
        "tie_word_embeddings": draw.random() < 0.3,
        "pad_token_id": draw.choice([0, 0, 3]),
    }
    if "num_key_value_heads" in _UNKNOWN:
        shape["num_key_value_heads"] = heads
    return {key: value for key, value in shape.items() if key == "num_key_value_heads" or key not in _UNKNOWN}


def pair(folder: Path, shape: dict[str, Any], seed: int = 0) -> tuple[Any, Any]:
    """The same random weights, written to `folder`, in our decoder and in Hugging Face's; both float32."""
    write_folder(folder, seed=seed, shards=1, **shape)
    return LlamaForCausalLM.from_pretrained(folder), transformers.LlamaForCausalLM.from_pretrained(folder).eval()


def draw_prompt(draw: random.Random, ours: Any) -> tuple[dict[str, Any], torch.Tensor]:
    """-> input_ids or inputs_embeds, perhaps with an attention_mask that hides padding on the left; and the ids."""
    batch, length = draw.randint(1, 4), draw.randint(1, 14)
    ids = torch.randint(4, ours.config.vocab_size, (batch, length))
    mask = torch.ones_like(ids)
    for row in range(batch):
        mask[row, : draw.choice([0, draw.randint(0, length - 1)])] = 0
    given: dict[str, Any] = {"attention_mask": mask}
    if draw.random() < 0.5 and length >= SHORTEST_EMBEDS:
        given["inputs_embeds"] = ours.model.embed_tokens(ids)
        return given, ids
    given["input_ids"] = ids
    if draw.random() < 0.3:  # the mask is to be found from the padding ids
        given["input_ids"] = ids.masked_fill(mask == 0, ours.config.pad_token_id)
        del given["attention_mask"]
    elif mask.all() and draw.random() < 0.5:
        del given["attention_mask"]
    return given, ids


def draw_call(draw: random.Random, ours: Any, greedy: bool) -> dict[str, Any]:
    """Arguments of generate. End ids are what the model likes to say, so that rows end at different times."""
    call, ids = draw_prompt(draw, ours)
    free = ours.generate(ids, attention_mask=call.get("attention_mask"), max_new_tokens=6, eos_token_id=None)
    said = free[:, ids.shape[1] :].flatten().tolist()
    call["max_new_tokens"] = draw.randint(1, 14)
    call["eos_token_id"] = draw.choice([None, said[-1], said[-2:], draw.sample(said, 3), 2])
    call["repetition_penalty"] = draw.choice([1.0, 1.0, 1.05, 1.4, 0.8])
    call.update(draw.choice([{}, {}, {"min_new_tokens": 4}, {"suppress_tokens": said[:2]}]))
    if draw.random() < 0.3:
        call["stopping_criteria"] = transformers.StoppingCriteriaList([StopWords([[said[-1]], said[1:3]])])
    if draw.random() < 0.2:
        call["logits_processor"] = transformers.LogitsProcessorList([Pushes(said[0])])
    keep_comparable(call)
    if not greedy:
        call.update(draw_choice(draw, ids.shape[1]))
    return call


def keep_comparable(call: dict[str, Any]) -> None:
    """Take back what another release than 4.57 computes in a way of its own, also for greedy answers."""
    if PENALTY_SKIPS_PADDING and not call.get("attention_mask", torch.zeros(1)).all():
        call["repetition_penalty"] = 1.0
    if COUNTS_BOS:
        call["eos_token_id"] = 2 if call["eos_token_id"] is None else call["eos_token_id"]
        if "inputs_embeds" in call:
            call["repetition_penalty"] = 1.0
            call.pop("logits_processor", None)  # ours looks at the number of ids


def draw_choice(draw: random.Random, prompt: int) -> dict[str, Any]:
    """How tokens are chosen: sampling, beams or both, and the lengths that 4.30 counts in another way."""
    sample = draw.random() < 0.6
    choice: dict[str, Any] = {"do_sample": sample, "num_beams": 1 if draw.random() < 0.4 else draw.randint(2, 5)}
    if sample:
        choice["temperature"] = draw.choice([0.3, 0.7, 1.0, 1.7])
        choice["top_p"] = draw.choice([0.3, 0.8, 0.9, 1.0])
        choice["top_k"] = draw.choice([0, 1, 5, 50])
    if choice["num_beams"] > 1:
        choice["length_penalty"] = draw.choice([1, 0.0, -1.0, 0.6, 2.5])
        choice["early_stopping"] = draw.choice([True, False, "never"])
    if draw.random() < 0.4:
        choice["min_length"] = draw.choice([1, prompt + 3, prompt + 6])
    if draw.random() < 0.3:
        choice["max_new_tokens"] = None
        choice["max_length"] = prompt + draw.randint(1, 12)
    return choice


class StopWords(transformers.StoppingCriteria):
    """Upstream's StoppingCriteriaSub (conversation.py:96-107), in our words: all rows end with one of the words."""

    def __init__(self, words: list[list[int]]) -> None:
        self.words = [torch.tensor(word) for word in words]

    def __call__(self, ids: torch.Tensor, scores: Any, **kwargs: Any) -> bool:
        return any(bool((ids[:, -len(word) :] == word).all()) for word in self.words if ids.shape[1] >= len(word))


class Pushes(transformers.LogitsProcessor):
    """A logits processor that makes one id likelier in every other step."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        change = torch.zeros_like(scores)
        change[:, self.token] = 1.5 * (ids.shape[1] % 2)
        return scores + change


def answer(model: Any, seed: int, call: dict[str, Any]) -> torch.Tensor:
    """model.generate from a fixed seed, without the warnings of Hugging Face's."""
    torch.manual_seed(seed)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        return model.generate(**call)


@contextlib.contextmanager
def quiet() -> Any:
    """No log lines: both sides warn of lengths in almost every drawn call."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def differences(folder: Path, seed: int, calls: int, greedy: bool) -> list[str]:
    """Draw one shape and `calls` calls from `seed`; one line for each call whose ids differ from Hugging Face's."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    shape = draw_shape(draw)
    ours, theirs = pair(folder, shape, seed)
    found = []
    for number in range(calls):
        torch.manual_seed(1000 * seed + number)
        call = draw_call(draw, ours, greedy)
        expected = answer(theirs, seed, call)
        if COUNTS_BOS and "inputs_embeds" in call:
            expected = expected[:, 1:]
        actual = answer(ours, seed, call)
        if not torch.equal(actual, expected):
            told = {key: value for key, value in call.items() if not isinstance(value, torch.Tensor) or value.dim() < 3}
            found.append(f"call {number} of {shape}: {told}: expected {expected.tolist()}, got {actual.tolist()}")
    return found
