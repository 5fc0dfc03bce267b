"""From the weight files to an OM in one command: onnx_model_export.py --om-dir, with ATC and the NPU stood in for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from vit_files import write_files


@pytest.fixture(scope="module")
def wide_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of ViT-g's own width, which the image encoder insists on; one block is used."""
    return write_files(tmp_path_factory.mktemp("wide"), width=1408, hidden=64, blocks=2, image_size=28)


def test_one_command(wide_files, exporter, picture: Path, cann_machine, tmp_path: Path, monkeypatch, capfd) -> None:
    """A mixed export with a list of batch sizes; the older ATC would misread it if it were not laid out anew."""
    monkeypatch.setenv("ATC_STAND_IN", "old")
    weights = ["--vit-weights", str(wide_files[0]), "--ln-vision", str(wide_files[1]), "--image-size", "28"]
    folders = ["--onnx-model-dir", str(tmp_path / "onnx"), "--om-dir", str(tmp_path / "om")]
    assert exporter.main([*weights, *folders, "--image-path", str(picture), "--batch", "1,2"]) == 0, capfd.readouterr()
    made = json.loads((tmp_path / "om" / "eva_vit_g.om.json").read_text())
    assert made["gate"]["status"] == "passed"
    assert made["batches"] == [1, 2]
    assert (made["ln_vision"], made["precision_mode"], made["image_size"]) == ("blip2", "origin", 28)
    assert made["onnx"]["precision"] == "mixed"
    assert made["onnx"]["weights"]["vit"]["name"] == "eva_vit_g.pth"
    said = capfd.readouterr().out
    assert f"{picture.name}, batch 2: rel-L2" in said
