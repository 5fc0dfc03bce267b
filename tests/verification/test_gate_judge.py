"""What the judge makes of arrays made by hand: texts that part, sketches, and the reference in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from recordings import GATE, only

from verification import oracle, weights
from verification.gate import limits, sketch
from verification.gate.golden import Recording
from verification.gate.judge import judge
from verification.gate.language import _same_best
from verification.gate.line import Line
from verification.report import Outcome


def test_one_bad_position_is_not_averaged_away(golden: Any) -> None:
    right = golden.arrays["logits.0.0"]
    wrong = right.copy()
    wrong[-1, :25] += 0.5
    wrong[-1] -= numpy.log(numpy.exp(wrong[-1]).sum())
    kl = sketch.divergence(numpy.concatenate([right] * 40), numpy.concatenate([right] * 39 + [wrong]))
    values = limits.read_limits(GATE)
    assert kl.mean() < values.need("L3", "mean_kl", "float16")
    assert kl.max() > values.need("L3", "worst_kl", "float16")


def tokens(golden: Recording, port_ids: tuple[int, ...], prefers: dict[int, int], dtype: str) -> Outcome:
    """The "greedy ids" line for a port that chose port_ids, and along the golden's text `prefers` {position: token}."""
    right = golden.arrays["ids.0.0"]
    best = right.copy()
    for position, token in prefers.items():
        best[position] = token
    arrays = {"ids.0.0": numpy.array(port_ids, dtype="int32"), "best.decode.0.0": best}
    about = {"dtype": dtype, "encoder_dtype": "float32", "broken": {}, "pixels": [], "qformer_is_reference": False}
    checks = judge(only(golden, 1), Recording(about, arrays), limits.read_limits(GATE), ["p"])
    return next(check.outcome for check in checks if check.name == "greedy ids")


@pytest.fixture
def near_tie(golden: Any) -> tuple[Recording, int, int]:
    """A golden whose text has a near-tie: (golden, position, the token that it nearly preferred)."""
    logs = golden.arrays["logits.0.0"].copy()
    logs[4, 1] = logs[4, 0] - 0.05
    return Recording(golden.about, {**golden.arrays, "logits.0.0": logs}), 4, int(golden.arrays["top.0.0"][4, 1])


def test_half_precision_may_leave_the_text_only_where_its_own_logits_do(near_tie: Any) -> None:
    golden, position, other = near_tie
    ids = tuple(golden.arrays["ids.0.0"].tolist())
    left = (*ids[:position], other, *reversed(ids[position + 1 :]))
    assert tokens(golden, ids, {}, "float16") is Outcome.PASSED
    assert tokens(golden, left, {position: other}, "float16") is Outcome.PASSED
    assert tokens(golden, left, {}, "float16") is Outcome.FAILED  # its logits did not prefer it
    assert tokens(golden, left, {position: other}, "float32") is Outcome.FAILED
    assert tokens(golden, ids[:-1], {}, "float16") is Outcome.FAILED
    assert tokens(golden, (*ids, 1), {}, "float16") is Outcome.FAILED


def test_a_flip_that_is_no_near_tie_is_caught(golden: Any) -> None:
    margins = golden.arrays["margins.0.0"]
    position = int(margins.argmax())
    other = int(golden.arrays["top.0.0"][position, 5])
    ids = golden.arrays["ids.0.0"].tolist()
    left = (*ids[:position], other, *ids[position + 1 :])
    assert tokens(golden, left, {position: other}, "float16") is Outcome.FAILED


def test_the_sketch_keeps_distances() -> None:
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(257, 1408, generator=random) for _ in range(2))
    error, rows = sketch.relative_errors(sketch.hidden(a), sketch.hidden(a + 1e-3 * b))
    assert error == pytest.approx(1e-3, rel=0.03)
    assert rows.shape == (257,)


def test_the_sketched_divergence_is_at_most_the_real_one_and_near_it() -> None:
    random = torch.Generator().manual_seed(0)
    a = 3 * torch.randn(16, 32000, generator=random)
    b = a + 0.1 * torch.randn(a.shape, generator=random)
    p, q = a.double().log_softmax(-1), b.double().log_softmax(-1)
    real = (p.exp() * (p - q)).sum(-1).numpy()
    top = sketch.top_ids(a)
    kept = sketch.divergence(sketch.log_probabilities(a, top), sketch.log_probabilities(b, top))
    assert (kept <= real + 1e-9).all()
    assert (kept > 0.1 * real).all()


def test_a_nan_in_the_logits_is_no_small_divergence() -> None:
    a = torch.randn(2, 300)
    top = sketch.top_ids(a)
    bad = a.clone()
    bad[0, 7] = float("nan")
    kl = sketch.divergence(sketch.log_probabilities(a, top), sketch.log_probabilities(bad, top))
    assert not kl[0] <= 1e9
    assert kl[1] < 1e-9


def test_the_reference_in_half_precision_is_the_reference(tiny: Path, pictures: list[Path]) -> None:
    files = weights.from_folder(tiny)
    pixels = oracle.process(pictures[0])[None]
    full = oracle.Encoder(files.vit_weights, files.q_former_model)(pixels)
    half = oracle.Encoder(files.vit_weights, files.q_former_model, torch.float16)(pixels)
    assert half.dtype == torch.float16
    assert 1e-5 < float((half.float() - full).norm() / full.norm()) < 5e-3


@pytest.mark.parametrize(("flips", "good"), [(0, True), (4, True), (12, False)])
def test_a_few_near_ties_among_few_positions_are_no_fault(flips: int, good: bool) -> None:
    line = Line("decode", "L3", "")
    assert (_same_best(line, [False] * flips + [True] * (192 - flips), 0.99) == "") is good
    assert line.numbers["top1"] == 1 - flips / 192
