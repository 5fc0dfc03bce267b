"""The real history: from where the edited files differ most, back to the pin, with the right commits named."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rebase_history import Series, travel
from overlaykit.project import read_upstream

pytestmark = pytest.mark.upstream
PIN = read_upstream(Path(__file__).resolve().parents[2] / "configs" / "upstream.yaml")


@pytest.mark.parametrize(("old", "conflicts"), [("226cb38", 1), pytest.param("7a575af", 2, marks=pytest.mark.slow)])
def test_rebase_to_the_pin_gives_the_locked_tree(upstream_repo: Path, tmp_path: Path, old: str, conflicts: int) -> None:
    series = Series(tmp_path, str(upstream_repo))
    there, _ = series.rebase(old)
    assert there["outcome"] == "done", there
    back = travel(series, old, PIN.commit)
    assert (back.outcome, series.lock) == ("done", PIN.result)
    assert len(back.conflicts) == conflicts
    for conflict in back.conflicts:
        assert conflict.named == conflict.truth != set()
