"""run_predict.py in a process of its own, on the CPU or on the simulated NPU, with synthetic weights."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]
STAND_INS = HERE.parent / "port" / "stand_ins"
ASK = [
    *("--cfg-path", "eval_configs/minigpt4_eval.yaml", "--image-path", "examples_v2/office.jpg"),
    *("--max-new-tokens", "24", "--dtype", "float16"),
]


@pytest.fixture(scope="session")
def weights() -> Path:
    from verification.synthetic import cached_tiny

    return Path(cached_tiny())


class Answer:
    """One run: exit code, token ids, what went to stderr, and how often each fused operation ran."""

    def __init__(
        self,
        workspace: Path,
        weights: Path,
        folder: Path,
        on: str,
        *arguments: str,
        ops: str = "fused",
        encoder: str = "othfiles/eva_vit_g.pth",
    ):
        """encoder: relative to `weights`, or anywhere else; an .om runs on the stand-in for ais_bench."""
        paths = {
            "llama_model": "weights",
            "encoder": encoder,
            "q_former_model": "othfiles/blip2_pretrained_flant5xxl.pth",
            "bert": "othfiles/bert-base-uncased",
            "ckpt": "pretrain/prerained_minigpt4_7b.pth",
        }
        options = ["--options", *(f"model.{key}={weights / path}" for key, path in paths.items())]
        if "low_resource" in arguments:
            arguments = tuple(word for word in arguments if word != "low_resource")
            options.append("model.low_resource=True")
        ids, report = folder / "ids.json", folder / "report.json"
        start = ["-m", "simulator.start"] if on == "npu" else []
        where = ["--npu-id", "0"] if on == "npu" else ["--device", "cpu"]
        script = [str(HERE / "answer_tokens.py"), str(workspace / "run_predict.py"), str(ids)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(HERE), str(STAND_INS))),
            "MINIGPT4_NPU_OPS": ops,
            "NPU_SIM_REPORT": str(report),
            "XDG_CACHE_HOME": str(folder / "cache"),  # where the self-check keeps what it found
            "HF_HUB_OFFLINE": "1",
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0" if on == "cpu" else "1",
        }
        command = [sys.executable, *start, *script, *ASK, *where, *arguments, *options]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        self.code, self.text, self.log = done.returncode, done.stdout, done.stderr
        self.ids = json.loads(ids.read_text()) if ids.exists() else []
        self.ran = json.loads(report.read_text()) if report.exists() else {}


@pytest.fixture(scope="session")
def ask(workspace: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory):
    @functools.cache
    def run(on: str, *arguments: str, tree: Path = workspace, **options: str) -> Answer:
        return Answer(tree, weights, tmp_path_factory.mktemp("answer"), on, *arguments, **options)

    return run
