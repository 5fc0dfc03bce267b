"""benchmarks/read_ahead.py on a tiny encoder: what it writes, and that both ways read the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import read_ahead, results

SMALL = ["--depth", "2", "--hidden", "96"]


@pytest.mark.upstream
@pytest.mark.slow
def test_the_benchmark_writes_each_way_once(upstream_repo: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(read_ahead, "WAIT", 0.001)
    read_ahead.main(["--upstream", str(upstream_repo), "--repeat", "2", *SMALL])
    rows = json.loads((tmp_path / "read_ahead_cpu.json").read_text())["rows"]
    assert len(rows) == 6
    assert all(len(row["values"]) == 2 and "each of 8" in row["what"] for row in rows)
    assert [row["what"].split(", ")[-2] for row in rows] == ["in turn", "read ahead"] * 3


def test_without_pictures_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there are no pictures"):
        read_ahead.main(["--upstream", str(tmp_path / "nowhere"), *SMALL])


def test_every_way_encodes_every_picture_in_order(monkeypatch, tmp_path: Path) -> None:
    seen: list[float] = []
    monkeypatch.setattr(read_ahead.oracle, "process", lambda path: torch.full((3, 2, 2), float(path.stem)))
    monkeypatch.setattr(read_ahead.sides, "ours", lambda *_: lambda pixels: seen.append(float(pixels.mean())))
    pictures = [Path(f"{number}.png") for number in range(8)]
    for name, walk in read_ahead.ways(pictures, (tmp_path, tmp_path), torch.device("cpu")).items():
        seen.clear()
        walk()
        assert seen == (list(range(8)) if "features" in name else [])
