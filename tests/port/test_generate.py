"""Tokens: equal to transformers' generate for the same weights, ids and seed, and what happens when things go wrong."""

from __future__ import annotations

import json
import logging
import random
import threading

import pytest
import torch
import transformers
from llama_folders import TINY, write_folder
from port.models import llama_generate
from port.models.llama_sampling import Settings
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
like_457 = pytest.mark.skipif(
    VERSION < (4, 57),
    reason=f"4.57 is followed; transformers {transformers.__version__} scores and filters in its own way",
)
# 5.x leaves as many ids out of the repetition penalty as the row has padding, even where no padding is among them.
PENALTY_SKIPS_PADDING = VERSION >= (5, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("llama"), num_hidden_layers=2)


@pytest.fixture(scope="module")
def ours(folder):
    return LlamaForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.LlamaForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, TINY["vocab_size"], (2, 9), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def mask(ids):
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return mask


def seeded(model, **call):
    torch.manual_seed(11)
    return model.generate(**call)


# Golden ids: the same under every release, so that a change in what we follow shows


GOLDEN = [
    [58, 23, 48, 70, 29, 31, 33, 17, 54, 67, 48, 32],
    [28, 28, 28, 75, 83, 94, 0, 92, 32, 2, 0, 0],
]  # no choice closer than 0.004 in the logits


def test_greedy_ids_are_the_same_under_every_transformers(ours, theirs, ids):
    answer = ours.generate(ids, max_new_tokens=12)
    assert answer[:, 9:].tolist() == GOLDEN
    assert torch.equal(answer, theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12))


def test_greedy_with_padding(ours, theirs, ids, mask):
    call = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 10}
    assert torch.equal(ours.generate(**call), theirs.generate(**call))


# Against 4.57, the release that is followed where releases differ

OPTIONS = {
    "greedy": {"max_new_tokens": 12},
    "penalty": {"max_new_tokens": 12, "repetition_penalty": 1.5},
    "as Chat asks": {
        "max_new_tokens": 12,
        "num_beams": 1,
        "do_sample": True,
        "min_length": 1,
        "top_p": 0.9,
        "repetition_penalty": 1.05,
        "length_penalty": 1,
        "temperature": 1.0,
    },
    "hot": {"max_new_tokens": 12, "do_sample": True, "temperature": 2.5, "top_k": 7},
    "all tokens": {"max_new_tokens": 12, "do_sample": True, "top_k": 0},
    "min_new_tokens": {"max_new_tokens": 12, "do_sample": True, "min_new_tokens": 9},
    "beams": {"max_new_tokens": 8, "num_beams": 3},
    "long beams": {"max_new_tokens": 8, "num_beams": 4, "length_penalty": 2.0, "min_length": 15},
    "short beams": {"max_new_tokens": 8, "num_beams": 4, "length_penalty": -2.0, "early_stopping": True},
    "never early": {"max_length": 18, "num_beams": 2, "early_stopping": "never", "length_penalty": 0.5},
    "sampled beams": {"max_new_tokens": 8, "num_beams": 3, "do_sample": True, "top_p": 0.8},
    "more ends": {"max_new_tokens": 10, "num_beams": 3, "eos_token_id": [2, 17, 40]},
    "no end": {"max_new_tokens": 10, "eos_token_id": None, "do_sample": True},
}


@like_457
@pytest.mark.parametrize("source", ["ids", "padded ids", "embeddings", "padded embeddings"])
@pytest.mark.parametrize("name", OPTIONS)
def test_tokens_equal_transformers(ours, theirs, ids, mask, source, name):
    call = dict(OPTIONS[name])
    if PENALTY_SKIPS_PADDING and "padded" in source and "repetition_penalty" in call:
        pytest.skip(f"transformers {transformers.__version__} penalises padded prompts in its own way")
    if "ids" in source:
        call["input_ids"] = ids
    else:
        call["inputs_embeds"] = ours.base_model.embed_tokens(ids)
    if "padded" in source:
        call["attention_mask"] = mask
    expected = seeded(theirs, **call)
    assert torch.equal(seeded(ours, **call), expected)


@like_457
@pytest.mark.parametrize(
    "seed", [seed if seed < 60 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(200)]
)
def test_random_calls_equal_transformers(ours, theirs, seed):
    """Options drawn at random; three likely end ids make sequences end at different times."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    batch, length = draw.randint(1, 3), draw.randint(2, 12)
    prompt = torch.randint(3, 97, (batch, length))
    mask = torch.ones_like(prompt)
    for row in range(1, batch):
        mask[row, : draw.randint(0, length - 1)] = 0
    likely = ours.generate(prompt, attention_mask=mask, max_new_tokens=6, eos_token_id=None)[:, -3:].flatten().tolist()
    call = {
        "attention_mask": mask,
        "max_new_tokens": draw.randint(1, 14),
        "do_sample": draw.random() < 0.5,
        "num_beams": draw.choice([1, 1, 2, 3, 5]),
        "repetition_penalty": draw.choice([1.0, 1.05, 1.4]),
        "length_penalty": draw.choice([1, 0.0, -1.0, 2.5]),
        "early_stopping": draw.choice([False, True]),
        "min_length": draw.choice([0, 1, length + 4]),
        "eos_token_id": likely[: draw.randint(1, 3)],
    }
    if PENALTY_SKIPS_PADDING and not mask.all():
        call["repetition_penalty"] = 1.0
    if call["do_sample"]:
        call.update(
            temperature=draw.choice([0.4, 1.0, 1.7]), top_p=draw.choice([0.5, 0.9, 1.0]), top_k=draw.choice([0, 5, 50])
        )
    if draw.random() < 0.5:
        call["input_ids"] = prompt
    else:
        call["inputs_embeds"] = ours.base_model.embed_tokens(prompt)
    expected = seeded(theirs, **call)
    assert torch.equal(seeded(ours, **call), expected), call


# Length, ends and defaults


def test_embeddings_return_the_answer_alone(ours, ids):
    with_ids = ours.generate(ids, max_new_tokens=5)
    alone = ours.generate(inputs_embeds=ours.base_model.embed_tokens(ids), max_new_tokens=5)
    assert torch.equal(with_ids[:, 9:], alone)


def test_max_length_counts_embeddings(ours, ids):
    embeds = ours.base_model.embed_tokens(ids)
    assert ours.generate(inputs_embeds=embeds, max_length=13, eos_token_id=None).shape == (2, 4)
    assert ours.generate(ids, max_length=13, eos_token_id=None).shape == (2, 13)
    assert ours.generate(ids, eos_token_id=None).shape == (2, 29)  # twenty by default
    with pytest.raises(ValueError, match="max_new_tokens"):
        ours.generate(inputs_embeds=embeds)
    with pytest.raises(ValueError, match="already has 9 tokens"):
        ours.generate(inputs_embeds=embeds, max_length=9)


def test_a_row_that_ended_is_filled_with_padding(ours, ids):
    free = ours.generate(ids, max_new_tokens=8, eos_token_id=None)[:, 9:]
    end = free[0, 2].item()
    assert end not in free[1].tolist()
    answer = ours.generate(ids, max_new_tokens=8, eos_token_id=end)[:, 9:]
    first = free[0].tolist().index(end)
    assert answer[0].tolist() == free[0, : first + 1].tolist() + [0] * (7 - first)
    assert torch.equal(answer[1], free[1])
    assert ours.generate(ids[:1], max_new_tokens=8, eos_token_id=end).shape[1] == 9 + first + 1


def test_min_length_keeps_ends_away(ours, ids):
    end = ours.generate(ids[:1], max_new_tokens=1)[0, -1].item()
    assert ours.generate(ids[:1], max_new_tokens=6, eos_token_id=end).shape[1] == 10
    later = ours.generate(ids[:1], max_new_tokens=6, eos_token_id=end, min_length=13)
    assert end not in later[0, 9:13].tolist()


def test_padding_is_found_from_the_ids(ours, ids, mask):
    padded = ids.masked_fill(mask == 0, TINY["pad_token_id"])
    explicit = ours.generate(padded, attention_mask=mask, max_new_tokens=6)
    assert torch.equal(ours.generate(padded, max_new_tokens=6), explicit)
    assert not torch.equal(ours.generate(padded, attention_mask=torch.ones_like(mask), max_new_tokens=6), explicit)


def test_criteria_stop_all_rows_or_single_ones(ours, ids):
    free = ours.generate(ids, max_new_tokens=6, eos_token_id=None)
    after_two = ours.generate(ids, max_new_tokens=6, stopping_criteria=[lambda ids, scores: ids.shape[1] >= 11])
    assert torch.equal(after_two, free[:, :11])
    one_row = transformers.StoppingCriteriaList([lambda ids, scores: torch.tensor([True, ids.shape[1] >= 12])])
    answer = ours.generate(ids, max_new_tokens=6, stopping_criteria=one_row)
    assert answer.shape == (2, 12)
    assert answer[0, 9:].tolist() == [free[0, 9].item(), 0, 0]
    assert torch.equal(answer[1], free[1, :12])


def test_a_single_criterion_without_a_list(ours, ids):
    assert ours.generate(ids, max_new_tokens=6, stopping_criteria=lambda ids, scores: True).shape[1] == 10


def test_upstreams_stop_words(ours, ids):
    """StoppingCriteriaSub of upstream's conversation.py:96-107, in our words: the tail of the answer equals a stop."""
    free = ours.generate(inputs_embeds=ours.base_model.embed_tokens(ids[:1]), max_new_tokens=9, eos_token_id=None)
    stop = free[0, 3:5]

    def tail(answer, scores):
        return bool(torch.all(answer[:, -2:] == stop))

    embeds = ours.base_model.embed_tokens(ids[:1])
    assert torch.equal(ours.generate(inputs_embeds=embeds, max_new_tokens=9, stopping_criteria=[tail]), free[:, :5])


def test_a_logits_processor_is_applied(ours, ids):
    def only_42(ids, scores):
        return torch.full_like(scores, float("-inf")).index_fill(1, torch.tensor([42]), 0.0)

    assert (ours.generate(ids, max_new_tokens=3, logits_processor=[only_42])[:, 9:] == 42).all()


def test_generation_config_gives_the_defaults(tmp_path, ids):
    folder = write_folder(tmp_path, num_hidden_layers=1)
    written = {"do_sample": True, "temperature": 0.6, "top_p": 0.7, "max_length": 14, "eos_token_id": [2, 5]}
    (folder / "generation_config.json").write_text(json.dumps({**written, "transformers_version": "4.31.0"}))
    model = LlamaForCausalLM.from_pretrained(folder)
    settings = Settings.for_call(model.config, model.generation_defaults, {"temperature": 0.9, "top_p": None})
    assert (settings.do_sample, settings.temperature, settings.top_p) == (True, 0.9, 1.0)
    assert settings.eos == [2, 5]
    assert settings.pad == 0  # from config.json
    assert model.generate(ids, eos_token_id=None).shape == (2, 14)


def test_without_generation_config_the_ids_come_from_config(tmp_path):
    folder = write_folder(tmp_path, num_hidden_layers=1, eos_token_id=9)
    (folder / "generation_config.json").unlink()
    model = LlamaForCausalLM.from_pretrained(folder)
    assert Settings.for_call(model.config, model.generation_defaults, {}).eos == [9]


def test_autocast_around_it_changes_nothing(ours, ids):
    expected = ours.generate(ids, max_new_tokens=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours.generate(ids, max_new_tokens=8), expected)


def test_no_gradient_is_kept(ours, ids):
    embeds = ours.base_model.embed_tokens(ids).requires_grad_()
    assert not ours.generate(inputs_embeds=embeds, max_new_tokens=2).requires_grad


# Calls that cannot be answered


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temprature": 1.0}, TypeError, "does not know temprature. It knows .*temperature"),
        ({"temperature": 0.0, "do_sample": True}, ValueError, "temperature must be above 0"),
        ({"top_p": 1.5}, ValueError, "top_p must be between 0 and 1"),
        ({"top_k": -1}, ValueError, "top_k must be 0"),
        ({"num_beams": 0}, ValueError, "num_beams must be 1 or more"),
        ({"num_return_sequences": 2}, ValueError, "num_return_sequences"),
        ({"repetition_penalty": 0.0}, ValueError, "repetition_penalty must be above 0"),
        ({"max_new_tokens": 0}, ValueError, "nothing may follow"),
        ({"attention_mask": torch.ones(2, 3)}, ValueError, r"attention_mask is \(2, 3\), the prompt \(2, 9\)"),
        ({"inputs_embeds": torch.zeros(2, 9, 32)}, ValueError, "not both"),
        ({"num_beams": 2, "streamer": type("S", (), {"end": lambda self: None})()}, ValueError, "streamer cannot"),
    ],
)
def test_bad_options_are_named(ours, ids, options, error, message):
    with pytest.raises(error, match=message):
        ours.generate(ids, **options)


def test_a_prompt_beyond_the_context_is_refused_and_a_long_answer_warned_of(ours, caplog):
    with pytest.raises(ValueError, match="130 tokens; the model reads 128 at most"):
        ours.generate(torch.full((1, 130), 5), max_new_tokens=1)
    with caplog.at_level(logging.WARNING):
        ours.generate(torch.full((1, 120), 5), max_new_tokens=20, stopping_criteria=lambda ids, scores: True)
    assert "may reach 140 tokens" in caplog.text


def test_nan_is_an_error(ours, ids):
    embeds = ours.base_model.embed_tokens(ids).clone()
    embeds[0, 4, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="damaged weight file or image embedding"):
        ours.generate(inputs_embeds=embeds, max_new_tokens=3)


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"num_beams": 2}], ids=["greedy", "sampled", "beams"])
def test_an_overflow_after_the_prompt_is_an_error(ours, ids, monkeypatch, value, options):
    """Greedy would answer argmax of NaN, which is a token like any other."""
    overflow_at_step(ours, 3, value, monkeypatch)
    with pytest.raises(FloatingPointError, match="overflow of float16"):
        ours.generate(ids, max_new_tokens=6, eos_token_id=None, **options)


def test_no_token_after_an_overflow_is_shown(ours, ids, monkeypatch):
    overflow_at_step(ours, 3, "nan", monkeypatch)
    recorder = Recorder()
    with pytest.raises(FloatingPointError):
        ours.generate(ids[:1], max_new_tokens=9, eos_token_id=None, streamer=recorder)
    assert len(recorder.received) == 1 + 2  # the prompt, and the tokens from the scores that were numbers
    assert recorder.ended


def overflow_at_step(model, number, value, monkeypatch):
    """The scores of one pass are `value`; those before and after are right."""
    real, calls = model.logits, []

    def logits(hidden):
        calls.append(1)
        return torch.full_like(real(hidden), float(value)) if len(calls) == number else real(hidden)

    monkeypatch.setattr(model, "logits", logits)


# Streaming


class Recorder:
    def __init__(self):
        self.received, self.ended = [], False

    def put(self, value):
        self.received.append(value.tolist())

    def end(self):
        self.ended = True


def test_a_streamer_gets_every_token(ours, ids):
    recorder = Recorder()
    answer = ours.generate(ids[:1], max_new_tokens=5, streamer=recorder)
    assert recorder.received[0] == ids[:1].tolist()
    assert [token for (token,) in recorder.received[1:]] == answer[0, 9:].tolist()
    assert recorder.ended
    recorder = Recorder()
    ours.generate(inputs_embeds=ours.base_model.embed_tokens(ids[:1]), max_new_tokens=5, streamer=recorder)
    assert recorder.received[0] == [[]]


class Letters:
    """The tokenizer that a text streamer needs: one letter for each id."""

    def decode(self, ids, **kwargs):
        return " ".join(chr(97 + token % 26) for token in ids)


def read_in_a_thread(streamer) -> tuple[list[str], BaseException | None]:
    """What a reader gets, and the error that it ends with; fails where it would wait for ever."""
    pieces: list[str] = []
    errors: list[BaseException] = []

    def read():
        try:
            pieces.extend(streamer)
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(timeout=20)
    assert not reader.is_alive()
    return pieces, errors[0] if errors else None


def test_an_iterator_streamer_reads_the_text(ours, ids):
    streamer = transformers.TextIteratorStreamer(Letters(), skip_prompt=True)
    answer = ours.generate(ids[:1], max_new_tokens=5, streamer=streamer)
    pieces, error = read_in_a_thread(streamer)
    assert error is None
    assert "".join(pieces) == Letters().decode(answer[0, 9:])


def test_an_error_ends_the_stream_and_reaches_the_reader(ours, ids):
    """Upstream's Chat.stream_answer generates in a thread; its reader would wait for ever (conversation.py:196)."""
    streamer = transformers.TextIteratorStreamer(Letters(), skip_prompt=True)
    calls = []

    def fail_later(ids, scores):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the device went away")
        return False

    with pytest.raises(RuntimeError, match="went away"):
        ours.generate(ids[:1], max_new_tokens=9, streamer=streamer, stopping_criteria=[fail_later])
    pieces, error = read_in_a_thread(streamer)
    assert len("".join(pieces).split()) == 3
    assert str(error) == "the device went away"
    assert streamer.error is error


def test_a_failing_tokenizer_ends_the_stream_too(ours, ids):
    class Broken(Letters):
        def decode(self, ids, **kwargs):
            raise KeyError("no such id")

    streamer = transformers.TextIteratorStreamer(Broken(), skip_prompt=True)
    with pytest.raises(KeyError) as raised:
        ours.generate(ids[:1], max_new_tokens=3, streamer=streamer)
    assert read_in_a_thread(streamer) == ([""], raised.value)


def test_bad_options_end_the_stream(ours, ids):
    streamer = transformers.TextIteratorStreamer(Letters(), skip_prompt=True)
    with pytest.raises(TypeError):
        ours.generate(ids[:1], streamer=streamer, typo=1)
    assert isinstance(read_in_a_thread(streamer)[1], TypeError)


# Faults in the loop would show


@like_457
@pytest.mark.parametrize("fault", ["position", "cache row"])
def test_planted_faults_show(ours, theirs, ids, mask, monkeypatch, fault):
    call = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 10}
    if fault == "position":
        monkeypatch.setattr(
            llama_generate.Run,
            "step",
            lambda run, tokens: run.model.logits(
                run._read(run.model.model.embed_tokens(tokens[:, None]), run.positions)
            ),
        )
    else:
        call["num_beams"] = 4
        monkeypatch.setattr("port.models.llama_cache.KVCache.reorder", lambda cache, rows: None)
    assert not torch.equal(ours.generate(**call), theirs.generate(**call))
