"""(C) run_predict.py --npu-id 0 from end to end on the simulated device, in a process of its own: patched upstream,
synthetic weights, real torch_npu. Its picture embeddings and greedy ids must be those of --device cpu, both with
--dtype float16: the weights are the same float16 numbers, and only the operations differ.

It shows arguments and control flow of the whole program, never numerics or speed of a device. The weights are random,
so the answers mean nothing.
"""

from __future__ import annotations

import copy

import pytest
from answers import PICTURE, apart, different_draws

pytestmark = [pytest.mark.upstream, pytest.mark.timeout(900)]
FUSED = {"npu_rms_norm", "npu_add_rms_norm", "npu_rotary_mul", "scatter_update_", "npu_swiglu"}
ATTENTION = "npu_fused_infer_attention_score"


@pytest.mark.parametrize("graph", ["off", "on"], ids=["step", "recorded step"])
def test_the_greedy_answer_has_the_tokens_of_the_cpu(ask, graph: str) -> None:
    on_cpu, on_npu = ask("cpu", "--greedy"), ask("npu", "--greedy", "--npu-graph", graph)
    assert (on_cpu.code, on_npu.code) == (0, 0), on_cpu.log + on_npu.log
    assert "model on npu:0" in on_npu.log
    assert len(on_cpu.ids) > 8
    assert apart(on_npu.picture, on_cpu.picture) <= PICTURE
    assert on_npu.ids == on_cpu.ids
    assert on_npu.text.endswith(on_cpu.text)  # torch_npu prints a warning before
    assert {*FUSED, ATTENTION, "npu_fusion_attention_v3"} <= set(on_npu.ran)


def test_a_sampled_answer_is_the_same_draw_as_on_the_cpu(ask) -> None:
    """With seed 3 the seventh token differs: float16 puts it inside top_p on one device and outside on the other."""
    seed = ("--seed", "3")
    on_cpu, on_npu = ask("cpu", *seed), ask("npu", *seed, "--npu-graph", "off")
    assert (on_cpu.code, on_npu.code) == (0, 0), on_cpu.log + on_npu.log
    assert len(on_cpu.draws) == len(on_cpu.ids) > 8
    assert on_npu.ids[:4] == on_cpu.ids[:4]
    assert different_draws(on_cpu, on_npu) == []

    warmer = copy.copy(on_npu)
    warmer.draws = [(p.sqrt() / p.sqrt().sum(), random) for p, random in on_npu.draws]  # temperature 2
    assert "lies elsewhere" in " ".join(different_draws(on_cpu, warmer))
    other_seed = copy.copy(on_npu)
    other_seed.draws = [(p, random.flip(0)) for p, random in on_npu.draws]
    assert "other random numbers" in " ".join(different_draws(on_cpu, other_seed))
    another_token = copy.copy(on_npu)
    another_token.ids = [on_npu.ids[0] + 1, *on_npu.ids[1:]]
    assert different_draws(on_cpu, another_token) == ["token 0: npu did not take what was drawn"]


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
