"""The calls of upstream's Chat, MiniGPTBase and evaluation scripts, argument for argument, against transformers."""

from __future__ import annotations

import pytest
import torch
import transformers
from equal_draws import VERSION, pair, quiet

pytestmark = pytest.mark.skipif(VERSION < (4, 57), reason="4.30 begins the answer to embeddings with id 1")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """As Vicuna v0: 32001 rows for 32000 pieces, padding id 0 apart from the end id 2."""
    return pair(tmp_path_factory.mktemp("llama"), {"num_hidden_layers": 2, "vocab_size": 32001})


@pytest.fixture(scope="module")
def embeds(models):
    """Four prompts of different lengths, each (1, T, C), as get_context_emb gives them."""
    generator = torch.Generator().manual_seed(1)
    return [models[0].model.embed_tokens(torch.randint(3, 32000, (1, n), generator=generator)) for n in (9, 14, 3, 11)]


class StoppingCriteriaSub(transformers.StoppingCriteria):
    """conversation.py:96-107 word for word where it matters: no guard against an answer shorter than the stop word."""

    def __init__(self, stops):
        super().__init__()
        self.stops = stops

    def __call__(self, input_ids, scores):
        return any(torch.all(input_ids[:, -len(stop) :] == stop).item() for stop in self.stops)


def criteria(*words):
    return transformers.StoppingCriteriaList([StoppingCriteriaSub([torch.tensor(word) for word in words])])


def both(models, seed=0, **call):
    """-> Hugging Face's ids and ours."""
    answers = []
    for model in models[::-1]:
        torch.manual_seed(seed)
        with quiet():
            answers.append(model.generate(**call))
    return answers


def padded_on_the_left(embeds):
    """minigpt_base.py:339-349: zeros, not the embedding of a padding token, and an int32 mask."""
    longest = max(e.shape[1] for e in embeds)
    joined = torch.zeros(len(embeds), longest, embeds[0].shape[2])
    mask = torch.zeros(len(embeds), longest, dtype=torch.int)
    for i, e in enumerate(embeds):
        joined[i, -e.shape[1] :] = e[0]
        mask[i, -e.shape[1] :] = 1
    return joined, mask


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])  # demo.py's slider
@pytest.mark.parametrize("num_beams", [1, 2, 5])  # demo.py's slider
def test_chat_answer(models, embeds, num_beams, temperature):
    """conversation.py:157-182, called by demo.py and demo_v2.py."""
    call = {
        "inputs_embeds": embeds[num_beams % 4],
        "max_new_tokens": 20,
        "stopping_criteria": criteria([835], [2277, 29937]),
        "num_beams": num_beams,
        "do_sample": True,
        "min_length": 1,
        "top_p": 0.9,
        "repetition_penalty": 1.05,
        "length_penalty": 1,
        "temperature": temperature,
    }
    theirs, ours = both(models, num_beams, **call)
    assert torch.equal(theirs, ours)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_chat_stops_at_the_stop_word(models, embeds, num_beams):
    free = models[0].generate(inputs_embeds=embeds[0], max_new_tokens=15, num_beams=num_beams, eos_token_id=None)[0]
    for stop in (free[4:6], free[7:8]):
        call = {"inputs_embeds": embeds[0], "max_new_tokens": 15, "num_beams": num_beams, "eos_token_id": None}
        theirs, ours = both(models, **call, stopping_criteria=criteria([31999], stop.tolist()))
        assert torch.equal(theirs, ours)
        assert ours.shape[1] < 15 or num_beams > 1  # upstream asks whether all beams end with the word


def test_chat_cuts_the_prompt_to_its_end(models, embeds):
    """answer_prepare drops what is beyond max_length at the front, and nothing else is told."""
    theirs, ours = both(models, inputs_embeds=embeds[1][:, 6:], max_new_tokens=10)
    assert torch.equal(theirs, ours)


BASE = {
    "num_beams": 1,
    "length_penalty": 1,
    "temperature": 1,
    "do_sample": False,
    "min_length": 1,
    "top_p": 0.9,
    "repetition_penalty": 1,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_new_tokens": 100},  # eval_vqa.py on vizwiz and gqa
        {"repetition_penalty": 1.0},  # eval_vqa.py:98
        {"num_beams": 3},
        {"num_beams": 3, "length_penalty": -1},  # usual for VQA
        {"do_sample": True, "temperature": 0.6},
        {"do_sample": True, "num_beams": 2},
        {"repetition_penalty": 1.3},
        {"min_length": 20},
    ],
    ids=str,
)
def test_generate_of_minigpt_base(models, embeds, changes):
    """minigpt_base.py:353-366, as eval_vqa.py and eval_ref.py use it: a batch of pictures, greedy as a rule."""
    if changes.get("repetition_penalty", 1) != 1 and VERSION >= (5, 0):
        pytest.skip(f"transformers {transformers.__version__} penalises padded prompts in its own way")
    joined, mask = padded_on_the_left(embeds)
    call = {**BASE, "max_new_tokens": 20, **changes}
    theirs, ours = both(models, inputs_embeds=joined, attention_mask=mask, **call)
    assert torch.equal(theirs, ours)


def test_a_batch_gives_what_single_prompts_give(models, embeds):
    joined, mask = padded_on_the_left(embeds)
    together = models[0].generate(inputs_embeds=joined, attention_mask=mask, max_new_tokens=20, eos_token_id=None)
    for row, prompt in zip(together, embeds):
        assert torch.equal(row, models[0].generate(inputs_embeds=prompt, max_new_tokens=20, eos_token_id=None)[0])


def test_under_autocast_and_without(models, embeds):
    """Chat and MiniGPTBase wrap the call in maybe_autocast; the answers are those without it."""
    plain = models[0].generate(inputs_embeds=embeds[0], max_new_tokens=12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(models[0].generate(inputs_embeds=embeds[0], max_new_tokens=12), plain)
