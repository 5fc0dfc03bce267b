"""run_performance.py --image-encoder in a workspace: patched upstream, synthetic weights, no language model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from om_files import save
from PIL import Image
from port.export import onnx_file
from port.models.eva_vit_weights import read_weights
from port.perf import image

STAND_INS = Path(__file__).parent / "stand_ins"
PROJECT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.upstream


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """Synthetic weights in the seed's folders, a picture, and the encoder as an .om of the stand-in."""
    sys.path.insert(0, str(PROJECT))
    from verification.synthetic import write_tiny

    folder = write_tiny(tmp_path_factory.mktemp("weights") / "tiny", seed=0)
    Image.new("RGB", (40, 30), "red").save(folder / "picture.png")
    others = folder / "othfiles"
    geometry, state = read_weights(others / "eva_vit_g.pth", others / "blip2_pretrained_flant5xxl.pth")
    options = onnx_file.Options(13, "fp32", (1,), 224, "blip2")
    path = onnx_file.write(folder, "eva_vit_g", geometry, state, options, lambda count: None).path
    save(onnx.load(str(path)), folder / "eva_vit_g.om")
    return folder


# As the command itself, with fewer files to read ahead, and without the matmul peaks, which have tests of their own.
QUICKLY = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from minigpt4.perf import image, measure
image.FILES = 2
measure.matmul_peak = lambda *_: 1e15
import run_performance
sys.exit(run_performance.main())
"""


@pytest.fixture
def run(workspace, tiny, tmp_path):
    """run(encoder, *arguments) -> the finished process and the rows it wrote."""

    def call(encoder: str, *arguments: str, weights: bool = True, whole: bool = False):
        """whole: the command as users call it."""
        options = ["model.llama_model=/nowhere"]
        if weights:
            others = tiny / "othfiles"
            options += [
                f"model.ckpt={tiny}/pretrain/prerained_minigpt4_7b.pth",
                f"model.bert={others}/bert-base-uncased",
            ]
            options += [f"model.q_former_model={others}/blip2_pretrained_flant5xxl.pth"]
        start = [str(workspace / "run_performance.py")] if whole else ["-c", QUICKLY, str(workspace)]
        command = [sys.executable, *start, "--image-encoder", str(tiny / encoder)]
        command += ["--device", "cpu", "--json", str(tmp_path / "rows.json"), "--options", *options, *arguments]
        command += ["--image-path", str(tiny / "picture.png")]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(STAND_INS)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
        rows = json.loads((tmp_path / "rows.json").read_text()) if (tmp_path / "rows.json").exists() else []
        return done, rows

    return call


@pytest.mark.parametrize(
    "encoder",
    [
        pytest.param("othfiles/eva_vit_g.pth", marks=pytest.mark.slow),
        pytest.param("eva_vit_g.onnx", marks=pytest.mark.slow),
        "eva_vit_g.om",
    ],
)
def test_any_encoder_on_the_yamls_files_without_a_language_model(run, encoder):
    done, rows = run(encoder, "--dtype", "float32", whole=encoder.endswith(".pth"))
    assert done.returncode == 0, done.stderr
    assert [row["what"] for row in rows[:3]] == [image.DECODING, image.ENCODER, image.EMBEDDINGS]
    ahead = [image.IN_TURN, image.AHEAD] if encoder.endswith(".om") else []  # the CPU is free to read meanwhile
    assert [row["what"] for row in rows[3:-2]] == ahead
    assert [row.get("batch_size") for row in rows] == [1] * (3 + len(ahead)) + [None, None]
    assert all(row["min(ms)"] <= row["median(ms)"] <= row["max(ms)"] for row in rows[:-2])
    assert {row["encoder"] for row in rows[:-2]} == {Path(encoder).name}
    assert {row["weights_behind_the_encoder"] for row in rows[:-2]} == {"from files"}
    known = not encoder.endswith(".om")
    assert all((row["% of matmul"] is not None) == known for row in rows[1:3])
    assert len(done.stdout.splitlines()) == 4 + len(ahead)
    assert "18 ms" in done.stdout.splitlines()[-1]
    assert "Loading Q-Former" in done.stderr


@pytest.mark.slow
def test_random_weights_have_the_real_shape(run):
    done, rows = run("othfiles/eva_vit_g.pth", "--random-weights", "--dtype", "float32", weights=False)
    assert done.returncode == 0, done.stderr
    behind = rows[2]["GFLOP"] - rows[1]["GFLOP"]
    assert behind == pytest.approx(12.7 + 0.2, abs=0.1)
    assert rows[2]["weights_behind_the_encoder"] == "random"


def test_missing_weights(run):
    done, _ = run("othfiles/eva_vit_g.pth", weights=False)
    assert done.returncode == 5
    assert "these weights are not there" in done.stderr
    assert "llama_model" not in done.stderr.split("Set the paths")[0]


@pytest.mark.slow
def test_a_missing_encoder(run):
    done, rows = run("nowhere.onnx", "--random-weights")
    assert done.returncode == 5
    assert "encoder: " in done.stderr
    assert rows == []
