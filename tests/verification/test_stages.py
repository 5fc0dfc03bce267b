"""Planted faults: each must be caught, and by the stage that has it and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from planted_faults import FAULTS, forgets, noisy_steps, not_a_number, one_token_too_dear, wrong_picture

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
