"""The README's screenshots are those of docs/screenshots.py, and light enough to load with it."""

from __future__ import annotations

from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_screenshots_are_there_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import screenshots

    expected = {f"{shot.name}.png" for shot in screenshots.SHOTS}
    assert {path.name for path in DOCS.glob("report-*.png")} == expected
    assert all((DOCS / name).stat().st_size < 250_000 for name in expected)
