"""(B) The decoder with its NPU table on the simulated device, against plain operations on the CPU, both in float16.

It shows that arguments, order and lengths are right, never the numerics or the speed of a device.
"""

from __future__ import annotations

import pytest
import torch
from models import PROMPT, TOLERANCE, difference, logits, pair, table
from port.models import graph_check, llama_graph, llama_ops_npu
from port.models.ops_check import npu_checked
from recorded_graph import CaptureError
from simulator.npu_kernels import CALLED

PASSES = {
    "prompt in one pass": {},
    "prompt in passes of 3": {"chunk": 3},
    "prompt in passes of 1": {"chunk": 1},
    "padding": {"padding": 4},
    "padding and passes": {"padding": 2, "chunk": 3},
}


@pytest.mark.parametrize("call", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("int8", [False, True], ids=["float16", "int8"])
def test_logits_are_those_of_the_cpu(call: dict[str, int], int8: bool) -> None:
    assert difference(int8=int8, **call) < TOLERANCE


@pytest.mark.parametrize("int8", [False, True], ids=["float16", "int8"])
@pytest.mark.parametrize("graph", ["off", "on"])
def test_tokens_are_those_of_the_cpu(graph: str, int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_graph, "WINDOW", 16)
    monkeypatch.setattr(llama_graph, "trouble", llama_graph.why_not)  # its check is a test of its own
    on_cpu, on_npu = pair(int8)
    on_npu.graph = graph
    answers = {}
    with table():
        for model in (on_cpu, on_npu):
            for name, options in {"greedy": {}, "beams": {"num_beams": 3}, "sampled": {"do_sample": True}}.items():
                torch.manual_seed(0)
                ids = model.generate(PROMPT.to(model.device), max_new_tokens=20, eos_token_id=None, **options)
                answers.setdefault(name, []).append(ids.cpu().tolist())
    for name, (expected, got) in answers.items():
        assert got == expected, name


def test_every_fused_operation_was_used() -> None:
    before = dict(CALLED)
    difference(int8=True)
    used = {name for name, count in CALLED.items() if count > before.get(name, 0)}
    assert {name.removesuffix("_v2") for name in used} >= {
        "npu_rms_norm",
        "npu_add_rms_norm",
        "npu_rotary_mul",
        "scatter_update_",
        "npu_fused_infer_attention_score",
        "npu_swiglu",
        "npu_weight_quant_batchmatmul",
    }


def test_the_self_check_keeps_every_operation_and_the_graph(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    checked = npu_checked(torch.device("npu:0"), again=True)
    assert checked.processor == "Ascend910B3"
    assert [finding for finding in checked.findings if finding.bad] == []
    assert checked.table == llama_ops_npu.NPU
    monkeypatch.setattr(llama_graph, "WINDOW", 16)
    products = CALLED["npu_weight_quant_batchmatmul"]
    assert graph_check.check_graph(torch.device("npu:0"), torch.float16) is None
    assert CALLED["npu_weight_quant_batchmatmul"] > products  # int8 steps are recorded in the check, too


def test_a_forgotten_update_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a device waits for ever; with it, but with the old length, tokens are wrong."""
    monkeypatch.setattr(llama_graph, "WINDOW", 16)
    monkeypatch.setattr(llama_graph, "trouble", llama_graph.why_not)

    def forget(self, length: int) -> torch.Tensor:
        self.graph.replay()
        return self.logits

    def stale(self, length: int) -> torch.Tensor:
        self.graph.update(cpu_update_input=[{"actual_seq_lengths_kv": [length - 1] * self.batch}])
        self.graph.replay()
        return self.logits

    on_cpu, on_npu = pair()
    on_npu.graph = "on"
    with table():
        expected = logits(on_cpu)
        monkeypatch.setattr(llama_graph.NpuRecording, "replay", forget)
        with pytest.raises(CaptureError, match="for ever"):
            logits(on_npu)
        on_npu.forget_recording()
        monkeypatch.setattr(llama_graph.NpuRecording, "replay", stale)
        assert (logits(on_npu) - expected).abs().max() > 5 * TOLERANCE
