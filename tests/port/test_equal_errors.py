"""Calls, weights and numbers that cannot give an answer: one sentence each, before or instead of wrong tokens."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from equal_draws import VERSION, answer, pair
from llama_folders import random_state, write_folder, write_shards
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

IDS = torch.tensor([[5, 9, 13, 4], [6, 7, 8, 9]])
WAYS = {"greedy": {}, "sampled": {"do_sample": True}, "beams": {"num_beams": 3}, "chunks": {}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return pair(tmp_path_factory.mktemp("llama"), {"num_hidden_layers": 1})


@pytest.fixture
def ours(models):
    return models[0]


def rows(*mask):
    return torch.tensor(mask)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({}, ValueError, "either input_ids or inputs_embeds, and not both"),
        ({"input_ids": IDS.tolist()}, TypeError, "input_ids is a list; pass a tensor"),
        ({"input_ids": IDS[0]}, ValueError, r"input_ids is \(4,\); expected \(batch, tokens\)"),
        ({"input_ids": IDS[:, :0]}, ValueError, r"input_ids is \(2, 0\).*neither of them 0"),
        ({"input_ids": IDS[:0]}, ValueError, r"input_ids is \(0, 4\).*neither of them 0"),
        ({"input_ids": IDS.float()}, ValueError, "torch.float32; token ids are int64"),
        ({"input_ids": IDS.bool()}, ValueError, "torch.bool; token ids are int64"),
        ({"input_ids": IDS - 6}, ValueError, "input_ids has -2, and the model's vocabulary is 0 to 96"),
        ({"input_ids": IDS + 88}, ValueError, r"input_ids has 101.*Vicuna v0 has 32001"),
        ({"inputs_embeds": torch.zeros(2, 3)}, ValueError, r"expected \(batch, tokens, width\)"),
        ({"inputs_embeds": torch.zeros(1, 0, 32)}, ValueError, r"\(1, 0, 32\).*neither of them 0"),
        ({"inputs_embeds": torch.zeros(1, 3, 40)}, ValueError, "is 32 wide: .*another size of Vicuna"),
        ({"inputs_embeds": torch.zeros(1, 3, 32).long()}, ValueError, "floating-point numbers"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 3)}, ValueError, r"\(2, 3\), the prompt \(2, 4\)"),
        ({"input_ids": IDS, "attention_mask": torch.ones(4)}, ValueError, r"\(4,\), the prompt \(2, 4\)"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 4, 4)}, ValueError, r"\(2, 1, 4, 4\), the prompt"),
        ({"input_ids": IDS, "attention_mask": [[1] * 4] * 2}, TypeError, "attention_mask is a list"),
        ({"input_ids": IDS, "attention_mask": rows([-1e9, 0, 0, 0], [0.0] * 4)}, ValueError, "other values than 0"),
        ({"input_ids": IDS, "attention_mask": rows([0] * 4, [1] * 4)}, ValueError, "A prompt of the batch is empty"),
        ({"input_ids": IDS, "max_new_tokens": 0}, ValueError, "max_new_tokens must be 1 or more.*got 0"),
        ({"input_ids": IDS, "max_new_tokens": -3}, ValueError, "max_new_tokens must be 1 or more.*got -3"),
        ({"input_ids": IDS, "max_new_tokens": 2.5}, ValueError, "max_new_tokens must be a whole number; got 2.5"),
        ({"input_ids": IDS, "max_new_tokens": None, "max_length": 4}, ValueError, "already has 4 tokens"),
        ({"input_ids": IDS, "temperature": "hot"}, ValueError, "temperature must be a number; got 'hot'"),
        ({"input_ids": IDS, "num_beams": True}, ValueError, "num_beams must be a whole number"),
        (
            {"input_ids": IDS, "num_beams": 2, "early_stopping": "soon"},
            ValueError,
            "True, False or 'never'; got 'soon'",
        ),
        ({"input_ids": torch.full((1, 128), 5)}, ValueError, "128 tokens; the model reads 128 at most"),
        ({"input_ids": IDS, "generation_config": None}, TypeError, "does not know generation_config. It knows"),
    ],
)
def test_one_sentence(ours, call, error, message):
    with pytest.raises(error, match=message):
        ours.generate(**{"max_new_tokens": 3, **call})


def test_padding_on_the_right_is_warned_of(ours, caplog):
    with caplog.at_level(logging.WARNING):
        ours.generate(IDS, attention_mask=rows([1, 1, 1, 1], [0, 1, 1, 1]), max_new_tokens=1)
        assert "ends with padding" not in caplog.text
        ours.generate(IDS, attention_mask=rows([1, 1, 1, 1], [1, 1, 1, 0]), max_new_tokens=1)
    assert "A prompt ends with padding: answers are right only with padding on the left" in caplog.text


def test_a_length_beyond_the_context_is_warned_of(ours, caplog):
    with caplog.at_level(logging.WARNING):
        ours.generate(IDS, max_new_tokens=200, stopping_criteria=lambda ids, scores: True)
    assert "may reach 204 tokens; the model was trained on 128" in caplog.text


@pytest.mark.skipif(VERSION < (4, 57), reason="4.30 fails on ids that the vocabulary does not have")
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},  # means nothing without sampling
        {"eos_token_id": 97, "min_new_tokens": 2},
        {"eos_token_id": torch.tensor([31, 2]), "min_new_tokens": 2},
        {"suppress_tokens": [31, 99, 32000]},
        {"pad_token_id": None},
        {"top_k": 1000, "do_sample": True},
        {"top_p": 0.0, "do_sample": True},
    ],
    ids=str,
)
def test_what_transformers_takes_is_taken(models, options):
    """Ids that the vocabulary does not have are never said; the answer is the same."""
    call = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "max_new_tokens": 6, **options}
    ours, theirs = models
    assert torch.equal(answer(ours, 0, dict(call)), answer(theirs, 0, dict(call)))


def test_int32_ids_give_int64(ours):
    call = {"max_new_tokens": 5, "repetition_penalty": 1.3}
    given = ours.generate(IDS.int(), **call)
    assert given.dtype is torch.int64
    assert torch.equal(given, ours.generate(IDS, **call))


# Numbers that are none


def with_damage(tmp_path, name, value):
    model, _ = pair(tmp_path, {"num_hidden_layers": 2})
    model.state_dict()[name].view(-1)[7] = value
    return model


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.layers.0.self_attn.v_proj.weight", "model.norm.weight", "lm_head.weight"],
)
def test_a_damaged_weight(tmp_path, name, way):
    """Not k_proj: the attention of PyTorch's CPU build makes zeros of scores that are all NaN."""
    ours = with_damage(tmp_path, name, float("nan"))
    ours.prefill_chunk = 2 if way == "chunks" else None
    ids = torch.tensor([[0, 5, 9, 13]])  # the first row of the embedding is the damaged one
    with pytest.raises(FloatingPointError, match="damaged weight file or image embedding"):
        ours.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, **WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_of_nan(ours, way):
    embeds = ours.model.embed_tokens(IDS).clone()
    embeds[1, 0, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="damaged weight file or image embedding"):
        ours.generate(inputs_embeds=embeds, max_new_tokens=4, **WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_an_overflow_of_float16(tmp_path, way):
    ours, _ = pair(tmp_path, {"num_hidden_layers": 2})
    ours.half()
    ours.generate(IDS, max_new_tokens=2, **WAYS[way])
    ours.state_dict()["model.layers.1.mlp.down_proj.weight"].mul_(20000.0)
    with pytest.raises(FloatingPointError, match="overflow of float16"):
        ours.generate(IDS, max_new_tokens=4, **WAYS[way])


def test_nan_under_padding_is_seen_too(ours):
    """A masked slot is multiplied by 0, and 0 * NaN is NaN: an error, never a token."""
    embeds = ours.model.embed_tokens(IDS).clone()
    embeds[0, 0] = float("nan")
    with pytest.raises(FloatingPointError):
        ours.generate(inputs_embeds=embeds, attention_mask=rows([0, 1, 1, 1], [1] * 4), max_new_tokens=2)


# Folders that do not fit


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize(("rows_there", "rows_asked"), [(32001, 32000), (32000, 32001)])
def test_another_vocabulary(tmp_path, name, rows_there, rows_asked):
    shape = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
    folder = write_folder(tmp_path, vocab_size=rows_asked, **shape)
    config = json.loads((folder / "config.json").read_text())
    state = random_state(config)
    state[name] = torch.zeros(rows_there, 8)
    write_shards(folder, state, 1)
    with pytest.raises(
        RuntimeError, match=rf"The vocabulary differs: the weights have {rows_there} tokens.*{rows_asked}"
    ):
        LlamaForCausalLM.from_pretrained(folder)


def folder_that_says(tmp_path, layers, **change):
    """Weights of TINY with `layers` layers under a config.json that was changed."""
    folder = write_folder(tmp_path, num_hidden_layers=layers)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    return folder


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_size", 64), ("intermediate_size", 57), ("num_key_value_heads", 2)]
)
def test_weights_of_another_size(tmp_path, name, value):
    folder = folder_that_says(tmp_path, 1, **{name: value})
    with pytest.raises(RuntimeError, match=r"\.bin: .* is \(\d+, \d+\), but .*config.json asks for \(\d+, \d+\)"):
        LlamaForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(("layers", "message"), [(1, "layers.1"), (3, "layers.2")])
def test_weights_of_another_depth(tmp_path, layers, message):
    folder = folder_that_says(tmp_path, 2, num_hidden_layers=layers)
    with pytest.raises(RuntimeError, match=message):
        LlamaForCausalLM.from_pretrained(folder)
