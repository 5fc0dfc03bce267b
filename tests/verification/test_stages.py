"""Planted faults: each must be caught, and by the stage that has it and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from verification import memory, oracle, stages, weights
from verification.report import Outcome

pytestmark = pytest.mark.usefixtures("one_reference")
QUESTION = "Describe this image in detail."
STAGES = ["processor", "encoder", "Q-Former", "projection", "prompt", "LLM logits", "greedy ids"]


def outcomes(port: Any, pictures: list[Any], files: Any = None) -> dict[str, Outcome]:
    checks, _ = stages.run_stages(port, files or port.files, pictures, QUESTION, new_tokens=12)
    return {check.name: check.outcome for check in checks}


def caught(port: Any, pictures: list[Any]) -> list[str]:
    return [name for name, outcome in outcomes(port, pictures).items() if outcome is not Outcome.PASSED]


def test_the_port_agrees_with_the_reference_at_every_stage(port: Any, pictures: list[Any]) -> None:
    assert outcomes(port, pictures) == dict.fromkeys(STAGES, Outcome.PASSED)


def test_the_llama2_stage_has_no_qformer_and_a_default_ln_vision(tiny: Any, pictures: list[Any]) -> None:
    from verification.port import OverlayAlone

    files = weights.from_folder(tiny, "pretrain_llama2")
    port = OverlayAlone(Path(__file__).parents[2] / "overlay", files, "cpu")
    assert outcomes(port, pictures) == {name: Outcome.PASSED for name in STAGES if name != "Q-Former"}


def vit(port: Any) -> Any:
    return port.encoder._runner.model


def swap_pair(first: nn.Parameter, second: nn.Parameter) -> None:
    kept = first.data.clone()
    first.data.copy_(second.data)
    second.data.copy_(kept)


# Each fault changes the loaded port in place, as an edit of one line of its code would.


def block_eps(port: Any) -> None:
    vit(port).blocks[0].norm1.eps = 1e-5


def ln_vision_eps(port: Any) -> None:
    vit(port).ln_vision.eps = 1e-6


def dropped_ln_vision(port: Any) -> None:
    nn.init.ones_(vit(port).ln_vision.weight.data)
    nn.init.zeros_(vit(port).ln_vision.bias.data)


def swapped_vit_qk(port: Any) -> None:
    attention = vit(port).blocks[1].attn
    query, key, value = attention.qkv.weight.data.chunk(3)
    attention.qkv.weight.data = torch.cat((key, query, value))


def missing_q_bias(port: Any) -> None:
    vit(port).blocks[0].attn.q_bias.data.zero_()


def one_block_too_few(port: Any) -> None:
    vit(port).blocks = vit(port).blocks[:-1]


def dropped_projection_bias(port: Any) -> None:
    port.projection = oracle.Projection.__wrapped__(port.files.ckpt)
    port.projection.bias = torch.zeros_like(port.projection.bias)


def llama_eps(port: Any) -> None:
    for block in port.decoder.model.layers:
        block.input_layernorm.eps = 1e-5


def swapped_llama_qk(port: Any) -> None:
    attention = port.decoder.model.layers[2].self_attn
    swap_pair(attention.q_proj.weight, attention.k_proj.weight)


def swapped_gate_and_up(port: Any) -> None:
    mlp = port.decoder.model.layers[3].mlp
    swap_pair(mlp.gate_proj.weight, mlp.up_proj.weight)


def no_bos(port: Any) -> None:
    prompt = port.prompt
    port.prompt = lambda question, embeddings: prompt(question, embeddings)[:, 1:]


def other_template(port: Any) -> None:
    prompt = port.prompt
    port.prompt = lambda question, embeddings: prompt("USER: " + question, embeddings)


def sampling(port: Any) -> None:
    """What upstream's Chat.answer_prepare hard-codes."""
    generate = port.decoder.generate
    torch.manual_seed(0)
    port.decoder.generate = lambda **options: generate(**{**options, "do_sample": True})


def red_and_blue_swapped(port: Any) -> None:
    processor = port.processor
    port.processor = lambda picture: processor(picture)[[2, 1, 0]]


def bilinear(port: Any) -> None:
    steps = port.parts("processors.pil_transforms")
    port.processor.transforms[0].interpolation = steps.InterpolationMode.BILINEAR


def wrong_picture(port: Any) -> None:
    first = []
    processor = port.processor

    def remember(picture: Any) -> Any:
        first.append(processor(picture))
        return first[0]

    port.processor = remember


def not_a_number(port: Any) -> None:
    vit(port).patch_embed.proj.bias.data[0] = float("nan")


FAULTS = {
    "processor": [red_and_blue_swapped, bilinear, wrong_picture],
    "encoder": [block_eps, ln_vision_eps, dropped_ln_vision, swapped_vit_qk, missing_q_bias, one_block_too_few],
    "projection": [dropped_projection_bias],
    "prompt": [no_bos, other_template],
    "LLM logits": [llama_eps, swapped_llama_qk, swapped_gate_and_up],
    "greedy ids": [sampling],
}


@pytest.mark.parametrize(
    ("stage", "fault"), [pytest.param(s, f, id=f.__name__) for s, faults in FAULTS.items() for f in faults]
)
def test_a_fault_is_caught_where_it_is(port: Any, pictures: list[Any], stage: str, fault: Any) -> None:
    fault(port)
    found = caught(port, pictures if fault is wrong_picture else pictures[:1])
    # A decoder that computes other logits may well pick other tokens: that is the same fault, seen twice.
    assert [name for name in found if (stage, name) != ("LLM logits", "greedy ids")] == [stage]


def test_the_qformer_stage_sees_a_wrong_epsilon(port: Any, pictures: list[Any]) -> None:
    port.qformer = oracle.QFormer.__wrapped__(port.files.q_former_model, port.files.bert)
    port.qformer.model.layernorm.eps = 1e-5
    assert caught(port, pictures) == ["Q-Former"]


def test_nan_is_never_good(port: Any, pictures: list[Any]) -> None:
    not_a_number(port)
    assert "encoder" in caught(port, pictures[:1])


def test_a_crash_is_a_finding_and_what_follows_is_not_run(port: Any, pictures: list[Any]) -> None:
    def crash(pixels: Any) -> Any:
        raise RuntimeError("out of memory")

    port.encode = crash
    checks, embeddings = stages.run_stages(port, port.files, pictures, QUESTION, new_tokens=4)
    by_name = {check.name: check for check in checks}
    assert by_name["encoder"].outcome is Outcome.FAILED
    assert "out of memory" in by_name["encoder"].detail
    assert by_name["greedy ids"].outcome is Outcome.NOT_RUN
    assert not embeddings


def test_a_host_too_small_for_the_reference_is_not_green(
    port: Any, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1024)
    found = outcomes(port, pictures[:1])
    assert [found[name] for name in STAGES[4:]] == [Outcome.NOT_RUN] * 3
    assert found["encoder"] is Outcome.PASSED


@pytest.mark.parametrize(("margin", "good"), [(0.01, True), (0.5, False)])
def test_half_precision_may_flip_near_ties_only(margin: float, good: bool) -> None:
    stage = stages.Measured("greedy ids", "near-ties only")
    stages._compare_ids(stage, "p", oracle.Greedy((5, 6, 7), (1.0, margin, 1.0)), (5, 9, 7), band=0.1)
    assert (stage.check(False).outcome is Outcome.PASSED) is good


def test_a_shorter_text_is_a_difference() -> None:
    stage = stages.Measured("greedy ids", "identical")
    stages._compare_ids(stage, "p", oracle.Greedy((5, 6, 7), (1.0, 1.0, 1.0)), (5, 6), band=0.0)
    assert stage.check(False).outcome is Outcome.FAILED


def test_an_accelerator_is_held_to_the_half_precision_limits(port: Any, pictures: list[Any]) -> None:
    """float16 weights on the CPU stand in for it: the limits follow the port's dtype."""
    port.decoder.half()
    port.dtype = torch.float16
    checks, _ = stages.run_stages(port, port.files, pictures[:1], QUESTION, new_tokens=8)
    by_name = {check.name: check for check in checks}
    assert by_name["LLM logits"].allowed == "KL <= 0.001"
    assert by_name["LLM logits"].outcome is Outcome.PASSED
    assert by_name["LLM logits"].measured != "identical"
