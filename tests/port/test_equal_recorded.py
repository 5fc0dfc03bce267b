"""A recorded decode step under random calls: the ids of the step itself, which are Hugging Face's.

tests/recorded_graph.py records on the CPU with the rules of a captured graph; tests/port/test_graph.py says what is
recorded and when. Here one model answers many unlike calls in a row, so that what a recording keeps between them shows.
"""

from __future__ import annotations

import random
import threading

import pytest
import torch
from cpu_recording import LikeCuda, record_on_cpu
from equal_draws import VERSION, answer, draw_call, draw_shape, pair
from port.models.llama_generate import Run


@pytest.fixture
def recording(monkeypatch):
    record_on_cpu(monkeypatch)


def both_ways(ours, seed, call):
    answers = []
    for ours.graph in ("off", "on"):
        answers.append(answer(ours, seed, dict(call)))
    return answers


@pytest.mark.parametrize("seed", range(8))
def test_random_calls(tmp_path, recording, seed):
    """Batches, paddings, beams and lengths in any order over one model."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    ours, theirs = pair(tmp_path, {**draw_shape(draw), "vocab_size": 97}, seed)
    for number in range(8):
        ours.graph = "off"
        call = draw_call(draw, ours, greedy=False)
        eager, recorded = both_ways(ours, number, call)
        assert torch.equal(eager, recorded), (number, call)
        if VERSION >= (4, 57):
            assert torch.equal(recorded, answer(theirs, number, dict(call))), (number, call)
    assert LikeCuda.made > 0


@pytest.fixture
def ours(tmp_path, recording):
    model = pair(tmp_path, {"num_hidden_layers": 2})[0]
    model.graph = "on"
    return model


def drawn_ids(batch=1, length=6, seed=0):
    return torch.randint(4, 97, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_a_batch_after_beams(ours):
    """Three beams of one prompt, then three prompts: the same number of rows, and no tensor in common."""
    plain = {"input_ids": drawn_ids(), "max_new_tokens": 5, "eos_token_id": None}
    batch = {**plain, "input_ids": drawn_ids(3)}
    for call in (plain, {**plain, "num_beams": 3}, batch, plain):
        assert torch.equal(*both_ways(ours, 0, call))


def test_an_answer_that_begins_during_another(ours):
    """A second question while the first answer still streams: neither disturbs the other."""
    first = {"input_ids": drawn_ids(seed=1), "max_new_tokens": 20, "eos_token_id": None}
    second = {"input_ids": drawn_ids(seed=2), "max_new_tokens": 20, "eos_token_id": None}
    expected = [ours.generate(**call) for call in (first, second)]
    between: list[torch.Tensor] = []

    class Interrupts:
        count = 0

        def put(self, value):
            self.count += 1
            if self.count == 5:
                between.append(ours.generate(**second))

        def end(self):
            pass

    assert torch.equal(ours.generate(**first, streamer=Interrupts()), expected[0])
    assert torch.equal(between[0], expected[1])


def test_two_threads(ours):
    calls = [{"input_ids": drawn_ids(seed=n), "max_new_tokens": 30, "eos_token_id": None} for n in range(2)]
    expected = [ours.generate(**call) for call in calls]
    answers: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    together = threading.Barrier(2)

    def work(n):
        together.wait(20)
        answers[n] += [ours.generate(**calls[n]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for n in range(2):
        assert len(answers[n]) == 3
        assert all(torch.equal(given, expected[n]) for given in answers[n])


def test_a_failed_answer_frees_the_recording(ours):
    """Its traceback, kept for the reader of the stream, still refers to the run."""

    def fail(ids, scores):
        raise RuntimeError("stop")

    call = {"input_ids": drawn_ids(), "max_new_tokens": 9, "eos_token_id": None}
    ours.generate(**call)
    kept = ours.recording
    with pytest.raises(RuntimeError, match="stop") as raised:
        ours.generate(**call, stopping_criteria=fail)
    run = Run(ours, ours.model.embed_tokens(drawn_ids()), torch.ones(1, 6, dtype=torch.bool), 15)
    assert run.recorded is kept
    other = Run(ours, ours.model.embed_tokens(drawn_ids()), torch.ones(1, 6, dtype=torch.bool), 15)
    assert other.recorded is None
    assert raised.value.__traceback__ is not None
