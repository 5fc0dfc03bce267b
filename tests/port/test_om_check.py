"""om_model_convert.py --check: an OM that exists, on the machine with the NPU."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from atc_files import write_onnx
from om_conversions import OVERLAY, RECORD, npus, record
from om_files import SIZE
from port.export.atc_machine import Machine
from port.export.cann import Npu
from port.models.encoder_record import write_record


@pytest.fixture
def check(converter, ais_bench):
    """check(om, *flags) -> exit code."""
    return lambda om, *flags: converter.main(["--check", str(om), *map(str, flags)])


@pytest.fixture
def unchecked(convert, tmp_path: Path, capfd) -> Path:
    """An OM that was made where there is no NPU, and one NPU now."""
    npus(tmp_path, 0)
    assert convert("--soc-version", "Ascend910B3") == 5
    npus(tmp_path, 1)
    return tmp_path / "om" / "eva_vit_g.om"


def test_check_on_the_machine_with_the_npu(unchecked: Path, onnx_model: Path) -> None:
    argv = [str(OVERLAY / "om_model_convert.py"), "--check", str(unchecked), "--onnx-model", str(onnx_model)]
    assert subprocess.run([sys.executable, *argv], check=False).returncode == 0
    made = record(unchecked)
    assert made["gate"]["status"] == "passed"
    assert made["soc_version"] == "Ascend910B3"


def test_check_takes_the_name_from_a_wrong_om(convert, check, onnx_model: Path, tmp_path: Path, capfd) -> None:
    npus(tmp_path, 0)
    assert convert("--soc-version", "Ascend910B3", atc="wrong") == 5
    om = tmp_path / "om" / "eva_vit_g.om"
    assert check(om, "--onnx-model", onnx_model) == 1
    assert "It is eva_vit_g.failed.om now" in capfd.readouterr().err
    assert not om.exists()
    assert not om.with_name("eva_vit_g.om.json").exists()
    failed = om.with_name("eva_vit_g.failed.om")
    assert check(failed, "--onnx-model", onnx_model) == 1  # once more: it keeps the name
    assert sorted(os.listdir(om.parent)) == [failed.name, f"{failed.name}.json", "eva_vit_g.om.log"]


@pytest.mark.parametrize("batch", [1, None])
def test_check_an_om_that_was_made_by_hand(batch, cann_machine, check, tmp_path: Path, capfd) -> None:
    write_onnx(tmp_path / "eva.onnx", batch, "each its own")
    shape = [f"--input_shape=input:1,3,{SIZE},{SIZE}"]
    if batch is None:
        shape = [f"--input_shape=input:-1,3,{SIZE},{SIZE}", "--dynamic_batch_size=1,2"]
    atc = [str(cann_machine / "bin" / "atc"), "--framework=5", "--model=eva.onnx", "--output=eva"]
    subprocess.run([*atc, "--soc_version=Ascend910B3", *shape], cwd=tmp_path, check=True)
    om = tmp_path / "eva.om"
    om.chmod(0o640)
    sizes = [] if batch else ["--batch-sizes", "1,2"]
    assert check(om, *sizes) == 0
    assert record(om)["batches"] == ([1] if batch else [1, 2])
    if batch is None:
        om.with_name("eva.om.json").unlink()
        assert check(om) == 2


def test_an_om_that_ais_bench_would_not_open_keeps_its_name(unchecked: Path, check, onnx_model: Path, capfd) -> None:
    """Its group may write to it: that is soon mended, and says nothing about what it computes."""
    unchecked.chmod(0o660)
    assert check(unchecked, "--onnx-model", onnx_model) == 5
    assert "chmod go-w" in capfd.readouterr().err
    assert unchecked.is_file()
    assert record(unchecked)["gate"]["status"] == "not run"


def test_an_om_for_another_processor_keeps_its_name(unchecked: Path, check, onnx_model: Path, tmp_path, capfd) -> None:
    npus(tmp_path, 1, "910B4")
    assert check(unchecked, "--onnx-model", onnx_model) == 5
    assert "this machine has Ascend910B4, and the OM is for Ascend910B3" in capfd.readouterr().err
    assert unchecked.is_file()


@pytest.mark.parametrize(("soc", "fits"), [("Ascend910_9392", True), ("Ascend910B3", False)])
def test_an_a3_that_does_not_say_which_may_be_any(soc: str, fits: bool) -> None:
    machine = Machine(None, (Npu(0, 0, 0, "Ascend910", "", "OK"),), soc, "")
    assert (machine.cannot_compare(soc) == "") is fits


def test_check_against_another_model(convert, check, onnx_model: Path, tmp_path: Path, capfd) -> None:
    write_record(onnx_model, {"sha256": importlib.import_module("port.export.om_file").sha256(onnx_model), **RECORD})
    npus(tmp_path, 0)
    assert convert("--soc-version", "Ascend910B3") == 5
    write_onnx(tmp_path / "other.onnx", 1, "each its own")
    assert check(tmp_path / "om" / "eva_vit_g.om", "--onnx-model", tmp_path / "other.onnx") == 2
    assert "was not made of" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["none.om", "eva_vit_g.onnx"])
def test_check_what_is_no_om(name: str, check, onnx_model: Path) -> None:
    assert check(onnx_model.with_name(name), "--onnx-model", onnx_model) == 2


def test_check_on_no_npu_at_all(check, onnx_model: Path, tmp_path: Path, capfd) -> None:
    assert check(tmp_path / "eva.om", "--device", "-1") == 2
    assert "--device -1 is not the number of an NPU" in capfd.readouterr().err
