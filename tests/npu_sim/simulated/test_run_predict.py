"""(C) run_predict.py --npu-id 0 from end to end on the simulated device, in a process of its own: patched upstream,
synthetic weights, real torch_npu. Its token ids must be those of --device cpu, both with --dtype float16: the weights
are the same float16 numbers, and only the operations differ.

It shows arguments and control flow of the whole program, never numerics or speed of a device. The weights are random,
so the answers mean nothing.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.upstream, pytest.mark.timeout(900)]
FUSED = {"npu_rms_norm", "npu_add_rms_norm", "npu_rotary_mul", "scatter_update_", "npu_swiglu"}
ATTENTION = "npu_fused_infer_attention_score"
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

    def __init__(self, workspace: Path, weights: Path, folder: Path, on: str, *arguments: str, ops: str = "fused"):
        paths = {
            "llama_model": "weights",
            "encoder": "othfiles/eva_vit_g.pth",
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
            "PYTHONPATH": str(HERE),
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
    def run(on: str, *arguments: str, ops: str = "fused", tree: Path = workspace) -> Answer:
        return Answer(tree, weights, tmp_path_factory.mktemp("answer"), on, *arguments, ops=ops)

    return run


@pytest.mark.parametrize(
    "arguments",
    [("--greedy", "--npu-graph", "off"), ("--greedy", "--npu-graph", "on"), ("--seed", "3", "--npu-graph", "off")],
    ids=["greedy", "recorded step", "sampled"],
)
def test_the_answer_has_the_tokens_of_the_cpu(ask, arguments: tuple[str, ...]) -> None:
    on_cpu, on_npu = ask("cpu", *arguments[:-2]), ask("npu", *arguments)
    assert (on_cpu.code, on_npu.code) == (0, 0), on_cpu.log + on_npu.log
    assert "model on npu:0" in on_npu.log
    assert len(on_cpu.ids) > 8
    assert on_npu.ids == on_cpu.ids
    assert on_npu.text.endswith(on_cpu.text)  # torch_npu prints a warning before
    assert {*FUSED, ATTENTION} <= set(on_npu.ran)


def test_the_self_check_keeps_every_operation(ask) -> None:
    on_cpu, on_npu = ask("cpu", "--greedy"), ask("npu", "--greedy", ops="checked")
    assert on_npu.code == 0, on_npu.log
    assert on_npu.ids == on_cpu.ids
    assert {*FUSED, ATTENTION, "npu_weight_quant_batchmatmul"} <= set(on_npu.ran)
    assert "differs" not in on_npu.log
    assert "raised" not in on_npu.log


def test_low_resource_runs_in_int8(ask) -> None:
    on_cpu, on_npu = (
        ask("cpu", "--greedy", "low_resource"),
        ask("npu", "--greedy", "low_resource", "--npu-graph", "off"),
    )
    assert (on_cpu.code, on_npu.code) == (0, 0), on_cpu.log + on_npu.log
    assert on_npu.ran["npu_weight_quant_batchmatmul"] > 100
    assert len(on_npu.ids) == 24


# One fault of each kind, through the whole program; test_mutations.py plants the others.
FAULTS = {
    "scale": ("        scale=1.0 / math.sqrt(head_dim),\n", ""),
    "rope layout": ("npu_rotary_mul(k.contiguous(), cos, sin)", "npu_rotary_mul(k.roll(1, -1).contiguous(), cos, sin)"),
    "key position": ("slots[:1]", "slots[:1] + 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_workspace_is_seen(ask, workspace: Path, tmp_path: Path, name: str) -> None:
    old, new = FAULTS[name]
    tree = tmp_path.parent / f"{tmp_path.name}-tree"
    shutil.copytree(workspace, tree, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    table = tree / "minigpt4" / "models" / "llama_ops_npu.py"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    on_cpu, broken = ask("cpu", "--greedy"), ask("npu", "--greedy", "--npu-graph", "off", tree=tree)
    assert broken.code != 0 or broken.ids != on_cpu.ids
