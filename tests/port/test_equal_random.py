"""Hundreds of random Llamas and calls: the ids of transformers' generate, for the same ids and seed, in float32."""

from __future__ import annotations

import pytest
import transformers
from equal_draws import VERSION, differences

CALLS = 8  # to one model: building it takes as long
like_457 = pytest.mark.skipif(
    VERSION < (4, 57),
    reason=f"4.57 is followed; transformers {transformers.__version__} scores and filters in its own way",
)


@pytest.mark.parametrize("seed", range(8))
def test_greedy_ids(tmp_path, seed):
    """Under every release."""
    assert differences(tmp_path, seed, CALLS, greedy=True) == []


@like_457
@pytest.mark.parametrize(
    "seed", [seed if seed < 104 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(100, 122)]
)
def test_ids(tmp_path, seed):
    """Greedy, sampled, beams and sampled beams."""
    assert differences(tmp_path, seed, CALLS, greedy=False) == []


@like_457
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1250))
def test_two_thousand_more(tmp_path, seed):
    assert differences(tmp_path, seed, CALLS, greedy=False) == []
