"""`forward` in the place of upstream's LlamaForCausalLM: logits, losses and continuations against transformers."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from equal_draws import draw_shape, pair

TOLERANCE = 2e-5
SEEDS = range(12)


def drawn(folder, seed):
    """-> our model, Hugging Face's, and a random generator for the rest of the case."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    shape = {**draw_shape(draw), "vocab_size": 97}
    return *pair(folder, shape, seed), draw


def left_padding(draw, batch, length):
    mask = torch.ones(batch, length, dtype=torch.long)
    for row in range(batch):
        mask[row, : draw.choice([0, draw.randint(0, length - 1)])] = 0
    return mask


def close(actual, expected, visible=None):
    """Both (B, T, V); visible (B, T) bool leaves out what padding makes of itself."""
    if visible is not None:
        actual, expected = actual[visible], expected[visible]
    assert actual.dtype is torch.float32
    assert actual.isfinite().all()
    assert (actual - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("seed", SEEDS)
def test_loss_as_upstream_asks_for_it(tmp_path, seed):
    """MiniGPTBase.forward (minigpt_base.py:262-309): a beginning token, right padding, -100 outside the answer."""
    ours, theirs, draw = drawn(tmp_path, seed)
    batch, length = draw.randint(1, 4), draw.randint(4, 12)
    ids = torch.randint(3, 97, (batch, length))
    mask = left_padding(draw, batch, length).flip(1).to(torch.int)
    labels = torch.full_like(ids, -100)
    for row in range(batch):
        end = int(mask[row].sum())
        start = draw.randint(0, max(0, end - 2))
        labels[row, start:end] = ids[row, start:end]
    labels[0, 1] = ids[0, 1]
    call = {"inputs_embeds": ours.model.embed_tokens(ids), "attention_mask": mask}
    with torch.no_grad():
        expected = theirs(**call).logits
    each = F.cross_entropy(expected[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    count = (labels[:, 1:] != -100).sum()
    out = ours(**call, labels=labels, return_dict=True, reduction="mean")
    close(out.logits, expected, mask.bool())
    assert out.past_key_values is None
    assert (out.loss - each.sum() / count).abs() <= TOLERANCE
    single = ours(**call, labels=labels, return_dict=True, reduction="none").loss
    assert single.shape == (batch,)
    assert (single - each.sum(1) / (length - 1)).abs().max() <= TOLERANCE


def test_labels_and_reductions_that_make_no_sense(tmp_path):
    ours, _, _ = drawn(tmp_path, 0)
    ids = torch.randint(3, 97, (2, 5))
    for labels in (ids[:1], ids[:, :4], ids[0]):
        with pytest.raises(ValueError, match="one for each token"):
            ours(ids, labels=labels, reduction="none")
    with pytest.raises(ValueError, match="write mean or none"):
        ours(ids, labels=ids, reduction="sum")


@pytest.mark.parametrize("seed", SEEDS)
def test_ranking_as_multi_select_does(tmp_path, seed):
    """minigpt_base.py:390-407: one loss per picture and candidate, sorted."""
    ours, theirs, draw = drawn(tmp_path, seed)
    prompt = torch.randint(3, 97, (3, draw.randint(1, 6)))
    losses, expected = [], []
    for _ in range(4):
        ids = torch.cat((prompt, torch.randint(3, 97, (3, draw.randint(1, 5)))), 1)
        labels = ids.clone()
        labels[:, : prompt.shape[1]] = -100
        losses.append(ours(inputs_embeds=ours.model.embed_tokens(ids), labels=labels, reduction="none").loss)
        with torch.no_grad():
            logits = theirs(input_ids=ids).logits
        each = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
        expected.append(each.mean(1))
    losses, expected = torch.stack(losses, 1), torch.stack(expected, 1)
    assert losses.shape == (3, 4)
    assert torch.equal(losses.argsort(-1), expected.argsort(-1))


@pytest.mark.parametrize("seed", SEEDS)
def test_turns_of_a_conversation_through_the_cache(tmp_path, seed):
    """Pieces of any size, some of one token, with padding before the first: the logits of the whole."""
    ours, theirs, draw = drawn(tmp_path, seed)
    batch = draw.randint(1, 3)
    sizes = [draw.choice([1, 1, 2, 5, 9]) for _ in range(draw.randint(2, 6))]
    ids = torch.randint(3, 97, (batch, sum(sizes)))
    mask = torch.cat((left_padding(draw, batch, sizes[0]), torch.ones(batch, sum(sizes[1:]), dtype=torch.long)), 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    plain = bool(mask.all()) and draw.random() < 0.5  # neither mask nor positions
    with torch.no_grad():
        whole = theirs(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    cache, parts, at = None, [], 0
    for size in sizes:
        piece = ids[:, at : at + size]
        call = {"input_ids": piece} if draw.random() < 0.5 else {"inputs_embeds": ours.model.embed_tokens(piece)}
        if not plain:
            call["attention_mask"] = mask[:, : at + size]
            call["position_ids"] = positions[:, at : at + size]
        out = ours(**call, past_key_values=cache, use_cache=True)
        parts.append(out.logits)
        cache, at = out.past_key_values, at + size
    assert cache.length == sum(sizes)
    close(torch.cat(parts, 1), whole, mask.bool())


def test_a_cache_is_continued_beyond_its_first_allocation(tmp_path):
    """Six hundred tokens one by one and in pieces: over the edges where the cache grows."""
    ours, theirs = pair(tmp_path, {"num_hidden_layers": 1, "max_position_embeddings": 1024})
    ids = torch.randint(3, 97, (2, 620), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = theirs(input_ids=ids).logits
    out = ours(ids[:, :250], use_cache=True)
    parts, at = [out.logits], 250
    while at < 620:
        size = 1 if at < 265 or at > 500 else 60
        out = ours(ids[:, at : at + size], past_key_values=out.past_key_values, use_cache=True)
        parts.append(out.logits)
        at += size
    close(torch.cat(parts, 1), whole[:, :at])
    assert out.past_key_values.capacity < 620 + 300


def test_both_ways_of_decoding_agree(tmp_path):
    """Greedy by hand with forward and its cache gives what generate gives, here and in transformers."""
    ours, theirs = pair(tmp_path, {"num_hidden_layers": 2, "num_key_value_heads": 4})
    ids = torch.randint(3, 97, (2, 7), generator=torch.Generator().manual_seed(0))
    out, said = ours(ids, use_cache=True), []
    for _ in range(15):
        said.append(out.logits[:, -1].argmax(-1, keepdim=True))
        out = ours(said[-1], past_key_values=out.past_key_values, use_cache=True)
    by_hand = torch.cat((ids, *said), 1)
    call = {"max_new_tokens": 15, "min_new_tokens": 15, "eos_token_id": 2, "suppress_tokens": None}
    assert torch.equal(by_hand, ours.generate(ids, max_new_tokens=15, eos_token_id=None))
    if not (by_hand[:, 7:] == 2).any():
        assert torch.equal(by_hand, theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **call))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"input_ids": torch.tensor([[5, 97]])}, ValueError, "input_ids has 97.* vocabulary is 0 to 96"),
        ({"input_ids": torch.tensor([[5, -200]])}, ValueError, "input_ids has -200"),
        ({"input_ids": torch.ones(2, 3)}, ValueError, "token ids are int64"),
        ({"input_ids": torch.ones(3).long()}, ValueError, r"input_ids is \(3,\); expected \(batch, tokens\)"),
        ({"inputs_embeds": torch.ones(1, 2, 64)}, ValueError, "64.*is 32 wide"),
        ({"inputs_embeds": torch.ones(1, 2).long()}, ValueError, r"expected \(batch, tokens, width\)"),
        ({"attention_mask": torch.ones(1, 5)}, ValueError, r"\(1, 5\), the prompt \(1, 3\)"),
        ({"attention_mask": torch.tensor([[-1e9, 0.0, 0.0]])}, ValueError, "a mask that is added is not meant"),
        ({"past_key_values": ()}, TypeError, "past_key_values is a tuple"),
    ],
    ids=str,
)
def test_calls_that_make_no_sense(tmp_path, call, error, message):
    ours, _ = pair(tmp_path, {"num_hidden_layers": 1})
    if "input_ids" not in call and "inputs_embeds" not in call:
        call = {**call, "input_ids": torch.tensor([[5, 6, 7]])}
    with pytest.raises(error, match=message):
        ours(**call)


def test_a_cache_of_another_batch_is_refused(tmp_path):
    ours, _ = pair(tmp_path, {"num_hidden_layers": 1})
    cache = ours(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="holds 1 sequences, and 2 go on"):
        ours(torch.tensor([[5], [6]]), past_key_values=cache)
