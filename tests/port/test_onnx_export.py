"""onnx_model_export.py as a user runs it, on small weights in the real formats."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_exports import EXPORTED, features, listing, random_pictures, session
from PIL import Image
from port.models import encoder_record
from port.models.eva_vit_model import load_eva_vit

from verification import oracle


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_exports_and_proves(opset: int, run, vit_files, picture: Path, tmp_path: Path, capsys) -> None:
    assert run("--opset", str(opset)) == 0
    path = tmp_path / "onnx" / "eva_vit_g.onnx"
    assert listing(path.parent) == EXPORTED
    images = random_pictures(1)
    expected = load_eva_vit(*vit_files, image_size=56)(images).numpy()
    assert np.abs(features(path, images) - expected).max() <= 2e-5
    assert onnx.load(str(path)).opset_import[0].version == opset
    said = capsys.readouterr().out
    assert [f"[{n}/5]" in said for n in range(1, 6)] == [True] * 5
    assert said.count("(bound 2e-05)") == 3
    assert f"  {picture.name}: max abs" in said
    assert "python om_model_convert.py --onnx-model" in said


def test_the_record_says_what_it_is_made_of(run, vit_files, tmp_path: Path) -> None:
    assert run("--batch", "1,2,4", "--dtype", "mixed", "--opset", "17") == 0
    path = tmp_path / "onnx" / "eva_vit_g.onnx"
    record = encoder_record.read_record(path)
    digest = lambda file: hashlib.sha256(file.read_bytes()).hexdigest()  # noqa: E731
    assert record["sha256"] == digest(path)
    for key, file in zip(("vit", "ln_vision"), vit_files):
        entry = {"name": file.name, "bytes": file.stat().st_size, "sha256": digest(file)}
        assert record["weights"][key] == entry
    chosen = {"kind": "onnx", "opset": 17, "precision": "mixed", "batches": [1, 2, 4], "image_size": 56}
    assert {key: record[key] for key in chosen} == chosen
    assert record["ln_vision"] == "blip2"
    assert record["nodes"]["Softmax"] == 2
    data = path.parent / record["weights_file"]
    assert digest(data).startswith(data.name.split(".")[1])
    assert record["weights_bytes"] == data.stat().st_size
    assert record["versions"]["torch"] == torch.__version__
    assert set(record["errors"]) == {"bound", "gradient.png", "random 0", "random 1", "random 1 in float32"}
    assert record["errors"]["random 1 in float32"]["worst_token"] < 2e-6
    assert 0 < record["errors"]["random 0"]["worst_token"] < record["errors"]["bound"] == 1e-2


@pytest.mark.parametrize("batch", ["1,2,4", "3"])
def test_batches(batch: str, run, vit_files, tmp_path: Path) -> None:
    assert run("--batch", batch, "--name", "several") == 0
    images = random_pictures(3)
    expected = load_eva_vit(*vit_files, image_size=56)(images).numpy()
    assert np.abs(features(tmp_path / "onnx" / "several.onnx", images) - expected).max() <= 2e-5


@pytest.mark.parametrize("size", [84, 112])
def test_another_picture_size(size: int, run, vit_files, tmp_path: Path) -> None:
    """The positions are interpolated as upstream does (test_image_half_upstream.py compares with upstream itself)."""
    assert run("--image-size", str(size)) == 0
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    expected = load_eva_vit(*vit_files, image_size=size)(images).numpy()
    assert np.abs(features(tmp_path / "onnx" / "eva_vit_g.onnx", images) - expected).max() <= 2e-5


def test_a_second_run_finds_the_work_done(run, part, tmp_path: Path, monkeypatch, capsys) -> None:
    assert run() == 0
    path = tmp_path / "onnx" / "eva_vit_g.onnx"
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(part("onnx_file"), "write", None)
    assert run() == 0
    assert path.stat().st_mtime_ns == before
    assert "is this export already, proven when it was made; --force repeats it" in capsys.readouterr().out
    monkeypatch.undo()
    for again in (["--force"], ["--opset", "12"], ["--dtype", "mixed"], ["--batch", "2"], ["--ln-vision", "none"]):
        name = ["--name", "eva_vit_g"]
        assert run(*again, *name) == 0
        assert "is this export already" not in capsys.readouterr().out, again
    for damage in ("weights", "onnx"):
        assert run() == 0
        (broken,) = path.parent.glob(f"*.{damage}")
        sound = broken.read_bytes()
        broken.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))  # its size says nothing
        capsys.readouterr()
        assert run() == 0
        assert "is this export already" not in capsys.readouterr().out, damage
        assert listing(path.parent) == EXPORTED


def test_a_file_that_disagrees_never_takes_its_name(run, part, tmp_path: Path, monkeypatch, capsys) -> None:
    """An exporter that loses ln_vision on the way: the comparison fails and yesterday's file stays."""
    assert run() == 0
    good = {file.name: file.read_bytes() for file in (tmp_path / "onnx").iterdir()}
    real = part("onnx_file").vit_graph

    def loses_ln_vision(geometry, state, *rest):
        return real(geometry, {**state, "ln_vision.weight": torch.ones(geometry.width)}, *rest)

    monkeypatch.setattr(part("onnx_file"), "vit_graph", loses_ln_vision)
    assert run("--force") == 1
    assert {file.name: file.read_bytes() for file in (tmp_path / "onnx").iterdir()} == good
    said = capsys.readouterr()
    assert "does not compute what PyTorch computes, on gradient.png, random 0, random 1" in said.err
    monkeypatch.undo()
    assert run("--force") == 0
    assert listing(tmp_path / "onnx") == EXPORTED


def test_two_exports_share_a_folder(run, tmp_path: Path) -> None:
    assert run("--name", "eva_vit_g") == 0
    neighbours = [tmp_path / "onnx" / name for name in ("eva_vit_g.om", "eva_vit_g.deadbeef.weights.txt")]
    for neighbour in neighbours:
        neighbour.touch()
    assert run("--ln-vision", "none", "--name", "eva_vit_g_llama2") == 0
    assert run("--opset", "17") == 0
    assert all(neighbour.exists() for neighbour in neighbours)
    images = random_pictures(1)
    one, other = (features(tmp_path / "onnx" / f"eva_vit_g{name}.onnx", images) for name in ("", "_llama2"))
    assert np.abs(one - other).max() > 0.01


def test_the_bound_can_be_set(run, capsys) -> None:
    assert run("--max-error", "1e-12") == 1
    assert "(bound 1e-12)" in capsys.readouterr().out


def test_what_was_proven_less_strictly_is_exported_again(run, capsys) -> None:
    assert run("--max-error", "0.5") == 0
    assert run() == 0
    assert run("--max-error", "0.5") == 0
    assert capsys.readouterr().out.count("is this export already") == 1


def test_an_untrained_ln_vision_is_refused(run, tmp_path: Path, capsys) -> None:
    """A file that has the layer, but never trained it."""
    state = {"ln_vision.weight": torch.ones(176), "ln_vision.bias": torch.zeros(176)}
    torch.save({"model": state}, tmp_path / "blip2.pth")
    assert run("--ln-vision", str(tmp_path / "blip2.pth")) == 5
    assert "has an untrained ln_vision" in capsys.readouterr().err


def test_what_atc_would_not_take_is_said(run, part, monkeypatch, tmp_path: Path, capsys) -> None:
    real = part("onnx_file").vit_graph

    def with_a_shape(*args):
        model = real(*args)
        model.graph.node.append(onnx.helper.make_node("Shape", ["input"], ["counted"], name="counted"))
        return model

    monkeypatch.setattr(part("onnx_file"), "vit_graph", with_a_shape)
    assert run() == 1
    said = capsys.readouterr().err
    assert "ATC would not take this graph" in said
    assert "Shape" in said
    assert not (tmp_path / "onnx" / "eva_vit_g.onnx").exists()


def test_a_full_disk(run, monkeypatch, tmp_path: Path, capsys) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: full)
    assert run() == 5
    assert "has no room for 0.0 GB of weights" in capsys.readouterr().err


# The gate: what it lets through and what not


@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 2e-5), ("mixed", 1e-2)])
def test_the_default_bound_is_held(dtype: str, bound: float, run, part, monkeypatch, tmp_path, capsys) -> None:
    """Features that are wrong by twice the bound in one token fail; by half of it they pass."""
    parity = part("parity")
    real = parity.run_onnx

    def wrong_by(error: float):
        def run_onnx(path: Path, images) -> list[np.ndarray]:
            features = real(path, images)
            if "float32" not in path.name:
                features[-1][0, 7] *= 1 + error
            return features

        return run_onnx

    monkeypatch.setattr(parity, "run_onnx", wrong_by(2 * bound))
    assert run("--dtype", dtype) == 1
    assert "does not compute what PyTorch computes, on random 1: not kept" in capsys.readouterr().err
    assert os.listdir(tmp_path / "onnx") == []
    monkeypatch.setattr(parity, "run_onnx", wrong_by(bound / 2))
    assert run("--dtype", dtype) == 0


@pytest.mark.parametrize("flags", [[], ["--max-error", "1e9"]])
def test_nan_is_never_within_the_bound(flags: list[str], run, part, monkeypatch, tmp_path: Path) -> None:
    real = part("parity").run_onnx

    def one_nan(path: Path, images) -> list[np.ndarray]:
        features = real(path, images)
        features[1][0, 3, 5] = np.nan
        return features

    monkeypatch.setattr(part("parity"), "run_onnx", one_nan)
    assert run(*flags) == 1
    assert not (tmp_path / "onnx" / "eva_vit_g.onnx").exists()


@pytest.mark.parametrize("size", [56, 224])
def test_the_picture_is_processed_as_the_model_sees_it(size, part, run, monkeypatch, tmp_path: Path) -> None:
    """Equal to the independent arithmetic of verify.py, on noise, where every other filter would show."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    seen = []
    real = part("parity").run_onnx
    monkeypatch.setattr(part("parity"), "run_onnx", lambda path, images: seen.extend(images) or real(path, seen))
    assert run("--image-path", str(tmp_path / "noise.png"), "--image-size", str(size)) == 0
    assert seen[0].shape == (1, 3, size, size)
    assert (seen[0][0] - oracle.process(tmp_path / "noise.png", size)).abs().max() <= 1e-6


@pytest.mark.parametrize("ln_vision", ["blip2", "default"])
def test_the_file_says_which_ln_vision_is_inside(ln_vision: str, run, tmp_path: Path) -> None:
    assert run(*([] if ln_vision == "blip2" else ["--ln-vision", "none"])) == 0
    (path,) = (tmp_path / "onnx").glob("*.onnx")
    assert session(path).get_modelmeta().custom_metadata_map == {"ln_vision": ln_vision}
    onnx.checker.check_model(str(path))
