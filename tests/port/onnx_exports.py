"""Fixtures: onnx_model_export.py as a module, on small weights in the real formats; and what reads an export."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from vit_files import write_files

OVERLAY = Path(__file__).resolve().parents[2] / "overlay"
EXPORTED = ["eva_vit_g.onnx", "eva_vit_g.onnx.json", "eva_vit_g.weights"]


def listing(folder: Path) -> list[str]:
    """Names in the folder, the digits of the weights' name left out."""
    return sorted(re.sub(r"[.][0-9a-f]{8}[.]weights$", ".weights", name) for name in os.listdir(folder))


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def features(path: Path, images: torch.Tensor) -> np.ndarray:
    return session(path).run(["output"], {"input": images.numpy()})[0]


def random_pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(2))


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
def part(exporter: ModuleType):
    """part("parity"): the module of minigpt4.export that the script itself imports."""
    return lambda name: importlib.import_module(f"minigpt4.export.{name}")


@pytest.fixture(scope="module")
def vit_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_files(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "gradient.png"
    columns, rows = np.meshgrid(np.arange(120), np.arange(80))
    Image.fromarray(np.stack([columns * 2, rows * 3, columns + rows], axis=-1).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def run(exporter: ModuleType, vit_files: tuple[Path, Path], picture: Path, tmp_path: Path):
    """run(*flags) -> exit code, with the small weights and the output folder filled in."""
    flags = ["--onnx-model-dir", str(tmp_path / "onnx"), "--image-path", str(picture), "--image-size", "56"]
    weights = ["--vit-weights", str(vit_files[0]), "--ln-vision", str(vit_files[1])]
    return lambda *more: exporter.main([*flags, *weights, *more])
