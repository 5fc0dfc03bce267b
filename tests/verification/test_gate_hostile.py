"""Goldens and takings with anything in them: none ends in a traceback, and what is no number is never good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from recordings import changed, loaded, refused, small_golden, small_taking

from overlaykit.errors import FixTheCommand
from verification.gate.checked import check_taking
from verification.gate.golden import GOLDEN, TAKING, Recording
from verification.gate.judge import judge
from verification.gate.limits import read_limits
from verification.gate.rules import Unusable
from verification.report import Outcome

LIMITS = read_limits(Path(__file__).parents[2] / "configs" / "gate.yaml")


@pytest.fixture(scope="module")
def golden() -> Recording:
    return small_golden()


def judged(golden: Recording, taking: Recording) -> set[str]:
    check_taking(golden, taking)
    checks = judge(golden, taking, LIMITS, [f"picture {p}" for p in range(len(golden.about["pictures"]))])
    return {check.name for check in checks if check.outcome is not Outcome.PASSED}


SAMPLES: list[Any] = [None, True, 0, -1, 1.5, float("nan"), float("inf"), "", "a/b", [], [[]], [None], {}, {"a": 1}]
SAMPLES += [{"half": {}}, 10**30, "x" * 10_000, [{"sha256": "0"}], {"float16": {"encoder": ["a"]}}, [[1]], [[1, 2, 3]]]


@pytest.mark.parametrize("kind", [GOLDEN, TAKING])
def test_no_fact_of_a_wrong_type_gets_to_the_judge(golden: Recording, tmp_path: Path, kind: str) -> None:
    """Each fact missing, and each replaced by each of the samples: refused, or judged without a traceback."""
    right = golden if kind == GOLDEN else small_taking(golden)
    for name in right.about:
        others = [Recording({key: value for key, value in right.about.items() if key != name}, right.arrays)]
        others += [changed(right, "", **{name: sample}) for sample in SAMPLES]
        for other in others:
            try:
                found = loaded(other, tmp_path, kind)
                judged(found, small_taking(found)) if kind == GOLDEN else judged(golden, found)
            except (FixTheCommand, Unusable):
                continue


@pytest.mark.parametrize("kind", [GOLDEN, TAKING])
def test_no_array_of_a_wrong_shape_gets_to_the_judge(golden: Recording, tmp_path: Path, kind: str) -> None:
    right = golden if kind == GOLDEN else small_taking(golden)
    for name, array in right.arrays.items():
        floats, whole = array.astype(numpy.float32), array.astype(numpy.int32)
        replacements = [None, array[:0], array[:1], array[None], array.ravel(), numpy.concatenate((array, array))]
        replacements += [floats if array.dtype == numpy.int32 else whole, whole - 2**30, numpy.float32(1).reshape(())]
        for replacement in replacements:
            other = changed(right, name, replacement)
            try:
                found = loaded(other, tmp_path, kind)
                bad = judged(found, small_taking(found)) if kind == GOLDEN else judged(golden, found)
            except (FixTheCommand, Unusable):
                continue
            unjudged = name == "again.embeddings" or name.startswith("best.")  # the latter count in half precision
            assert bad or kind == GOLDEN or unjudged or numpy.array_equal(replacement, array), name


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf, 1e38])
def test_numbers_out_of_range_are_never_good(golden: Recording, tmp_path: Path, value: float) -> None:
    taking = small_taking(golden)
    for name, array in taking.arrays.items():
        if array.dtype == numpy.float32 and name != "again.embeddings":
            other = array.copy()
            other.flat[3] = value
            for dtype in ("float32", "float16", "int8"):
                found = loaded(changed(taking, name, other, dtype=dtype), tmp_path, TAKING)
                assert judged(golden, found), (name, dtype)
    for name, array in golden.arrays.items():
        if array.dtype == numpy.float32 and numpy.isinf(value) < (name[:6] == "logits") + (value != -numpy.inf):
            other = array.copy()
            other.flat[3] = value
            if not numpy.isfinite(value):
                assert "no reference computes" in refused(changed(golden, name, other), tmp_path)


def test_a_taking_without_the_bad_pictures_is_refused(golden: Recording) -> None:
    """What is missing must not count as good, whatever the arrays that are there say."""
    taking = small_taking(golden)
    for name in taking.arrays:
        with pytest.raises(Unusable, match="lacks"):
            check_taking(golden, changed(taking, name))
    with pytest.raises(Unusable, match="lacks pixels"):
        check_taking(golden, changed(taking, "", pixels=taking.about["pixels"][:1]))
    with pytest.raises(Unusable, match=r"also holds features\.7"):
        check_taking(golden, changed(taking, "features.7", taking.arrays["features.0"]))


def test_what_broke_may_be_missing_and_is_not_good(golden: Recording) -> None:
    taking = small_taking(golden, broken={"encoder": "RuntimeError"})
    for kind in ("features", "queries", "embeddings"):
        taking = changed(changed(taking, f"{kind}.0"), f"{kind}.1")
    assert judged(golden, taking) == {"encoder", "Q-Former", "projection", "repeat"}  # which encodes a picture again
