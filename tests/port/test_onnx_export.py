"""onnx_model_export.py as a user runs it, on small weights in the real formats."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from port.models.eva_vit_model import load_eva_vit
from vit_files import write_files

from verification import oracle

OVERLAY = Path(__file__).resolve().parents[2] / "overlay"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch):
    """The script as a module. It imports `minigpt4` from its own folder, as in a workspace."""
    monkeypatch.syspath_prepend(str(OVERLAY))
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "minigpt4"}
    yield importlib.import_module("onnx_model_export")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("minigpt4", "onnx_model_export")]:
        del sys.modules[name]
    sys.modules.update(others)


@pytest.fixture
def graph_module(exporter: ModuleType) -> ModuleType:
    """The part of the exporter that needs torch and onnx, as the script itself imports it."""
    return importlib.import_module("minigpt4.models.onnx_export")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_files(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "gradient.png"
    columns, rows = np.meshgrid(np.arange(120), np.arange(80))
    Image.fromarray(np.stack([columns * 2, rows * 3, columns + rows], axis=-1).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def run(exporter: ModuleType, files: tuple[Path, Path], picture: Path, tmp_path: Path):
    """run(*flags) -> exit code, with the small weights and the output folder filled in."""
    flags = ["--onnx-model-dir", str(tmp_path / "onnx"), "--image-path", str(picture), "--image-size", "56"]
    weights = ["--vit-weights", str(files[0]), "--ln-vision", str(files[1])]
    return lambda *more: exporter.main([*flags, *weights, *more])


def features(path: Path, images: torch.Tensor) -> np.ndarray:
    return onnxruntime.InferenceSession(str(path)).run(["output"], {"input": images.numpy()})[0]


def random_pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_exports_and_proves(opset: int, run, files: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    assert run("--opset", str(opset)) == 0
    path = tmp_path / "onnx" / "eva_vit_g.onnx"
    assert os.listdir(path.parent) == ["eva_vit_g.onnx"]
    images = random_pictures(1)
    expected = load_eva_vit(*files, image_size=56)(images).numpy()
    assert np.abs(features(path, images) - expected).max() <= 2e-5
    assert onnx.load(path).opset_import[0].version == opset
    said = capsys.readouterr().out
    assert [f"[{n}/5]" in said for n in range(1, 6)] == [True] * 5
    assert "(bound 1e-04)" in said
    assert '--input_shape="input:1,3,56,56"' in said


def test_the_graph_computes_no_shapes(run, tmp_path: Path) -> None:
    """ATC folds constants, but a graph whose sizes are computed at run time is a slow one or none at all."""
    assert run() == 0
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "onnx" / "eva_vit_g.onnx").graph.node)
    assert not {"Shape", "Where", "Expand", "Gather", "If", "Loop", "LayerNormalization"} & set(operators)
    assert operators["Softmax"] == 2  # one per block that is used


def test_float16(run, files: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    assert run("--dtype", "fp16") == 0
    graph = onnx.load(tmp_path / "onnx" / "eva_vit_g.onnx").graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    halves = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert sum(np.prod(tensor.dims) for tensor in halves) > 0.9 * sum(np.prod(t.dims) for t in graph.initializer)
    assert "(bound 1e-02)" in capsys.readouterr().out


def test_float16_on_a_torch_without_it(run, monkeypatch, capsys) -> None:
    """torch 2.0 and 2.1 cannot compute float16 on the CPU."""

    def older_torch(*args, **options):
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")

    monkeypatch.setattr(torch.onnx, "export", older_torch)
    assert run("--dtype", "fp16") == 2
    assert "cannot run float16 on the CPU, which --dtype fp16 needs. Export fp32" in capsys.readouterr().err


def test_dynamic_batch(run, files: tuple[Path, Path], tmp_path: Path) -> None:
    assert run("--dynamic-batch", "--name", "any") == 0
    images = random_pictures(3)
    expected = load_eva_vit(*files, image_size=56)(images).numpy()
    assert np.abs(features(tmp_path / "onnx" / "any.onnx", images) - expected).max() <= 2e-5


def test_a_file_that_disagrees_never_takes_its_name(run, graph_module, tmp_path: Path, monkeypatch, capsys) -> None:
    """An exporter that loses ln_vision on the way: the comparison fails and yesterday's file stays."""
    assert run() == 0
    good = (tmp_path / "onnx" / "eva_vit_g.onnx").read_bytes()
    real = graph_module.export_onnx

    def loses_ln_vision(model, *rest) -> None:
        model.ln_vision.weight.fill_(1)
        real(model, *rest)

    monkeypatch.setattr(graph_module, "export_onnx", loses_ln_vision)
    assert run() == 1
    assert (tmp_path / "onnx" / "eva_vit_g.onnx").read_bytes() == good
    assert "does not compute what PyTorch computes" in capsys.readouterr().err
    monkeypatch.setattr(graph_module, "export_onnx", real)
    assert run() == 0
    assert os.listdir(tmp_path / "onnx") == ["eva_vit_g.onnx"]


def test_the_bound_can_be_set(run, capsys) -> None:
    assert run("--max-error", "1e-12") == 1
    assert "(bound 1e-12)" in capsys.readouterr().out


def test_comparison(graph_module: ModuleType) -> None:
    """One wrong token among many must show, and NaN is never within a bound."""
    expected = np.random.default_rng(0).standard_normal((1, 257, 64)).astype(np.float32)
    assert graph_module.compare(expected, expected).worst_token == 0
    one_wrong = expected.copy()
    one_wrong[0, 100] = -one_wrong[0, 100]
    difference = graph_module.compare(one_wrong, expected)
    assert difference.worst_token == pytest.approx(2)
    assert difference.max_abs == pytest.approx(2 * np.abs(expected[0, 100]).max())
    assert difference.cosine > 0.98
    one_wrong[0, 100, 0] = np.nan
    assert not graph_module.compare(one_wrong, expected).worst_token <= 1e9


def test_weight_files_beside_the_graph(exporter: ModuleType, graph_module: ModuleType, tmp_path: Path) -> None:
    """Above 2 GiB torch writes one file per tensor, named alike for every model. Two models share a folder here.

    That size is the slow test's; this one makes the same layout with onnx's own writer.
    """
    folder = tmp_path / "onnx"
    folder.mkdir()
    for name, value in (("vicuna", 1.0), ("llama2", 2.0)):
        unproven = folder / f"{name}.unproven"
        unproven.mkdir()
        weight = onnx.numpy_helper.from_array(np.full((8, 8), value, np.float32), "onnx::MatMul_1")
        square = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [8, 8]) for n in ("input", "output")]
        node = onnx.helper.make_node("Add", ["input", "onnx::MatMul_1"], ["output"])
        graph = onnx.helper.make_graph([node], "g", square[:1], square[1:], [weight])
        opset = [onnx.helper.make_opsetid("", 13)]
        onnx.save(
            onnx.helper.make_model(graph, opset_imports=opset, ir_version=8),
            str(unproven / f"{name}.onnx"),
            save_as_external_data=True,
            all_tensors_to_one_file=False,
            size_threshold=0,
        )
        assert len(os.listdir(unproven)) == 2
        graph_module._name_weight_files_after(unproven / f"{name}.onnx")
        graph_module.write_ln_vision(unproven / f"{name}.onnx", None)
        (folder / f"{name}.om").touch()  # a neighbour that is none of the exporter's business
        (folder / f"{name}.weights.stale").touch()
        exporter.publish(unproven, name)
    for name, value in (("vicuna", 1.0), ("llama2", 2.0)):
        assert (features(folder / f"{name}.onnx", torch.zeros(8, 8)) == value).all()
        proto = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        assert [(entry.key, entry.value) for entry in proto.metadata_props] == [("ln_vision", "default")]
    assert sorted(file.partition(".weights.")[0] for file in os.listdir(folder)) == [
        "llama2", "llama2.om", "llama2.onnx", "vicuna", "vicuna.om", "vicuna.onnx",
    ]  # fmt: skip


# The gate: what it lets through and what not


@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 1e-4), ("fp16", 1e-2)])
def test_the_default_bound_is_held(dtype: str, bound: float, run, graph_module, monkeypatch, tmp_path, capsys) -> None:
    """Features that are wrong by twice the bound in one token fail; by half of it they pass."""
    expected = []
    real = graph_module.compare

    def compare_with(error: float):
        def compare(actual: np.ndarray, right: np.ndarray):
            expected.append(right)
            actual = right.copy()
            actual[0, 7] *= 1 + error
            return real(actual, right)

        return compare

    monkeypatch.setattr(graph_module, "compare", compare_with(2 * bound))
    assert run("--dtype", dtype) == 1
    assert "does not compute what PyTorch computes" in capsys.readouterr().err
    assert os.listdir(tmp_path / "onnx") == ["eva_vit_g.unproven"]
    monkeypatch.setattr(graph_module, "compare", compare_with(bound / 2))
    assert run("--dtype", dtype) == 0
    assert len(expected) == 2


@pytest.mark.parametrize("flags", [[], ["--max-error", "1e9"]])
def test_nan_is_never_within_the_bound(flags: list[str], run, graph_module, monkeypatch, tmp_path: Path) -> None:
    real = graph_module.run_onnx

    def one_nan(path: Path, image: torch.Tensor) -> np.ndarray:
        features = real(path, image)
        features[0, 3, 5] = np.nan
        return features

    monkeypatch.setattr(graph_module, "run_onnx", one_nan)
    assert run(*flags) == 1
    assert not (tmp_path / "onnx" / "eva_vit_g.onnx").exists()


@pytest.mark.parametrize("size", [56, 224])
def test_the_picture_is_processed_as_the_model_sees_it(size, graph_module, run, monkeypatch, tmp_path: Path) -> None:
    """Equal to the independent arithmetic of verify.py, on noise, where every other filter would show."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    seen = []
    real = graph_module.run_onnx
    monkeypatch.setattr(graph_module, "run_onnx", lambda path, image: seen.append(image) or real(path, image))
    assert run("--image-path", str(tmp_path / "noise.png"), "--image-size", str(size)) == 0
    assert seen[0].shape == (1, 3, size, size)
    assert (seen[0][0] - oracle.process(tmp_path / "noise.png", size)).abs().max() <= 1e-6


@pytest.mark.parametrize("ln_vision", ["blip2", "default"])
def test_the_file_says_which_ln_vision_is_inside(ln_vision: str, run, tmp_path: Path) -> None:
    assert run(*([] if ln_vision == "blip2" else ["--ln-vision", "none"])) == 0
    (path,) = (tmp_path / "onnx").iterdir()
    assert onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map == {"ln_vision": ln_vision}
    onnx.checker.check_model(onnx.load(path))


# What stops it


def test_an_interrupt_leaves_nothing_behind(run, graph_module, monkeypatch, tmp_path: Path, capsys) -> None:
    def interrupted(*args) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(graph_module, "run_onnx", interrupted)
    assert run() == 130
    assert os.listdir(tmp_path / "onnx") == []
    assert capsys.readouterr().err == "\nonnx_model_export: interrupted\n"


def test_what_nobody_foresaw_is_no_disagreement(run, graph_module, monkeypatch, tmp_path: Path, capsys) -> None:
    def broken(*args) -> None:
        raise ValueError("from deep inside")

    monkeypatch.setattr(graph_module, "export_onnx", broken)
    assert run() == 70
    assert os.listdir(tmp_path / "onnx") == []
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("software", ["torch", "onnx", "onnxruntime"])
def test_missing_software_is_named_before_the_first_step(software: str, files, picture: Path, tmp_path: Path) -> None:
    """In a process of its own, where the software cannot be imported."""
    flags = ["--onnx-model-dir", "out", "--image-path", str(picture), "--image-size", "56"]
    flags += ["--vit-weights", str(files[0]), "--ln-vision", str(files[1])]
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


def test_a_truncated_picture(run, tmp_path: Path, capsys) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:4000])
    assert run("--image-path", str(tmp_path / "half.jpg")) == 2
    assert "half.jpg cannot be read as a picture (image file is truncated" in capsys.readouterr().err


@pytest.mark.parametrize("has_dynamo", [True, False])
def test_torch_with_and_without_the_newer_exporter(has_dynamo: bool, graph_module, monkeypatch, tmp_path: Path) -> None:
    """torch 2.0 knows no `dynamo` argument; torch 2.9 takes the newer exporter unless told."""
    called = {}

    def older(model, args, f, opset_version, input_names, output_names, dynamic_axes=None):
        called.update(dynamo="not passed")
        Path(f).touch()

    def newer(model, args, f, opset_version, input_names, output_names, dynamic_axes=None, dynamo=True):
        called.update(dynamo=dynamo)
        Path(f).touch()

    monkeypatch.setattr(torch.onnx, "export", newer if has_dynamo else older)
    graph_module.export_onnx(None, random_pictures(1), tmp_path / "x.onnx", 13, True)
    assert called == {"dynamo": False if has_dynamo else "not passed"}


# The configuration


@pytest.fixture
def workspace(tmp_path: Path, files: tuple[Path, Path], exporter: ModuleType, monkeypatch) -> Path:
    """The two YAML layers as upstream and its patches lay them out."""
    models, evaluation = tmp_path / "ws/minigpt4/configs/models", tmp_path / "ws/eval_configs"
    models.mkdir(parents=True)
    evaluation.mkdir()
    vicuna = f"model:\n  arch: minigpt4\n  image_size: 56\n  vit_weights: {files[0]}\n  q_former_model: {files[1]}\n"
    (models / "minigpt4_vicuna0.yaml").write_text(vicuna)
    (models / "minigpt4_llama2.yaml").write_text(vicuna + "  has_qformer: False\n")
    for kind, name in (("vicuna0", "minigpt4_eval"), ("llama2", "minigpt4_llama2_eval")):
        text = f"model:\n  arch: minigpt4\n  model_type: pretrain_{kind}\nrun: {{}}\n"
        (evaluation / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(exporter, "WORKSPACE", tmp_path / "ws")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ws"


def test_weights_come_from_the_configuration(exporter, workspace: Path, files, picture: Path, tmp_path: Path) -> None:
    """Both stages into one folder, from another working directory: two names, and the Llama-2 one has no ln_vision."""
    seeds = ["--onnx-model-dir", str(tmp_path / "onnx"), "--image-path", str(picture)]
    assert exporter.main(seeds) == 0
    assert exporter.main([*seeds, "--cfg-path", "eval_configs/minigpt4_llama2_eval.yaml"]) == 0
    images = random_pictures(1)
    for name, ln_vision in (("eva_vit_g", files[1]), ("eva_vit_g_llama2", None)):
        expected = load_eva_vit(files[0], ln_vision, image_size=56)(images).numpy()
        assert np.abs(features(tmp_path / "onnx" / f"{name}.onnx", images) - expected).max() <= 2e-5


def test_the_evaluation_yaml_wins(exporter, workspace: Path, picture: Path, tmp_path: Path, capsys) -> None:
    text = (workspace / "eval_configs/minigpt4_eval.yaml").read_text()
    changed = text.replace("run: {}", "  vit_weights: /elsewhere/eva_vit_g.pth\nrun: {}")
    (workspace / "eval_configs/minigpt4_eval.yaml").write_text(changed)
    assert exporter.main(["--onnx-model-dir", str(tmp_path / "o"), "--image-path", str(picture)]) == 5
    assert "/elsewhere/eva_vit_g.pth does not exist" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


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
    exporter, workspace: Path, files, picture
) -> None:
    """Both as run_predict.py takes them: the picture also from the workspace, the YAML's paths as they are written."""
    (workspace / "examples_v2").mkdir()
    shutil.copy(picture, workspace / "examples_v2" / "gradient.png")
    yaml = workspace / "minigpt4/configs/models/minigpt4_vicuna0.yaml"
    yaml.write_text(yaml.read_text().replace(str(files[0]), "weights/vit.pth"))
    call = ["--onnx-model-dir", "o", "--image-path", "examples_v2/gradient.png"]
    (workspace / "weights").mkdir()
    shutil.copy(files[0], workspace / "weights" / "vit.pth")
    assert exporter.main(call) == 5  # not the workspace's
    Path("weights").mkdir()
    shutil.copy(files[0], "weights/vit.pth")
    assert exporter.main(call) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--image-path", "gone.jpg"], "the picture gone.jpg does not exist"),
        (["--image-path", __file__], "cannot be read as a picture"),
        (["--image-path", str(OVERLAY)], "is a folder; name one picture in it"),
        (["--onnx-model-dir", __file__], "cannot be made (Not a directory)"),
        (["--image-size", "0"], "an image size of 0 pixels"),
        (["--name", "../x"], "letters, digits, - and _"),
    ],
)
def test_wrong_commands(flags: list[str], said: str, run, capsys) -> None:
    assert run(*flags) == 2
    assert said in capsys.readouterr().err


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
