"""Fixtures: om_model_convert.py as a module, on a machine that stand-ins make up, with a small ONNX onnx_model."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from atc_files import STAND_INS, program, write_onnx
from port.models.encoder_record import write_record

OVERLAY = Path(__file__).resolve().parents[2] / "overlay"
RECORD = {"precision": "mixed", "ln_vision": "blip2", "batches": [1]}


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch):
    """The script as a module. It imports `minigpt4` from its own folder, as in a workspace."""
    monkeypatch.syspath_prepend(str(OVERLAY))
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "minigpt4"}
    yield importlib.import_module("om_model_convert")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("minigpt4", "om_model_convert")]:
        del sys.modules[name]
    sys.modules.update(others)


@pytest.fixture
def cann_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with CANN 8.1, sourced, and one 910B3. -> its toolkit."""
    toolkit = tmp_path / "Ascend" / "ascend-toolkit" / "latest"
    program(toolkit / "bin")
    (toolkit / "opp" / "built-in" / "op_impl" / "ai_core" / "tbe" / "kernel" / "ascend910b").mkdir(parents=True)
    (toolkit / "compiler").mkdir()
    (toolkit / "compiler" / "version.info").write_text("Version=7.7.0.1.238\nversion_dir=8.1.RC1\n")
    (toolkit.parent / "set_env.sh").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(toolkit))
    monkeypatch.setenv("ASCEND_OPP_PATH", str(toolkit / "opp"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(toolkit / "lib64"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(toolkit / "python"), str(STAND_INS)]))
    monkeypatch.setenv("ATC_STAND_IN_PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    npus(tmp_path, 1)
    return toolkit


def npus(tmp_path: Path, count: int, name: str = "910B3") -> None:
    """npu-smi, which shows that many."""
    bar = "+---------------------------+---------------+----------------------------------------------------+"
    rows = [
        f"| {i}     {name:<20}| OK            | 94.6        49                0    / 0             |\n"
        f"| 0                         | 0000:C{i}:00.0  | 0           0    / 0          3373 / 65536         |"
        for i in range(count)
    ]
    table = "\n".join([bar, "| npu-smi 24.1.rc3                 Version: 24.1.rc3    |", bar, *rows, bar])
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "npu-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{table}\nEND\n")
    (tmp_path / "bin" / "npu-smi").chmod(0o755)


@pytest.fixture
def onnx_model(tmp_path: Path) -> Path:
    path = tmp_path / "onnx" / "eva_vit_g.onnx"
    write_onnx(path, **RECORD)
    return path


@pytest.fixture
def agreeing(converter, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of something else: the process that compares the OM is not started, and would have found it good."""

    def passed(argv: list[str], check: bool) -> SimpleNamespace:
        om = Path(argv[argv.index("--check") + 1])
        write_record(om, {**record(om), "gate": {"status": "passed"}})
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(converter, "subprocess", SimpleNamespace(run=passed))


@pytest.fixture
def in_process(converter, ais_bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The OM is compared in this process: starting another takes seconds, and has its own tests."""
    run = SimpleNamespace(run=lambda argv, check: SimpleNamespace(returncode=converter.main(argv[2:])))
    monkeypatch.setattr(converter, "subprocess", run)


@pytest.fixture
def convert(converter, cann_machine: Path, onnx_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """convert(*flags, atc="", onnx=onnx_model) -> exit code; atc: the stand-in's mode."""

    def converted(*flags: str, atc: str = "", onnx: Path = onnx_model) -> int:
        monkeypatch.setenv("ATC_STAND_IN", atc)
        return converter.main(["--onnx-model", str(onnx), "--om-dir", str(tmp_path / "om"), *flags])

    return converted


def record(om: Path) -> dict:
    return json.loads(om.with_name(om.name + ".json").read_text())


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))
