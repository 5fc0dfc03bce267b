"""Sampling through the real code: a seed decides, nothing else is touched, and it is what upstream does by default."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from verification.decoding import SAMPLING, seeded
from verification.run import DEFAULT_CFG

PROJECT = Path(__file__).resolve().parents[2]
QUESTION = "Describe this image in detail."

# Samples with seeds through the workspace's Chat, and once as run_predict.py's ask does; prints what differs.
_PATCHED = """
import inspect, sys, torch
from pathlib import Path
from verification import weights
from verification.decoding import SAMPLING, read_answer
from verification.port import PatchedUpstream
workspace, folder, picture = map(Path, sys.argv[1:])
files = weights.from_folder(folder)
port = PatchedUpstream(workspace, weights.DEFAULT_CFG, files, "cpu", files.items)
defaults = inspect.signature(port.chat.answer_prepare).parameters
assert {name: defaults[name].default for name in SAMPLING} == SAMPLING, defaults
embedding = port.encode(port.pixels(picture)).embeddings
ask = lambda seed: port.answer("What is it?", embedding, 24, seed=seed)
greedy, before = ask(None), torch.get_rng_state()
first, again, other = ask(7), ask(7), ask(8)
assert torch.equal(torch.get_rng_state(), before)
assert first == again and first != other and first != greedy, (first, again, other, greedy)
assert ask(None) == greedy
import argparse, io, run_predict
from PIL import Image
said, args = io.StringIO(), argparse.Namespace(prompt="What is it?", seed=7, max_new_tokens=24, greedy=False)
run_predict.ask(port.chat, port.conversation.copy(), Image.open(picture).convert("RGB"), args, said)
print(repr(said.getvalue().strip()), repr(first.text), sep="\\n")
"""


def test_a_seed_gives_one_text_and_the_generators_go_on(port, pictures: list[Path]) -> None:
    embedding = port.encode(port.pixels(pictures[0])).embeddings

    def text(seed: int | None) -> str:
        return port.answer(QUESTION, embedding, 24, seed=seed).text

    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    greedy, first, again, other = text(None), text(0), text(0), text(1)
    assert first == again
    assert len({greedy, first, other}) == 3
    assert text(None) == greedy  # nothing of the sampling is left in the port
    assert torch.equal(torch.rand(3), expected)


def test_the_generators_are_restored_after_a_failure_too() -> None:
    def failing() -> None:
        with seeded(torch.device("cpu"), 5):
            torch.rand(3)
            raise ZeroDivisionError

    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        failing()
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(torch.device("cpu"), None):  # greedy: whoever draws goes on drawing
        torch.rand(3)
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_devices_generator_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, one of the same methods: what fork_rng asks of torch.cuda and torch.npu."""
    states = {"value": torch.tensor([1], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states["value"])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update(value=state, device=device))
    with seeded(torch.device("cuda:1"), 5):
        states["value"] = torch.tensor([2], dtype=torch.uint8)
    assert states["value"].tolist() == [1]
    assert states["device"] == torch.device("cuda:1")


def test_sampling_is_as_the_settings_say(port, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    generate = port.decoder.generate

    def listening(**options):
        seen.update(options)
        return generate(**options)

    monkeypatch.setattr(port.decoder, "generate", listening)
    port.answer(QUESTION, port.encode(port.pixels(pictures[0])).embeddings, 4, seed=1)
    assert inspect.signature(port.answer).parameters["seed"].default is None
    assert seen["do_sample"] is True
    assert {name: seen[name] for name in SAMPLING} == SAMPLING


@pytest.mark.upstream
def test_a_sampled_answer_is_the_one_that_run_predict_prints(workspace: Path, tiny: Path, pictures: list[Path]) -> None:
    assert (workspace / DEFAULT_CFG).is_file()
    argv = [sys.executable, "-c", _PATCHED, str(workspace), str(tiny), str(pictures[0])]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    printed, answered = done.stdout.splitlines()[-2:]
    assert printed == answered
