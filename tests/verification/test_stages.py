"""Planted faults: each must be caught, and by the stage that has it and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from planted_faults import FAULTS, forgets, noisy_steps, not_a_number, one_token_too_dear, wrong_picture
from recordings import GATE, only

from verification import weights
from verification.gate.golden import Recording
from verification.gate.record import record
from verification.gate.run import run_gate
from verification.report import Check, Outcome

QUESTION = "Describe this image in detail."
STAGES = ["processor", "encoder", "Q-Former", "projection", "prompt", "LLM logits", "decode", "greedy ids", "repeat"]


def lines(port: Any, pictures: list[Any], golden: Recording) -> dict[str, Check]:
    golden = only(golden, len(pictures))
    taken = run_gate(port, port.files, pictures, [QUESTION], GATE, golden).checks
    return {check.name: check for check in taken if check.part == "stages"}


def outcomes(port: Any, pictures: list[Any], golden: Recording) -> dict[str, Outcome]:
    return {name: check.outcome for name, check in lines(port, pictures, golden).items()}


def caught(port: Any, pictures: list[Any], golden: Recording) -> list[str]:
    return [name for name, outcome in outcomes(port, pictures, golden).items() if outcome is Outcome.FAILED]


def test_the_port_agrees_with_the_reference_at_every_stage(port: Any, pictures: list[Any], golden: Any) -> None:
    assert outcomes(port, pictures, golden) == dict.fromkeys(STAGES, Outcome.PASSED)


def test_the_llama2_stage_has_no_qformer_and_a_default_ln_vision(tiny: Any, pictures: list[Any]) -> None:
    from verification.overlay_alone import OverlayAlone

    files = weights.from_folder(tiny, "pretrain_llama2")
    port = OverlayAlone(Path(__file__).parents[2] / "overlay", files, "cpu")
    found = outcomes(port, pictures, record(files, pictures, [QUESTION], new_tokens=8))
    assert found == {name: Outcome.PASSED for name in STAGES if name != "Q-Former"}


# A decoder that computes other logits may well pick other tokens: that is the same fault, seen again.
FOLLOWS = {
    "LLM logits": {"decode", "greedy ids", "repeat"},
    "decode": {"greedy ids", "repeat"},
    "greedy ids": {"repeat"},
}


@pytest.mark.parametrize(
    ("stage", "fault"), [pytest.param(s, f, id=f.__name__) for s, faults in FAULTS.items() for f in faults]
)
def test_a_fault_is_caught_where_it_is(port: Any, pictures: list[Any], golden: Any, stage: str, fault: Any) -> None:
    fault(port)
    found = caught(port, pictures if fault is wrong_picture else pictures[:1], golden)
    assert [name for name in found if name not in FOLLOWS.get(stage, ())] == [stage]


def test_the_qformer_stage_sees_a_wrong_epsilon(port: Any, pictures: list[Any], golden: Any) -> None:
    port.qformer.model.layernorm.eps = 1e-5
    assert caught(port, pictures, golden) == ["Q-Former"]


def test_pictures_of_a_batch_that_come_back_in_another_order(port: Any, pictures: list[Any], golden: Any) -> None:
    encode = port.encoder.encode
    port.encoder.encode = lambda images: encode(images).flip(0)
    three = [*pictures, pictures[0]]
    half = {name: {} for name in golden.about["half"]}
    about = {**golden.about, "half": half, "pictures": [*golden.about["pictures"], golden.about["pictures"][0]]}
    arrays = dict(golden.arrays)
    for key, value in golden.arrays.items():
        name, picture, *question = key.split(".")
        if picture == "0":
            arrays[".".join((name, "2", *question))] = value
    found = run_gate(port, port.files, three, [QUESTION], GATE, Recording({**about, "weights": {}}, arrays)).checks
    assert [c.name for c in found if c.outcome is Outcome.FAILED and c.part == "stages"] == ["encoder"]


def test_what_a_wrong_stage_feeds_is_not_judged(port: Any, pictures: list[Any], golden: Any) -> None:
    torch.nn.init.zeros_(port.encoder._runner.model.ln_vision.bias.data)
    found = lines(port, pictures, golden)
    assert found["projection"].outcome is Outcome.NOT_RUN
    assert "encoder" in found["projection"].detail


def test_nan_is_never_good(port: Any, pictures: list[Any], golden: Any) -> None:
    not_a_number(port)
    assert "encoder" in caught(port, pictures[:1], golden)


def test_a_crash_is_a_finding_of_its_stage(port: Any, pictures: list[Any], golden: Any) -> None:
    def crash(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    port.encode, port.decode = crash, crash
    found = lines(port, pictures, golden)
    assert found["encoder"].outcome is found["decode"].outcome is Outcome.FAILED
    assert "out of memory" in found["encoder"].detail
    assert found["projection"].outcome is Outcome.NOT_RUN
    assert found["LLM logits"].outcome is Outcome.PASSED


@pytest.fixture
def half_port(port: Any) -> Any:
    """float16 weights on the CPU stand in for an accelerator: the limits follow the port's dtype."""
    port.decoder.half()
    port.dtype = torch.float16
    return port


SLOWLY = [pytest.param(forgets(steps), marks=pytest.mark.slow) for steps in (1, 50)]


@pytest.mark.parametrize("fault", [forgets(5), *SLOWLY, noisy_steps], ids=lambda fault: fault.__name__)
def test_half_precision_hides_no_broken_decode_step(half_port: Any, pictures: Any, golden: Any, fault: Any) -> None:
    fault(half_port)
    found = caught(half_port, pictures[:1], golden)
    assert "decode" in found
    assert "LLM logits" not in found


def test_half_precision_hides_no_wrong_token(half_port: Any, pictures: list[Any], golden: Any) -> None:
    one_token_too_dear(half_port)
    assert {"LLM logits", "decode"} <= set(caught(half_port, pictures[:1], golden))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_alone_is_no_fault(port: Any, pictures: list[Any], golden: Any, dtype: torch.dtype) -> None:
    port.decoder.to(dtype)
    port.dtype = dtype
    found = lines(port, pictures, golden)
    assert [name for name, check in found.items() if check.outcome is not Outcome.PASSED] == []
    assert 0.5 < found["decode"].numbers["ratio"] < 1.5  # rounding was seen, and compared with the reference's own
    assert found["decode"].measured.startswith("KL ")


def test_three_times_the_rounding_is_more_than_the_third_party_has(half_port: Any, pictures: Any, golden: Any) -> None:
    """Below every absolute limit, and yet not what half precision explains."""
    weight = half_port.decoder.model.layers[1].mlp.down_proj.weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).half()
    weight.data += 2e-3 * weight.std() * noise
    check = lines(half_port, pictures, golden)["LLM logits"]
    assert check.outcome is Outcome.FAILED
    assert "times that of the reference" in check.detail


def test_a_reference_in_half_precision_is_judged_only_where_it_was_measured(half_port: Any, pictures: Any) -> None:
    golden = record(half_port.files, pictures[:1], [QUESTION], new_tokens=8)
    check = lines(half_port, pictures[:1], golden)["LLM logits"]
    assert check.outcome is Outcome.PASSED
    assert " x" not in check.allowed


def test_int8_is_judged_by_limits_of_its_own(tiny: Path, pictures: list[Any], golden: Any) -> None:
    from verification.overlay_alone import OverlayAlone

    port = OverlayAlone(Path(__file__).parents[2] / "overlay", weights.from_folder(tiny), "cpu", int8=True)
    check = lines(port, pictures, golden)["LLM logits"]
    assert check.allowed == "KL 0.02, flip 1"  # no word of a worst position, which has no limit
    assert check.numbers["top1"] > 0.5


def test_a_run_that_says_something_else_each_time_is_caught(port: Any, pictures: list[Any], golden: Any) -> None:
    greedy, calls = port.greedy, []

    def moody(prompt: Any, tokens: int) -> Any:
        calls.append(1)
        return greedy(prompt, tokens) if len(calls) % 2 else (5, *greedy(prompt, tokens)[1:])

    port.greedy = moody
    assert caught(port, pictures, golden) == ["repeat"]
