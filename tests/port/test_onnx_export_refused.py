"""What stops onnx_model_export.py, what it says then, and where it finds its weights."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from onnx_exports import OVERLAY, features, random_pictures, session
from PIL import Image
from port.models.eva_vit_model import load_eva_vit

# What stops it


def test_an_interrupt_leaves_nothing_behind(run, part, monkeypatch, tmp_path: Path, capsys) -> None:
    def interrupted(*args) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(part("parity"), "run_onnx", interrupted)
    assert run() == 130
    assert os.listdir(tmp_path / "onnx") == []
    assert capsys.readouterr().err == "\nonnx_model_export: interrupted\n"


def test_what_nobody_foresaw_is_no_disagreement(run, part, monkeypatch, tmp_path: Path, capsys) -> None:
    def broken(*args) -> None:
        raise ZeroDivisionError("from deep inside")

    monkeypatch.setattr(part("onnx_file"), "vit_graph", broken)
    assert run() == 70
    assert os.listdir(tmp_path / "onnx") == []
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("software", ["torch", "onnx", "onnxruntime"])
def test_missing_software_is_named_before_the_first_step(
    software: str, vit_files, picture: Path, tmp_path: Path
) -> None:
    """In a process of its own, where the software cannot be imported."""
    flags = ["--onnx-model-dir", "out", "--image-path", str(picture), "--image-size", "56"]
    flags += ["--vit-weights", str(vit_files[0]), "--ln-vision", str(vit_files[1])]
    code = (
        f"import sys; sys.modules[{software!r}] = None; sys.path.insert(0, {str(OVERLAY)!r})\n"
        f"import onnx_model_export; sys.exit(onnx_model_export.main({flags!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert software in done.stderr
    assert "pip install torch numpy pillow omegaconf onnx onnxruntime" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_damaged_weights(run, tmp_path: Path, capsys) -> None:
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    assert run("--vit-weights", str(tmp_path / "bad.pth")) == 5
    assert "bad.pth cannot be read as PyTorch weights" in capsys.readouterr().err


def test_weights_that_are_no_numbers(run, vit_files, tmp_path: Path, capsys) -> None:
    """fp32 too: it is the file that is wrong, not float16."""
    state = torch.load(vit_files[0], weights_only=True)
    state["blocks.1.mlp.fc1.weight"][3, 5] = np.nan
    torch.save(state, tmp_path / "nan.pth")
    assert run("--vit-weights", str(tmp_path / "nan.pth")) == 5
    assert "blocks.1.mlp.fc1.weight.T has infinities or NaN: its file is damaged" in capsys.readouterr().err


def test_weights_that_cannot_be_opened(run, part, monkeypatch, capsys) -> None:
    def refused(path, progress) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(part("onnx_file"), "sha256", refused)
    assert run() == 5
    assert "the weights cannot be read: [Errno 13] Permission denied" in capsys.readouterr().err


def test_none_is_no_file_of_the_transformer(run, capsys) -> None:
    assert run("--vit-weights", "none") == 5
    assert "the weight file none does not exist" in capsys.readouterr().err


def test_a_truncated_picture(run, tmp_path: Path, capsys) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:4000])
    assert run("--image-path", str(tmp_path / "half.jpg")) == 2
    assert "half.jpg cannot be read as a picture (image file is truncated" in capsys.readouterr().err


# The configuration


@pytest.fixture
def workspace(tmp_path: Path, vit_files, exporter: ModuleType, monkeypatch) -> Path:
    """The two YAML layers as upstream and its patches lay them out."""
    models, evaluation = tmp_path / "ws/minigpt4/configs/models", tmp_path / "ws/eval_configs"
    models.mkdir(parents=True)
    evaluation.mkdir()
    vicuna = (
        f"model:\n  arch: minigpt4\n  image_size: 56\n  vit_weights: {vit_files[0]}\n  q_former_model: {vit_files[1]}\n"
    )
    (models / "minigpt4_vicuna0.yaml").write_text(vicuna)
    (models / "minigpt4_llama2.yaml").write_text(vicuna + "  has_qformer: False\n")
    for kind, name in (("vicuna0", "minigpt4_eval"), ("llama2", "minigpt4_llama2_eval")):
        text = f"model:\n  arch: minigpt4\n  model_type: pretrain_{kind}\nrun: {{}}\n"
        (evaluation / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(importlib.import_module("overlay_command"), "WORKSPACE", tmp_path / "ws")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ws"


def test_weights_come_from_the_configuration(
    exporter, workspace: Path, vit_files, picture: Path, tmp_path: Path
) -> None:
    """Both stages into one folder, from another working directory: two names, and the Llama-2 one has no ln_vision."""
    seeds = ["--onnx-model-dir", str(tmp_path / "onnx"), "--image-path", str(picture)]
    assert exporter.main(seeds) == 0
    assert exporter.main([*seeds, "--cfg-path", "eval_configs/minigpt4_llama2_eval.yaml"]) == 0
    images = random_pictures(1)
    for name, ln_vision in (("eva_vit_g", vit_files[1]), ("eva_vit_g_llama2", None)):
        expected = load_eva_vit(vit_files[0], ln_vision, image_size=56)(images).numpy()
        assert np.abs(features(tmp_path / "onnx" / f"{name}.onnx", images) - expected).max() <= 2e-5


def test_the_evaluation_yaml_wins(exporter, workspace: Path, picture: Path, tmp_path: Path, capsys) -> None:
    text = (workspace / "eval_configs/minigpt4_eval.yaml").read_text()
    changed = text.replace("run: {}", "  vit_weights: /elsewhere/eva_vit_g.pth\nrun: {}")
    (workspace / "eval_configs/minigpt4_eval.yaml").write_text(changed)
    assert exporter.main(["--onnx-model-dir", str(tmp_path / "o"), "--image-path", str(picture)]) == 5
    assert "/elsewhere/eva_vit_g.pth does not exist" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_the_image_size_of_a_named_yaml_counts_also_where_both_files_are_given(
    exporter, workspace: Path, vit_files, picture: Path, tmp_path: Path
) -> None:
    flags = ["--onnx-model-dir", str(tmp_path / "o"), "--image-path", str(picture)]
    flags += ["--vit-weights", str(vit_files[0]), "--ln-vision", str(vit_files[1])]
    assert exporter.main([*flags, "--cfg-path", "eval_configs/minigpt4_eval.yaml"]) == 0
    assert session(tmp_path / "o/eva_vit_g.onnx").get_inputs()[0].shape[-1] == 56


def test_an_image_size_that_is_text(exporter, workspace: Path, picture: Path, capsys) -> None:
    yaml = workspace / "minigpt4/configs/models/minigpt4_vicuna0.yaml"
    yaml.write_text(yaml.read_text().replace("image_size: 56", 'image_size: "56"'))
    assert exporter.main(["--onnx-model-dir", "o", "--image-path", str(picture)]) == 2
    assert "an image size of '56': ViT-g takes multiples" in capsys.readouterr().err


def test_what_the_configuration_lacks_is_named(exporter, workspace: Path, picture: Path, tmp_path, capsys) -> None:
    yaml = workspace / "minigpt4/configs/models/minigpt4_vicuna0.yaml"
    yaml.write_text("".join(line for line in yaml.read_text().splitlines(True) if "q_former_model" not in line))
    seeds = ["--onnx-model-dir", str(tmp_path / "o"), "--image-path", str(picture)]
    assert exporter.main(seeds) == 2
    assert "has no q_former_model: add it, or pass --ln-vision" in capsys.readouterr().err
    yaml.unlink()
    assert exporter.main(seeds) == 2
    assert "minigpt4_vicuna0.yaml does not exist" in capsys.readouterr().err
    assert exporter.main([*seeds, "--cfg-path", "eval_configs/typo.yaml"]) == 2
    assert "eval_configs/typo.yaml does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["model: [", "model: 3\n", "- a list\n", "model:\n  arch: ${gone}\n"])
def test_a_broken_yaml_is_a_wrong_command(text: str, exporter, workspace: Path, picture: Path, capsys) -> None:
    (workspace / "eval_configs/minigpt4_eval.yaml").write_text(text)
    assert exporter.main(["--onnx-model-dir", "o", "--image-path", str(picture)]) == 2
    assert "minigpt4_eval.yaml cannot be read" in capsys.readouterr().err


def test_a_picture_of_the_workspace_and_weights_of_the_current_folder(
    exporter, workspace: Path, vit_files, picture
) -> None:
    """Both as run_predict.py takes them: the picture also from the workspace, the YAML's paths as they are written."""
    (workspace / "examples_v2").mkdir()
    shutil.copy(picture, workspace / "examples_v2" / "gradient.png")
    yaml = workspace / "minigpt4/configs/models/minigpt4_vicuna0.yaml"
    yaml.write_text(yaml.read_text().replace(str(vit_files[0]), "weights/vit.pth"))
    call = ["--onnx-model-dir", "o", "--image-path", "examples_v2/gradient.png"]
    (workspace / "weights").mkdir()
    shutil.copy(vit_files[0], workspace / "weights" / "vit.pth")
    assert exporter.main(call) == 5  # not the workspace's
    Path("weights").mkdir()
    shutil.copy(vit_files[0], "weights/vit.pth")
    assert exporter.main(call) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--image-path", "gone.jpg"], "the picture gone.jpg does not exist"),
        (["--image-path", __file__], "cannot be read as a picture"),
        (["--image-path", str(OVERLAY)], "is a folder; name one picture in it"),
        (["--image-size", "0"], "an image size of 0: ViT-g takes multiples of 14 pixels"),
        (["--image-size", "225"], "an image size of 225: ViT-g takes multiples of 14 pixels"),
        (["--name", "../x"], "letters, digits, - and _"),
    ],
)
def test_wrong_commands(flags: list[str], said: str, run, capsys) -> None:
    assert run(*flags) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(run, capsys) -> None:
    assert run("--onnx-model-dir", __file__) == 5
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("batch", ["0", "2,1", "1,1", "1,x", "", "1,2049"])
def test_wrong_batches(batch: str, run, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--batch", batch)
    assert caught.value.code == 2
    assert "rising numbers up to 2048" in capsys.readouterr().err


def test_opsets_that_atc_cannot_read_are_refused(run, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--opset", "18")
    assert caught.value.code == 2
    assert "invalid choice: 18" in capsys.readouterr().err


def test_the_script_runs_in_a_workspace(workspace: Path, picture: Path, tmp_path: Path) -> None:
    """A process of its own, with the copied overlay, from a working directory that is not the workspace.

    torch finds a backend that fails on import, as torch_npu does where CANN's environment is not sourced.
    """
    shutil.copytree(OVERLAY, workspace, dirs_exist_ok=True)
    package = tmp_path / "site" / "broken_npu-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-npu\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = broken_npu:autoload\n")
    environment = {key: value for key, value in os.environ.items() if key != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    environment["PYTHONPATH"] = str(tmp_path / "site")
    command = [sys.executable, str(workspace / "onnx_model_export.py"), "--onnx-model-dir", "out"]
    command += ["--image-path", str(picture)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "eva_vit_g.onnx").is_file()
