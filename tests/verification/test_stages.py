"""Planted faults: each must be caught, and by the stage that has it and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from verification import compare, memory, oracle, stages, weights
from verification.report import Outcome

pytestmark = pytest.mark.usefixtures("one_reference")
QUESTION = "Describe this image in detail."
STAGES = ["processor", "encoder", "Q-Former", "projection", "prompt", "LLM logits", "decode", "greedy ids"]


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
    query, key, value = attention.qkv.state_dict()["weight"].chunk(3)
    attention.qkv.load_state_dict({"weight": torch.cat((key, query, value))})


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
    swap_pair(*attention.qkv_proj.weight.split(attention.sizes["q_proj"])[:2])


def swapped_gate_and_up(port: Any) -> None:
    mlp = port.decoder.model.layers[3].mlp
    swap_pair(*mlp.gate_up_proj.weight.chunk(2))


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


def forgets(tokens: int) -> Any:
    """Decode steps that do not see the first `tokens` of the cache."""

    def fault(port: Any) -> None:
        make = port.decoder.new_cache

        def new_cache(*size: Any) -> Any:
            cache = make(*size)
            update = cache.update

            def wrong(layer: int, k: Any, v: Any, slots: Any, ops: Any) -> Any:
                k, v = update(layer, k, v, slots, ops)
                return (k[:, :, tokens:], v[:, :, tokens:]) if len(slots) == 1 else (k, v)

            cache.update = wrong
            return cache

        port.decoder.new_cache = new_cache

    fault.__name__ = f"forgets_{tokens}_of_90"
    return fault


def noisy_steps(port: Any) -> None:
    """Noise of 0.05 on the logits of every decode step, none on the prefill's."""
    logits, random = port.decoder.logits, torch.Generator().manual_seed(0)
    first = []

    def noisy(hidden: Any) -> Any:
        values = logits(hidden)
        if hidden.dim() == 3 or not first:  # forward over all positions, or the prompt's last
            first.append(True)
            return values
        return values + 0.05 * torch.randn(values.shape, generator=random)

    port.decoder.logits = noisy


def one_token_too_dear(port: Any) -> None:
    """A token that the reference gives 5% jumps to the front: too little for the KL limits to see."""
    logits = port.decoder.logits

    def biased(hidden: Any) -> Any:
        values = logits(hidden)
        values.scatter_add_(-1, values.topk(2).indices[..., 1:], torch.full_like(values[..., :1], 0.4))
        return values

    port.decoder.logits = biased


FAULTS = {
    "processor": [red_and_blue_swapped, bilinear, wrong_picture],
    "encoder": [block_eps, ln_vision_eps, dropped_ln_vision, swapped_vit_qk, missing_q_bias, one_block_too_few],
    "projection": [dropped_projection_bias],
    "prompt": [no_bos, other_template],
    "LLM logits": [llama_eps, swapped_llama_qk, swapped_gate_and_up],
    "decode": [forgets(1), noisy_steps],
    "greedy ids": [sampling],
}
# A decoder that computes other logits may well pick other tokens: that is the same fault, seen again.
FOLLOWS = {"LLM logits": {"decode", "greedy ids"}, "decode": {"greedy ids"}}


@pytest.mark.parametrize(
    ("stage", "fault"), [pytest.param(s, f, id=f.__name__) for s, faults in FAULTS.items() for f in faults]
)
def test_a_fault_is_caught_where_it_is(port: Any, pictures: list[Any], stage: str, fault: Any) -> None:
    fault(port)
    found = caught(port, pictures if fault is wrong_picture else pictures[:1])
    assert [name for name in found if name not in FOLLOWS.get(stage, ())] == [stage]


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
    assert [found[name] for name in STAGES[4:]] == [Outcome.NOT_RUN] * 4
    assert found["encoder"] is Outcome.PASSED


def measure(ids: tuple[int, ...], found: Any, expected: Any = None) -> Outcome:
    """Three tokens; at each the reference has 1.0 for its token and 0.9 for the one above."""
    truth = oracle.Greedy((5, 6, 7), (0.1, 0.1, 0.1))
    if expected is None:
        expected = torch.zeros(1, 3, 10)
        for position, token in enumerate(truth.ids):
            expected[0, position, token], expected[0, position, token + 1] = 1.0, 0.9
    stage = compare.Measured("greedy ids", "")
    stage.compare_ids("p", truth, ids, expected, None if found is None else expected + found)
    return stage.check(False).outcome


@pytest.mark.parametrize(("moved", "outcome"), [(0.11, Outcome.PASSED), (0.09, Outcome.FAILED)])
def test_half_precision_may_flip_only_what_its_logits_flip(moved: float, outcome: Outcome) -> None:
    change = torch.zeros(1, 3, 10)
    change[0, 1, 7] = moved
    change[0, 2] = 5 * torch.rand(10)  # elsewhere it does not count
    assert measure((5, 7, 7), change) is outcome


@pytest.mark.parametrize("ids", [(5, 6), (5, 6, 8), (5, 6, 7, 1)])
def test_another_text_is_a_difference(ids: tuple[int, ...]) -> None:
    assert measure(ids, None) is Outcome.FAILED
    assert measure(ids, torch.zeros(1, 3, 10)) is Outcome.FAILED


@pytest.fixture
def half_port(port: Any) -> Any:
    """float16 weights on the CPU stand in for an accelerator: the limits follow the port's dtype."""
    port.decoder.half()
    port.dtype = torch.float16
    return port


@pytest.mark.parametrize("fault", [forgets(1), forgets(5), forgets(50), noisy_steps], ids=lambda fault: fault.__name__)
def test_half_precision_hides_no_broken_decode_step(half_port: Any, pictures: list[Any], fault: Any) -> None:
    fault(half_port)
    found = caught(half_port, pictures[:1])
    assert "decode" in found
    assert "LLM logits" not in found


def test_half_precision_hides_no_wrong_token(half_port: Any, pictures: list[Any]) -> None:
    one_token_too_dear(half_port)
    assert {"LLM logits", "decode"} <= set(caught(half_port, pictures[:1]))


def test_half_precision_alone_is_no_fault(half_port: Any, pictures: list[Any]) -> None:
    checks, _ = stages.run_stages(half_port, half_port.files, pictures, QUESTION)
    assert [check.name for check in checks if check.outcome is not Outcome.PASSED] == []
    by_name = {check.name: check for check in checks}
    assert by_name["decode"].allowed == "KL 0.01, mean 0.00035, flip 0.2"
    assert by_name["decode"].measured.startswith("KL ")  # rounding was seen


def test_one_bad_position_is_not_averaged_away() -> None:
    expected = torch.randn(1, 400, 50, generator=torch.Generator().manual_seed(0))
    found = expected.clone()
    found[0, 399, :25] += 0.5
    stage = compare.Measured("decode", "")
    stage.compare_logits("p", found, expected, compare.HALF)
    assert float(compare.positions_kl(expected, found).mean()) < compare.HALF.mean_kl
    assert stage.check(False).outcome is Outcome.FAILED
