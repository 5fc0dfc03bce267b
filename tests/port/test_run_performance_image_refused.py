"""What run_performance.py --image-encoder refuses, and the files that it makes for random weights."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import port_package
import pytest
import torch
from PIL import Image
from port.perf import image_half, image_run

SCRIPT = port_package.OVERLAY / "run_performance.py"


def load_script():
    spec = importlib.util.spec_from_file_location("run_performance", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8), "red").save("picture.png")
    return load_script()


@pytest.fixture
def looks_like_a_workspace(tmp_path):
    (tmp_path / "minigpt4" / "common").mkdir(parents=True)
    (tmp_path / "minigpt4" / "common" / "config.py").touch()
    (tmp_path / "eval.yaml").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8"], "--int8 is about the decoder: leave it out"),
        (["--model_path", "x"], "--model-path is about the decoder"),
        (["--lengths", "8:4"], "--lengths is about the decoder"),
        (["--npu-graph", "off"], "--npu-graph is about the decoder"),
        (["--output", "x.csv"], "--output is about the decoder"),
        (["--compile"], "--compile: x.om is no .pth, and PyTorch can compile nothing else"),
        (["--cfg-path", "nowhere.yaml"], "--cfg-path: there is no file nowhere.yaml, neither in"),
        (["--ln-vision", "nowhere.pth"], "--ln-vision: there is no file nowhere.pth"),
    ],
)
def test_what_does_not_fit_together_exits_2(script, looks_like_a_workspace, arguments, message):
    given = ["--image-encoder", "x.om", "--image-path", "picture.png", "--cfg-path", "eval.yaml"]
    args = script.parse([*given, *arguments])
    with pytest.raises(image_run.UsageError, match=message) as refusal:
        image_run.check(args, script.parse([]), looks_like_a_workspace)
    assert refusal.value.exit_code == 2


def test_a_picture_is_needed(script, looks_like_a_workspace):
    with pytest.raises(image_run.UsageError, match="--image-path: name the picture"):
        image_run.check(script.parse(["--image-encoder", "x.om"]), script.parse([]), looks_like_a_workspace)


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(image_run.UsageError, match=r"--image-path: .*x\.png cannot be read as a picture"):
        image_run._reader(str(tmp_path / "x.png"), None)()


def test_paths_may_be_the_workspaces(script, looks_like_a_workspace, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    args = script.parse(["--image-encoder", "x.om", "--image-path", "picture.png", "--cfg-path", "eval.yaml"])
    image_run.check(args, script.parse([]), looks_like_a_workspace)
    assert args.image_path == str(tmp_path / "picture.png")
    assert args.cfg_path == str(tmp_path / "eval.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-encoder", "x.om", "--image-path", "picture.png"], "is no workspace"),
        (["--image-encoder", "x.om", "--image-path", "picture.png", "--repeat", "4"], "5 repetitions at least"),
        (["--image-path", "picture.png", "--random-weights"], "go with --image-encoder"),
        (["--ln-vision", "picture.png", "--random-weights"], "go with --image-encoder"),
        (["--cfg-path", "picture.png", "--random-weights"], "go with --image-encoder"),
    ],
)
def test_the_command_line_is_checked_first(arguments, message, tmp_path):
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == ""


def test_a_file_without_ln_vision_is_named(tmp_path):
    torch.save({"model": {"ln_vision.weight": torch.ones(4)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"--ln-vision: .*x\.pth has no 'ln_vision\.bias'"):
        image_half._ln_vision(str(tmp_path / "x.pth"))


def test_a_projection_of_any_width_is_read_and_a_wrong_file_left_to_who_explains_it(tmp_path):
    torch.save({"model": {"llama_proj.weight": torch.ones(48, 4)}}, tmp_path / "x.pth")
    assert image_half._llama_width(str(tmp_path / "x.pth")) == 48
    (tmp_path / "y.pth").write_text("no weights")
    torch.save([1], tmp_path / "z.pth")
    for name in ("y.pth", "z.pth", "nowhere.pth"):
        assert image_half._llama_width(str(tmp_path / name)) == image_half.LLAMA_WIDTH


def test_random_weights_are_small_files_of_the_real_shape_without_a_qformer_too(tmp_path):
    config = SimpleNamespace(get=lambda key, default: {"has_qformer": False}.get(key, default))
    paths = image_half.write_random(tmp_path, config, None)
    assert list(paths) == ["ckpt"]
    weights = torch.load(paths["ckpt"], weights_only=True)["model"]
    assert weights["llama_proj.weight"].shape == (4096, 5632)
