"""The recorded decode step gives the tokens of the step itself.

No graph of a device can be captured here: tests/recorded_graph.py records PyTorch operations instead, with the rules
of a captured graph (nothing runs at the capture, host values are frozen, waiting is refused).
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import types
import weakref

import pytest
import torch
from cpu_recording import WINDOW, LikeCuda, record_on_cpu
from port.models import llama_graph
from port.models.graph_check import check_graph
from port.models.llama_config import LlamaConfig
from port.models.modeling_vicuna_ascend import LlamaForCausalLM
from torch import nn

from tests.port.llama_folders import TINY
from tests.recorded_graph import CaptureError


@pytest.fixture
def model(monkeypatch):
    record_on_cpu(monkeypatch)
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig.from_dict(TINY))


def prompt(batch=1, length=5, seed=1):
    return torch.randint(3, TINY["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))


def both_ways(model, **call):
    answers = []
    for graph in ("off", "auto"):
        model.graph = graph
        torch.manual_seed(7)
        answers.append(model.generate(eos_token_id=None, **call))
    return answers


@pytest.mark.parametrize(("batch", "sample"), [(1, False), (3, False), (2, True)])
def test_same_tokens_across_windows(model, batch, sample):
    eager, recorded = both_ways(model, input_ids=prompt(batch), max_new_tokens=30, do_sample=sample)
    assert torch.equal(eager, recorded)
    assert LikeCuda.made == 5, "one recording per window of 8 slots up to slot 35"


def test_same_tokens_with_padding(model):
    ids = prompt(3, 6)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    mask[2, :1] = 0
    eager, recorded = both_ways(model, input_ids=ids, attention_mask=mask, max_new_tokens=20)
    assert torch.equal(eager, recorded)


def test_the_next_turn_uses_the_recording_again(model):
    first = both_ways(model, input_ids=prompt(), max_new_tokens=20)
    made, cache = LikeCuda.made, model.recording.cache
    second = both_ways(model, input_ids=prompt(seed=2, length=4), max_new_tokens=12)
    assert torch.equal(*first)
    assert torch.equal(*second)
    assert (LikeCuda.made, model.recording.cache) == (made, cache)
    longer = both_ways(model, input_ids=prompt(seed=3), max_new_tokens=60)
    assert torch.equal(*longer)
    assert model.recording.cache is not cache


def test_beams_are_computed_step_by_step(model):
    assert torch.equal(*both_ways(model, input_ids=prompt(), max_new_tokens=10, num_beams=3))
    assert LikeCuda.made == 0


def test_nan_forgets_the_recording(model):
    model.graph = "on"
    embeds = model.model.embed_tokens(prompt())
    model.generate(inputs_embeds=embeds, max_new_tokens=3, eos_token_id=None)
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        model.generate(inputs_embeds=embeds * float("nan"), max_new_tokens=3)
    expected = model.generate(inputs_embeds=embeds, max_new_tokens=9, eos_token_id=None)
    assert len(set(itertools.chain(*expected.tolist()))) > 1


def test_a_recording_keeps_no_model_alive(model):
    """13 GB of weights must be free as soon as the last reference to them is gone, not at some later collection."""
    mine = type(model)(model.config)  # the fixture's is kept by pytest
    mine.generate(prompt(), max_new_tokens=3, eos_token_id=None)
    assert mine.recording is not None
    gone = weakref.ref(mine)
    gc.disable()
    try:
        del mine
        assert gone() is None
    finally:
        gc.enable()


def changed_by_load(model):
    model.load_state_dict({name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize(
    "change", [lambda model: model.double(), lambda model: nn.ModuleList([model]).bfloat16(), changed_by_load]
)
def test_weights_that_moved_are_recorded_anew(model, change):
    """A recording reads the weights where they were: memory that is another tensor's by now."""
    model.generate(prompt(), max_new_tokens=12, eos_token_id=None)
    change(model)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(-1)  # so that the old weights give other tokens
    assert torch.equal(*both_ways(model, input_ids=prompt(), max_new_tokens=12))


@pytest.mark.parametrize("modes", [(torch.inference_mode, torch.no_grad), (torch.no_grad, torch.inference_mode)])
def test_a_recording_serves_inference_mode_and_what_follows(model, modes):
    model.graph = "on"
    answers = []
    for mode in modes:
        with mode():
            answers.append(model.generate(prompt(), max_new_tokens=20, eos_token_id=None))
    assert torch.equal(*answers)
    assert torch.equal(model.generate(prompt(), max_new_tokens=20, eos_token_id=None), answers[0])


def test_an_option_does_not_hide_what_every_module_has(model):
    assert callable(model.compile)


def test_off_on_and_nonsense(model, monkeypatch):
    model.graph = "off"
    model.generate(prompt(), max_new_tokens=2)
    assert model.recording is None
    model.graph = "no"
    with pytest.raises(ValueError, match="auto, on or off"):
        model.generate(prompt(), max_new_tokens=2)
    monkeypatch.delitem(llama_graph.RECORDINGS, "cpu")
    model.graph = "on"
    with pytest.raises(ValueError, match="there is no graph to record on cpu"):
        model.generate(prompt(), max_new_tokens=2)


def test_a_recording_that_fails_is_done_without(model, monkeypatch, caplog):
    def refuse(*_):
        raise CaptureError("no capture today")

    monkeypatch.setattr(LikeCuda, "__init__", refuse)
    eager, recorded = both_ways(model, input_ids=prompt(2), max_new_tokens=12)
    assert torch.equal(eager, recorded)
    assert "no capture today" in caplog.text
    assert model.graph == "off", "said once, not at every answer"
    model.graph = "on"
    with pytest.raises(CaptureError, match="no capture today"):
        model.generate(prompt(2), max_new_tokens=3)


def test_the_check_passes_and_catches_a_frozen_slot(model, monkeypatch):
    assert check_graph(torch.device("cpu"), torch.float32) is None
    fill = torch.Tensor.fill_
    monkeypatch.setattr(torch.Tensor, "fill_", lambda t, v: t if t.shape == (1,) and v == 20 else fill(t, v))
    assert "differs" in check_graph(torch.device("cpu"), torch.float32)


def test_the_check_catches_padding_of_a_longer_prompt_that_stays(model, monkeypatch):
    fill = torch.Tensor.fill_
    monkeypatch.setattr(torch.Tensor, "fill_", lambda t, v: t if t.dtype == torch.bool else fill(t, v))
    assert check_graph(torch.device("cpu"), torch.float32).endswith("(with padding)")


def test_the_check_reports_a_capture_that_fails(model, monkeypatch):
    def refuse(*_):
        raise CaptureError("no capture today")

    monkeypatch.setattr(LikeCuda, "__init__", refuse)
    assert "no capture today" in check_graph(torch.device("cpu"), torch.float32)


@pytest.mark.slow
def test_the_step_compiles_without_a_break(model):
    """As on CUDA, here with the CPU's compiler: one graph, the same scores."""
    eager = llama_graph.RecordedStep(model, LikeCuda, 1, WINDOW)
    eager.begin(torch.ones(1, 3, dtype=torch.bool))
    compiled = torch.compile(eager._compute, fullgraph=True, dynamic=False)
    with torch.no_grad():
        assert (compiled(model, WINDOW) - eager._compute(model, WINDOW)).abs().max() <= 1e-5


# The NPU's way of recording: order of calls and what is updated (torch_npu/npu/graphs.py)


@pytest.fixture
def npu(monkeypatch):
    """A stand-in for torch.npu that writes down what is called; `compute` runs as on the CPU."""
    calls = []

    class NPUGraph:
        def update(self, cpu_update_input):
            calls.append(("update", cpu_update_input))

        def replay(self):
            calls.append("replay")

    @contextlib.contextmanager
    def graph(npu_graph, pool=None, stream=None, capture_error_mode="global", auto_dispatch_capture=False):
        calls.append(("capture", auto_dispatch_capture))
        yield

    namespace = types.SimpleNamespace(
        NPUGraph=NPUGraph, graph=graph, synchronize=lambda device: calls.append("synchronize"), calls=calls
    )
    monkeypatch.setattr(torch, "npu", namespace, raising=False)
    return namespace


def test_npu_lengths_are_updated_before_each_replay(npu):
    computed = []
    recording = llama_graph.NpuRecording(lambda: computed.append(1) or torch.zeros(2, 3), torch.device("cpu"), 2)
    assert npu.calls == ["synchronize", ("capture", True)]
    assert len(computed) == 2, "once before the recording, so that nothing is loaded inside it"
    recording.replay(41)
    recording.replay(42)
    assert npu.calls[2:] == [
        ("update", [{"actual_seq_lengths_kv": [41, 41]}]),
        "replay",
        ("update", [{"actual_seq_lengths_kv": [42, 42]}]),
        "replay",
    ]
    assert recording.reach(5, 2048) == 2048


def test_npu_releases_without_the_update_record_nothing(npu):
    assert llama_graph.NpuRecording.available() is None
    npu.graph = lambda npu_graph, pool=None, stream=None: None
    assert "auto_dispatch_capture is missing" in llama_graph.NpuRecording.available()
    del npu.graph
    assert llama_graph.NpuRecording.available()
