"""Streams: the text of transformers' generate, and an error that reaches whoever reads, instead of making him wait."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
import torch
import transformers
from equal_draws import SHORTEST_EMBEDS, VERSION, pair, quiet
from port.models.answer_stream import AnswerPrinter

PATIENCE = 20  # seconds until a reader counts as waiting for ever


class Words:
    """The tokenizer that a text streamer needs: every id is a short word, id 7 ends a line, id 9 is the stop word."""

    def decode(self, ids, **kwargs):
        return "".join(
            {7: "\n", 9: " ###"}.get(token, f" {'aeiou'[token % 5] * (1 + token % 3)}{token}") for token in ids
        )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return pair(tmp_path_factory.mktemp("llama"), {"num_hidden_layers": 2})


@pytest.fixture
def embeds(models):
    return models[0].model.embed_tokens(torch.randint(4, 97, (1, 6), generator=torch.Generator().manual_seed(2)))


def chat_call(embeds, **changes):
    """What upstream's Chat.stream_answer passes (conversation.py:157-190)."""
    call = {
        "inputs_embeds": embeds,
        "max_new_tokens": 12,
        "stopping_criteria": transformers.StoppingCriteriaList(),
        "num_beams": 1,
        "do_sample": True,
        "min_length": 1,
        "top_p": 0.9,
        "repetition_penalty": 1.05,
        "length_penalty": 1,
        "temperature": 1.0,
        "eos_token_id": 5,
    }
    return {**call, **changes}


def streamed(model, seed=3, streamer=None, **call):
    """Generate in a thread as upstream does -> (pieces of text, the error that the reader got or None)."""
    streamer = streamer or transformers.TextIteratorStreamer(Words(), timeout=PATIENCE)

    def work():
        torch.manual_seed(seed)
        with quiet():
            try:
                model.generate(**call, streamer=streamer)
            except Exception as error:
                raised.append(error)

    raised: list[Exception] = []
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    pieces, error = [], None
    try:
        for piece in streamer:
            pieces.append(piece)
    except Exception as caught:
        error = caught
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert raised == ([] if error is None else [error])
    return pieces, error


@pytest.mark.skipif(VERSION < (4, 57), reason="4.30 begins the answer to embeddings with id 1")
@pytest.mark.parametrize("seed", range(6))
def test_the_stream_is_that_of_transformers(models, seed):
    """Piece by piece, sampled and greedy, from ids and from embeddings, with and without the prompt."""
    draw = random.Random(seed)
    ours, theirs = models
    ids = torch.randint(4, 97, (1, draw.randint(SHORTEST_EMBEDS, 9)), generator=torch.Generator().manual_seed(seed))
    call = chat_call(ours.model.embed_tokens(ids), do_sample=draw.random() < 0.7)
    if seed % 2:
        call["input_ids"] = ids
        del call["inputs_embeds"]
    both = []
    for model in (theirs, ours):
        streamer = transformers.TextIteratorStreamer(Words(), skip_prompt=seed % 3 == 0, timeout=PATIENCE)
        both.append(streamed(model, seed, streamer, **call))
    assert both[0] == both[1]
    assert len("".join(both[1][0]).split()) >= 3


def test_the_printer_shows_the_answer_up_to_the_stop_word(models, embeds):
    ours = models[0]
    call = {"inputs_embeds": embeds, "max_new_tokens": 20, "eos_token_id": None, "suppress_tokens": [9]}
    answer = ours.generate(**call)[0].tolist()

    def stop_word_at_8(ids, scores):
        forced = torch.full_like(scores, float("-inf")).index_fill(1, torch.tensor([9]), 0.0)
        return forced if ids.shape[1] == 8 else scores

    shown: list[str] = []
    printer = AnswerPrinter(Words(), shown.append)
    ours.generate(**call, streamer=printer, logits_processor=[stop_word_at_8])
    assert "".join(shown) == Words().decode(answer[:8]).strip()


# Errors


def fail_at(number):
    calls = []

    def criterion(ids, scores):
        calls.append(1)
        if len(calls) == number:
            raise RuntimeError("the device went away")
        return False

    return criterion


def test_an_error_in_a_stopping_criterion(models, embeds):
    pieces, error = streamed(models[0], **chat_call(embeds, stopping_criteria=[fail_at(4)], eos_token_id=None))
    assert str(error) == "the device went away"
    assert len("".join(pieces).split()) == 4


def test_an_error_in_the_streamers_own_put(models, embeds):
    class Breaks(transformers.TextIteratorStreamer):
        def put(self, value):
            if value.numel() and value.dim() == 1:
                raise KeyError("no such id")
            super().put(value)

    pieces, error = streamed(models[0], streamer=Breaks(Words(), timeout=PATIENCE), **chat_call(embeds))
    assert isinstance(error, KeyError)
    assert "".join(pieces) == ""


def test_an_error_in_end_is_not_seen_instead_of_the_first(models, embeds):
    class Breaks(transformers.TextStreamer):
        def end(self):
            raise OSError("closed pipe")

    with pytest.raises(RuntimeError, match="went away"):
        models[0].generate(
            inputs_embeds=embeds, max_new_tokens=4, streamer=Breaks(Words()), stopping_criteria=fail_at(2)
        )


@pytest.mark.parametrize("where", ["embeds", "weights"])
def test_nan(tmp_path, embeds, where):
    ours, _ = pair(tmp_path, {"num_hidden_layers": 1})
    if where == "embeds":
        embeds = embeds.clone()
        embeds[0, 2, 3] = float("nan")
    else:
        ours.state_dict()["model.layers.0.mlp.down_proj.weight"][3, 5] = float("nan")
    pieces, error = streamed(ours, **chat_call(embeds))
    assert isinstance(error, FloatingPointError)
    assert "".join(pieces) == ""


@pytest.mark.parametrize(
    "changes",
    [{"typo": 1}, {"max_new_tokens": 0}, {"num_beams": 2}, {"attention_mask": torch.ones(1, 2)}, {"temperature": -1.0}],
    ids=str,
)
def test_a_call_that_makes_no_sense(models, embeds, changes):
    pieces, error = streamed(models[0], **chat_call(embeds, **changes))
    assert isinstance(error, (TypeError, ValueError))
    assert pieces == [""]


@pytest.mark.skipif(not hasattr(transformers, "AsyncTextIteratorStreamer"), reason="this transformers has none")
def test_an_asynchronous_reader_gets_the_error_too(models, embeds):
    async def read():
        streamer = transformers.AsyncTextIteratorStreamer(Words(), timeout=PATIENCE)
        call = chat_call(embeds, stopping_criteria=[fail_at(2)], streamer=streamer)
        thread = threading.Thread(target=pytest.raises, args=(RuntimeError, models[0].generate), kwargs=call)
        thread.start()
        async for _ in streamer:
            pass

    with pytest.raises(RuntimeError, match="went away"):
        asyncio.run(read())
