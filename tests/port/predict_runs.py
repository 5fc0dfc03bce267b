"""Fixtures: run_predict.py on real upstream with synthetic weights."""

from __future__ import annotations

import os

import pytest

BASE = [
    "--cfg-path",
    "eval_configs/minigpt4_eval.yaml",
    "--image-path",
    "examples_v2/office.jpg",
    "--max-new-tokens",
    "12",
]
CPU = [*BASE, "--device", "cpu"]


@pytest.fixture(scope="module")
def options():
    from verification.synthetic import cached_tiny

    paths = {
        "llama_model": "weights",
        "encoder": "othfiles/eva_vit_g.pth",
        "q_former_model": "othfiles/blip2_pretrained_flant5xxl.pth",
        "bert": "othfiles/bert-base-uncased",
        "ckpt": "pretrain/prerained_minigpt4_7b.pth",
    }
    weights = cached_tiny()
    return ["--options", *(f"model.{key}={weights / path}" for key, path in paths.items())]


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that is not the workspace, and no GPU: the paths above are found in the workspace all the same."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return {"cwd": tmp_path, "capture_output": True, "text": True, "env": environment}
