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
from port_models.eva_vit_model import load_eva_vit
from vit_files import write_files

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


def test_a_file_that_disagrees_never_takes_its_name(run, exporter, tmp_path: Path, monkeypatch, capsys) -> None:
    """An exporter that loses ln_vision on the way: the comparison fails and yesterday's file stays."""
    assert run() == 0
    good = (tmp_path / "onnx" / "eva_vit_g.onnx").read_bytes()
    real = exporter.export_onnx

    def loses_ln_vision(model, *rest) -> None:
        model.ln_vision.weight.fill_(1)
        real(model, *rest)

    monkeypatch.setattr(exporter, "export_onnx", loses_ln_vision)
    assert run() == 1
    assert (tmp_path / "onnx" / "eva_vit_g.onnx").read_bytes() == good
    assert "does not compute what PyTorch computes" in capsys.readouterr().err
    monkeypatch.setattr(exporter, "export_onnx", real)
    assert run() == 0
    assert os.listdir(tmp_path / "onnx") == ["eva_vit_g.onnx"]


def test_the_bound_can_be_set(run, capsys) -> None:
    assert run("--max-error", "1e-12") == 1
    assert "(bound 1e-12)" in capsys.readouterr().out


def test_comparison(exporter: ModuleType) -> None:
    """One wrong token among many must show, and NaN is never within a bound."""
    expected = np.random.default_rng(0).standard_normal((1, 257, 64)).astype(np.float32)
    assert exporter.compare(expected, expected).worst_token == 0
    one_wrong = expected.copy()
    one_wrong[0, 100] = -one_wrong[0, 100]
    difference = exporter.compare(one_wrong, expected)
    assert difference.worst_token == pytest.approx(2)
    assert difference.max_abs == pytest.approx(2 * np.abs(expected[0, 100]).max())
    assert difference.cosine > 0.98
    one_wrong[0, 100, 0] = np.nan
    assert not exporter.compare(one_wrong, expected).worst_token <= 1e9


def test_weight_files_beside_the_graph(exporter: ModuleType, tmp_path: Path) -> None:
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
        exporter._name_weight_files_after(unproven / f"{name}.onnx")
        (folder / f"{name}.om").touch()  # a neighbour that is none of the exporter's business
        (folder / f"{name}.weights.stale").touch()
        exporter.publish(unproven, folder, name)
    for name, value in (("vicuna", 1.0), ("llama2", 2.0)):
        assert (features(folder / f"{name}.onnx", torch.zeros(8, 8)) == value).all()
    assert sorted(file.partition(".weights.")[0] for file in os.listdir(folder)) == [
        "llama2", "llama2.om", "llama2.onnx", "vicuna", "vicuna.om", "vicuna.onnx",
    ]  # fmt: skip


@pytest.mark.parametrize("has_dynamo", [True, False])
def test_torch_with_and_without_the_newer_exporter(has_dynamo: bool, exporter, monkeypatch, tmp_path: Path) -> None:
    """torch 2.0 knows no `dynamo` argument; torch 2.9 takes the newer exporter unless told."""
    called = {}

    def older(model, args, f, opset_version, input_names, output_names, dynamic_axes=None):
        called.update(dynamo="not passed")
        Path(f).touch()

    def newer(model, args, f, opset_version, input_names, output_names, dynamic_axes=None, dynamo=True):
        called.update(dynamo=dynamo)
        Path(f).touch()

    monkeypatch.setattr(torch.onnx, "export", newer if has_dynamo else older)
    exporter.export_onnx(None, random_pictures(1), tmp_path / "x.onnx", 13, True)
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
    monkeypatch.setattr(exporter, "__file__", str(tmp_path / "ws/onnx_model_export.py"))
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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--image-path", "gone.jpg"], "the picture gone.jpg does not exist"),
        (["--image-path", __file__], "no picture that Pillow can read"),
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
    """A process of its own, with the copied overlay, from a working directory that is not the workspace."""
    shutil.copytree(OVERLAY, workspace, dirs_exist_ok=True)
    command = [sys.executable, str(workspace / "onnx_model_export.py"), "--onnx-model-dir", "out"]
    done = subprocess.run(
        [*command, "--image-path", str(picture)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "eva_vit_g.onnx").is_file()
