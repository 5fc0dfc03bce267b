"""Small ONNX encoders with their weights outside, as exports have them, and runs of the stand-in for ATC on them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from om_files import SIZE, TOKENS, WIDTH, features, write_om
from port.export import atc, atc_staging
from port.models.encoder_record import write_record

STAND_INS = Path(__file__).parent / "stand_ins"
STAND_IN = STAND_INS / "atc"
SOC = "Ascend910B3"
TOLERANCE = 5e-3  # absolute, for features of size 1 that are rounded to float16


def write_onnx(
    path: Path, batch: int | None = 1, outside: str = "one file", kind: type = np.float16, **record: object
) -> np.ndarray:
    """om_files' encoder as an ONNX model; returns its weights. outside: "one file", "each its own" or "" for inside.

    kind: of the weights, float16 as in a mixed export. In one file the weights do not begin at byte 0, so that an
    offset which is misread or left out shows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _, weights = write_om(path, batch)
    model = onnx.load(str(path))
    path.unlink()
    if kind is np.float16:
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights.astype(kind), "weights"))
        model.graph.node[0].attribute[0].i = onnx.TensorProto.FLOAT16  # Cast's `to`
        weights = weights.astype(kind).astype(np.float32)
    if outside:
        before = onnx.numpy_helper.from_array(np.zeros((TOKENS, WIDTH), np.float32), "before")
        model.graph.initializer.insert(0, before)
        cast = model.graph.node.pop()
        model.graph.node.append(onnx.helper.make_node("Cast", [cast.input[0]], ["full"], to=1, name="cast"))
        model.graph.node.append(onnx.helper.make_node("Add", ["full", "before"], ["output"], name="add"))
        together = outside == "one file"
        onnx.save_model(
            model, str(path), save_as_external_data=True, all_tensors_to_one_file=together, size_threshold=1024,
            location=f"{path.stem}.0123abcd.weights" if together else None,
        )  # fmt: skip
    else:
        onnx.save_model(model, str(path))
    if record:
        write_record(path, {"kind": "onnx", "image_size": SIZE, **record})
    return weights


def program(folder: Path, name: str = "atc", code: Path = STAND_IN) -> Path:
    """`code`, which is Python, as an executable that this Python runs, whatever PATH says."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{code}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def atc_env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "ATC_STAND_IN_PIDS": str(tmp_path / "pids")}


@pytest.fixture
def staged(tmp_path: Path):
    """staged(outside="one file", batch=1) -> (model, its folder, weights), laid out for ATC."""

    def stage(outside: str = "one file", batch: int | None = 1):
        weights = write_onnx(tmp_path / "onnx" / "eva.onnx", batch, outside)
        model = atc_staging.read_model(tmp_path / "onnx" / "eva.onnx")
        folder = tmp_path / "work"
        (folder / "out").mkdir(parents=True)
        atc_staging.stage(model, folder, "eva")
        return model, folder, weights

    return stage


def planned(model: atc_staging.Model, batches: tuple[int, ...] = (1,), mode: str = "origin", **options) -> atc.Plan:
    return atc.plan(model, Path("/om/eva.om"), SOC, mode, batches, **options)


def run_atc(model, folder: Path, env: dict[str, str], words: str = "", batches=(1,), said=None, **options):
    path = program(folder.parent / "bin")
    plan = planned(model, batches, atc=str(path), **options)
    env = {**env, "ATC_STAND_IN": words}
    return atc.run(plan.argv, folder, env, folder.parent / "log", ([] if said is None else said).append)


def until(condition, patience: float = 20) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def interruptible() -> None:
    """For a child before it starts: a job in the background of a shell inherits that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def gone(pid: int) -> bool:
    """A zombie that nobody waits for has ended, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def computes(om: Path, weights: np.ndarray, batch: int = 1) -> None:
    images = np.random.default_rng(1).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
    got = onnxruntime.InferenceSession(om.read_bytes()).run(None, {"input": images})[0]
    assert np.abs(got - features(images, weights)).max() < TOLERANCE
