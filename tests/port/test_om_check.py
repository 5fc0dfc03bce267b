"""om_model_convert.py --check: an OM that exists, on the machine with the NPU."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from atc_files import write_onnx
from om_conversions import OVERLAY, RECORD, npus, record
from om_files import SIZE
from port.models.encoder_record import write_record


def test_check_on_the_machine_with_the_npu(convert, converter, onnx_model: Path, tmp_path: Path, capfd) -> None:
    npus(tmp_path, 0)
    assert convert("--soc-version", "Ascend910B3") == 5
    npus(tmp_path, 1)
    om = tmp_path / "om" / "eva_vit_g.om"
    assert checked("--check", str(om), "--onnx-model", str(onnx_model)) == 0
    made = record(om)
    assert made["gate"]["status"] == "passed"
    assert made["soc_version"] == "Ascend910B3"


def checked(*flags: str) -> int:
    return subprocess.run([sys.executable, str(OVERLAY / "om_model_convert.py"), *flags], check=False).returncode


def test_check_takes_the_name_from_a_wrong_om(convert, onnx_model: Path, tmp_path: Path, capfd) -> None:
    npus(tmp_path, 0)
    assert convert("--soc-version", "Ascend910B3", atc="wrong") == 5
    om = tmp_path / "om" / "eva_vit_g.om"
    assert checked("--check", str(om), "--onnx-model", str(onnx_model)) == 1
    assert "It is eva_vit_g.failed.om now" in capfd.readouterr().err
    assert not om.exists()
    assert not om.with_name("eva_vit_g.om.json").exists()


@pytest.mark.parametrize("batch", [1, None])
def test_check_an_om_that_was_made_by_hand(batch, cann_machine, tmp_path: Path, capfd) -> None:
    write_onnx(tmp_path / "eva.onnx", batch, "each its own")
    shape = [f"--input_shape=input:1,3,{SIZE},{SIZE}"]
    if batch is None:
        shape = [f"--input_shape=input:-1,3,{SIZE},{SIZE}", "--dynamic_batch_size=1,2"]
    atc = [str(cann_machine / "bin" / "atc"), "--framework=5", "--model=eva.onnx", "--output=eva"]
    subprocess.run([*atc, "--soc_version=Ascend910B3", *shape], cwd=tmp_path, check=True)
    om = tmp_path / "eva.om"
    om.chmod(0o640)
    sizes = [] if batch else ["--batch-sizes", "1,2"]
    assert checked("--check", str(om), *sizes) == 0
    assert record(om)["batches"] == ([1] if batch else [1, 2])
    if batch is None:
        om.with_name("eva.om.json").unlink()
        assert checked("--check", str(om)) == 2


def test_check_against_another_model(convert, onnx_model: Path, tmp_path: Path, capfd) -> None:
    write_record(onnx_model, {"sha256": importlib.import_module("port.export.om_file").sha256(onnx_model), **RECORD})
    npus(tmp_path, 0)
    assert convert("--soc-version", "Ascend910B3") == 5
    write_onnx(tmp_path / "other.onnx", 1, "each its own")
    om = tmp_path / "om" / "eva_vit_g.om"
    assert checked("--check", str(om), "--onnx-model", str(tmp_path / "other.onnx")) == 2
    assert "was not made of" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["none.om", "eva_vit_g.onnx"])
def test_check_what_is_no_om(name: str, cann_machine, onnx_model: Path) -> None:
    assert checked("--check", str(onnx_model.with_name(name)), "--onnx-model", str(onnx_model)) == 2
