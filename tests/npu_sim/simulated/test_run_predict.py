"""(C) run_predict.py --npu-id 0 from end to end on the simulated device, in a process of its own: patched upstream,
synthetic weights, real torch_npu. Its token ids must be those of --device cpu, both with --dtype float16: the weights
are the same float16 numbers, and only the operations differ.

It shows arguments and control flow of the whole program, never numerics or speed of a device. The weights are random,
so the answers mean nothing.
"""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.upstream, pytest.mark.timeout(900)]
FUSED = {"npu_rms_norm", "npu_add_rms_norm", "npu_rotary_mul", "scatter_update_", "npu_swiglu"}
ATTENTION = "npu_fused_infer_attention_score"


# Both round to float16, in other places: a draw that falls near the border of two tokens gives either (of the seeds 1
# to 7, three have one among their 24).
@pytest.mark.parametrize(
    "arguments",
    [("--greedy", "--npu-graph", "off"), ("--greedy", "--npu-graph", "on"), ("--seed", "4", "--npu-graph", "off")],
    ids=["greedy", "recorded step", "sampled"],
)
def test_the_answer_has_the_tokens_of_the_cpu(ask, arguments: tuple[str, ...]) -> None:
    on_cpu, on_npu = ask("cpu", *arguments[:-2]), ask("npu", *arguments)
    assert (on_cpu.code, on_npu.code) == (0, 0), on_cpu.log + on_npu.log
    assert "model on npu:0" in on_npu.log
    assert len(on_cpu.ids) > 8
    assert on_npu.ids == on_cpu.ids
    assert on_npu.text.endswith(on_cpu.text)  # torch_npu prints a warning before
    assert {*FUSED, ATTENTION} <= set(on_npu.ran)


def test_the_self_check_keeps_every_operation(ask) -> None:
    on_cpu, on_npu = ask("cpu", "--greedy"), ask("npu", "--greedy", ops="checked")
    assert on_npu.code == 0, on_npu.log
    assert on_npu.ids == on_cpu.ids
    assert {*FUSED, ATTENTION, "npu_weight_quant_batchmatmul"} <= set(on_npu.ran)
    assert on_npu.log.index("fused ops: ") < on_npu.log.index("model on npu:0")  # before minutes of loading
    assert "differs" not in on_npu.log
    assert "raised" not in on_npu.log


def test_low_resource_runs_in_int8(ask) -> None:
    """That it runs and how: the CPU rounds its int8 products elsewhere, so ids are compared in test_decoder.py only."""
    on_npu = ask("npu", "--greedy", "low_resource", "--npu-graph", "off")
    assert on_npu.code == 0, on_npu.log
    assert on_npu.ran["npu_weight_quant_batchmatmul"] > 100
    assert len(on_npu.ids) == 24
