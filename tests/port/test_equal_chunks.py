"""Prompts read in chunks, and answers up to the last slot: the same tokens as in one piece."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from equal_draws import VERSION, answer, draw_call, draw_shape, pair
from port.models import llama_generate
from port.models.llama_config import LlamaConfig
from port.models.llama_generate import Run, chunk_size
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

TOLERANCE = 2e-5
CHUNKS = (1, 2, 3, 5, 64)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    shape = {"num_hidden_layers": 2, "max_position_embeddings": 2048}
    return pair(tmp_path_factory.mktemp("llama"), shape)


@pytest.fixture
def ours(models):
    models[0].prefill_chunk = None
    yield models[0]
    models[0].prefill_chunk = None


def drawn_ids(batch, length, seed=0):
    return torch.randint(3, 97, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(10))
def test_random_calls_in_chunks(tmp_path, seed):
    """Any shape and call, any size of chunk: the ids of the whole prompt at once, which are Hugging Face's."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    ours, _ = pair(tmp_path, {**draw_shape(draw), "vocab_size": 97}, seed)
    for number in range(4):
        call = draw_call(draw, ours, greedy=False)
        ours.prefill_chunk = None
        whole = answer(ours, number, call)
        for ours.prefill_chunk in CHUNKS:
            assert torch.equal(answer(ours, number, call), whole), (number, ours.prefill_chunk)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_scores_after_the_prompt(ours, chunk, padded):
    """Also where whole chunks hold nothing but padding."""
    ids = drawn_ids(3, 23)
    mask = torch.ones(3, 23, dtype=torch.bool)
    if padded:
        mask[0, :22] = False
        mask[2, :7] = False
    embeds = ours.model.embed_tokens(ids)
    expected = Run(ours, embeds, mask, 30).prefill()
    ours.prefill_chunk = chunk
    run = Run(ours, embeds, mask, 30)
    assert (run.prefill() - expected).abs().max() <= TOLERANCE
    assert run.cache.length == 23


def test_the_size_of_a_chunk_follows_memory(ours, monkeypatch):
    assert chunk_size(ours, 1) > 2048  # a tiny model reads all at once
    lengths = []
    real = ours.model.forward
    monkeypatch.setattr(ours.model, "forward", lambda x, *rest: lengths.append(x.shape[1]) or real(x, *rest))
    monkeypatch.setattr(llama_generate, "PREFILL_BYTES", 9000)
    expected = chunk_size(ours, 1)
    assert 1 < expected < 17
    assert chunk_size(ours, 100) == 1
    ours.generate(drawn_ids(1, 17), max_new_tokens=2, eos_token_id=None)
    assert lengths[0] == expected
    assert sum(lengths) == 18  # the prompt and one step


@pytest.mark.parametrize("inner", [172, 256, 1024])  # 172: the ratio of Vicuna
def test_a_chunk_takes_no_more_than_it_may(monkeypatch, inner):
    """Every allocation of one pass that PyTorch's profiler sees; 1.1: the attention's own buffers are not counted."""
    monkeypatch.setattr(llama_generate, "PREFILL_BYTES", 16 << 20)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=97, hidden_size=64, intermediate_size=inner, num_hidden_layers=2, **heads)
    )
    length = chunk_size(model, 2)
    embeds = torch.randn(2, length, 64)
    with torch.no_grad():
        run = Run(model, embeds, torch.ones(2, length, dtype=torch.bool), length)
        with torch.profiler.profile(profile_memory=True) as profile:
            run.prefill()
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert 0.5 * (16 << 20) < max(itertools.accumulate(changes)) < 1.1 * (16 << 20)


@pytest.mark.skipif(VERSION < (4, 57), reason="minutes with an old release; what is compared does not depend on it")
def test_a_long_prompt_and_a_long_answer(models):
    """Seven hundred tokens and three hundred more: several windows of a cache, several chunks."""
    ours, theirs = models
    ids = drawn_ids(2, 700)
    mask = torch.ones_like(ids)
    mask[1, :333] = 0
    call = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 300, "eos_token_id": None}
    expected = answer(theirs, 0, call)
    for ours.prefill_chunk in (None, 256):
        assert torch.equal(answer(ours, 0, call), expected)
    ours.prefill_chunk = None


# The last slots


@pytest.mark.parametrize("new", [1, 2, 3])
def test_the_cache_is_as_long_as_the_answer_needs(ours, new):
    """The last token is never read: prompt and answer need one slot less than they have tokens."""
    run = Run(ours, ours.model.embed_tokens(drawn_ids(2, 5)), torch.ones(2, 5, dtype=torch.bool), 5 + new)
    run.prefill()
    for _ in range(new):
        run.step(torch.tensor([5, 6]))
    assert run.cache.length == run.cache.capacity == 5 + new


@pytest.mark.parametrize("length", [1, 30, 31])
def test_up_to_the_end_of_the_context(tmp_path, length):
    """max_length beyond the context is the caller's wish, as in Hugging Face; the prompt must leave room."""
    ours, theirs = pair(tmp_path, {"num_hidden_layers": 1, "max_position_embeddings": 32})
    call = {"input_ids": drawn_ids(1, length), "max_length": 32, "eos_token_id": None if VERSION >= (4, 57) else 2}
    expected = answer(theirs, 0, call)
    assert torch.equal(answer(ours, 0, call), expected)
    with pytest.raises(ValueError, match="33 tokens; the model reads 32 at most"):
        answer(ours, 0, {"input_ids": drawn_ids(1, 33), "max_new_tokens": 1})
