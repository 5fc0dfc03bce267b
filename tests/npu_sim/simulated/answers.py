"""run_predict.py in a process of its own, on the CPU or on the simulated NPU, with synthetic weights."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parents[1]
STAND_INS = HERE.parent / "port" / "stand_ins"
ASK = [
    *("--cfg-path", "eval_configs/minigpt4_eval.yaml", "--image-path", "examples_v2/office.jpg"),
    *("--max-new-tokens", "24", "--dtype", "float16"),
]
# Relative L2 of the picture's embeddings. Measured: 7e-4 between the devices, 1e-3 from each to the CPU in float32.
PICTURE = 2e-3


@pytest.fixture(scope="session")
def weights() -> Path:
    from verification.synthetic import cached_tiny

    return Path(cached_tiny())


class Answer:
    """One run: exit code, what answer_tokens.py wrote, what went to stderr, and how often each fused operation ran."""

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
        seen, report = folder / "seen.pt", folder / "report.json"
        start = ["-m", "simulator.start"] if on == "npu" else []
        where = ["--npu-id", "0"] if on == "npu" else ["--device", "cpu"]
        script = [str(HERE / "answer_tokens.py"), str(workspace / "run_predict.py"), str(seen)]
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
        found = torch.load(seen) if seen.exists() else {"ids": [], "picture": None, "draws": []}
        self.ids, self.picture, self.draws = found["ids"], found["picture"], found["draws"]
        self.ran = json.loads(report.read_text()) if report.exists() else {}


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 distance."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def different_draws(on_cpu: Answer, on_npu: Answer, bound: float = 0.05) -> list[str]:
    """Why the sampled ids of two runs are not the same draw from the same distributions; empty where they are.

    Both round to float16, in other places. So a token near top_p's limit may be left out on one device and be drawn on
    the other; from there on the answers differ, and nothing is compared. Up to there and at that token the random
    numbers are equal, each id is the one that they pick, and no more than `bound` of the probability lies elsewhere
    (measured: 0.03; between two different texts 0.8).
    """
    reasons = []
    for place, (cpu, npu) in enumerate(zip(on_cpu.draws, on_npu.draws)):
        if not torch.equal(cpu[1], npu[1]):
            reasons.append(f"token {place}: other random numbers")
        mass = float((cpu[0] - npu[0]).abs().sum()) / 2
        if mass > bound:
            reasons.append(f"token {place}: {mass:.3f} of the probability lies elsewhere")
        for name, run, (p, random) in (("cpu", on_cpu, cpu), ("npu", on_npu, npu)):
            if run.ids[place] != int((p / random).argmax()):
                reasons.append(f"token {place}: {name} did not take what was drawn")
        if on_cpu.ids[place] != on_npu.ids[place]:
            break
    return reasons


@pytest.fixture(scope="session")
def ask(workspace: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory):
    @functools.cache
    def run(on: str, *arguments: str, tree: Path = workspace, **options: str) -> Answer:
        return Answer(tree, weights, tmp_path_factory.mktemp("answer"), on, *arguments, **options)

    return run
