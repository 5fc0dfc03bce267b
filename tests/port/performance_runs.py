"""Fixtures: run_performance.py as a module, on tiny models."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path

import port_package
import pytest
from llama_folders import TINY
from port.perf.rows import Peaks

SCRIPT = port_package.OVERLAY / "run_performance.py"
RANDOM = ["--random-weights", "--shape", "tiny.json", "--device", "cpu", "--dtype", "float32"]
SHORT = ["--lengths", "8:4,16:3"]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script as a module, in an empty folder; the overlay's files are its minigpt4.models for one test."""
    monkeypatch.chdir(tmp_path)
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "minigpt4"}
    monkeypatch.syspath_prepend(str(port_package.OVERLAY))
    spec = importlib.util.spec_from_file_location("run_performance", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    Path("tiny.json").write_text(json.dumps(TINY))
    yield module
    for name in [name for name in sys.modules if name.split(".")[0] == "minigpt4"]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def perf(script, monkeypatch):
    """The module that measures, with quick yardsticks: a real product of 2048 x 2048 takes longer than a tiny model."""
    from minigpt4.perf import measure as perf_measure

    monkeypatch.setattr(perf_measure, "measure_peaks", lambda *_: Peaks(1e12, 1e12, 1e15))
    return perf_measure


def rows() -> list[dict[str, str]]:
    with open("multi_batch_performance.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
