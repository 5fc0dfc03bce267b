"""run_performance.py --image-encoder: the work that a row counts, and what is timed.

What is refused: test_run_performance_image_refused.py.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from om_files import save
from port.export import onnx_file
from port.models.eva_vit_weights import read_weights
from port.perf import image
from port.perf import measure as clocks
from port.perf.image_rows import ImageRow, published_rows, transformer_flop
from torch import nn
from vit_files import write_files

VIT_G = 520.7e9  # operations for one picture of 224 pixels


def row(seconds=(0.01, 0.02, 0.03), flop=1e9, matmul=1e12, batch=1) -> ImageRow:
    return ImageRow("encoder", batch, seconds, flop, matmul, {"device": "cpu"})


# Rows


def test_a_row_has_median_spread_rate_and_share():
    cells = row(batch=2).cells()
    assert (cells["median(ms)"], cells["min(ms)"], cells["max(ms)"]) == (20, 10, 30)
    assert cells["pictures/s"] == 100
    assert cells["TFLOP/s"] == pytest.approx(0.05)
    assert cells["% of matmul"] == pytest.approx(5)
    assert (cells["impossible"], cells["device"], cells["repetitions"]) == ("", "cpu", 3)
    assert "20.00 ms (10.00 to 30.00, 3 times), 0.05 TFLOP/s (5 % of matmul peak)" in row().line()


def test_the_fastest_repetition_decides_what_is_impossible():
    assert row(matmul=1e11).impossible() == ""  # 0.1 TFLOP/s of 0.1
    assert row(matmul=0.9e11).impossible() == ""  # within what clocks jitter
    assert "0.1 TFLOP/s; 0.08 were measured" in row(matmul=0.8e11).impossible()
    assert "IMPOSSIBLE: it would take" in row(matmul=0.8e11).line()
    assert "clock did not move" in row(seconds=(0.0, 0.1)).impossible()


def test_what_nobody_knows_is_left_out():
    for unknown in (row(flop=None), row(matmul=None)):
        assert unknown.share is None
        assert unknown.impossible() == ""
        assert "peak" not in unknown.line()


def test_the_original_guides_figures_stand_beside_as_such():
    rows = published_rows()
    assert [row["median(ms)"] for row in rows] == [18, 1185]
    assert all("not measured here" in row["source"] for row in rows)


# Work


def test_vit_g_is_520_gflop(tmp_path):
    om = tmp_path / "eva_vit_g.om"
    with om.open("wb") as file:
        file.truncate(1_980_000_000)  # a hole, no bytes on the disk
    assert image.encoder_flop(om, 224) == pytest.approx(VIT_G, rel=1e-3)
    assert image.encoder_flop(om, 448) > 4 * VIT_G
    om.write_bytes(b"of another size")
    assert image.encoder_flop(om, 224) is None


@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_an_onnx_file_and_its_weights_are_the_same_work(tmp_path, precision):
    vit, blip2 = write_files(tmp_path, blocks=4)
    geometry, state = read_weights(vit, blip2, 56)
    options = onnx_file.Options(13, precision, (1,), 56, "blip2")
    path = onnx_file.write(tmp_path, "eva_vit_g", geometry, state, options, lambda count: None).path
    matrices = 3 * (4 * 176**2 + 2 * 176 * 96) + 3 * 14**2 * 176
    assert image.encoder_flop(vit, 56) == transformer_flop(17, matrices, 3, 176)
    assert image.encoder_flop(path, 56) == image.encoder_flop(vit, 56)


def test_an_onnx_file_of_something_else_is_not_judged(tmp_path):
    save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), tmp_path / "x.onnx")
    assert image.encoder_flop(tmp_path / "x.onnx", 56) is None


# What is timed


class Encoder:
    """Counts how it is asked."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = path, []

    def __call__(self, pixels):
        raise AssertionError("a call may answer from memory")

    def encode(self, pixels):
        self.asked.append(len(pixels))
        return torch.zeros(len(pixels), 5, 8)


class Half(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.visual_encoder, self.has_qformer, self.device = encoder, False, torch.device("cpu")
        self.llama_proj = nn.Linear(32, 16)

    def encode_img(self, pixels):
        return self.llama_proj(self.visual_encoder(pixels)[:, 1:].reshape(len(pixels), 1, 32)), None


@pytest.fixture
def half(tmp_path, monkeypatch):
    monkeypatch.setattr(clocks, "matmul_peak", lambda *_: 1e15)
    vit, _ = write_files(tmp_path)
    return Half(Encoder(vit))


def test_each_part_is_timed_for_each_batch_and_nothing_is_remembered(half):
    encoder, said = half.visual_encoder, []
    rows = list(image.measure(half, lambda: torch.zeros(3, 56, 56), (1, 4), 6, said.append))
    names = [image.ENCODER, image.WITHOUT_QFORMER]
    assert [(row.what, row.batch) for row in rows] == [
        (image.DECODING, 1),
        *((name, batch) for batch in (1, 4) for name in names),
    ]
    assert all(len(row.seconds) == 6 for row in rows)
    assert encoder.asked.count(1) == encoder.asked.count(4) == 1 + 2 * (2 + 6)  # with two that warm up
    assert said == [f"batch {batch}, {name}" for batch in (1, 4) for name in names]
    assert rows[3].flop == 4 * rows[1].flop
    assert rows[2].flop - rows[1].flop == 2 * 32 * 16
    assert rows[0].facts["device"] == "cpu"


def test_the_device_is_waited_for(half, monkeypatch):
    waited = []
    monkeypatch.setattr(clocks, "synchronize", waited.append)
    list(image.measure(half, lambda: torch.zeros(3, 56, 56), (1,), 5, print))
    assert len(waited) == 3 * 2 * 5


def test_a_clock_that_is_too_slow_is_found(half, monkeypatch):
    monkeypatch.setattr(clocks, "matmul_peak", lambda *_: 1e3)
    rows = list(image.measure(half, lambda: torch.zeros(3, 56, 56), (1,), 5, print))
    assert [bool(row.impossible()) for row in rows] == [False, True, True]


def test_an_om_beside_a_cpu_is_not_compared_with_the_cpus_peak(half, tmp_path):
    om = tmp_path / "eva_vit_g.om"
    om.write_bytes(b"small")
    half.visual_encoder.path = om
    rows = list(image.measure(half, lambda: torch.zeros(3, 56, 56), (1,), 5, print))
    assert rows[1].facts["encoder_runs_on"] == "npu"
    assert [row.what for row in rows[3:]] == [image.IN_TURN, image.AHEAD]
    assert {row.matmul for row in rows} == {row.flop for row in rows} == {None}


def test_reading_ahead_hides_what_reading_costs_where_the_encoder_waits_for_its_device(half, tmp_path, monkeypatch):
    """Reading 20 ms, encoding 20 ms: beside each other half of their sum, and the last picture waits for nobody."""
    half.visual_encoder.path = tmp_path / "eva_vit_g.om"
    half.visual_encoder.path.write_bytes(b"small")
    embedded = []
    monkeypatch.setattr(half, "encode_img", lambda pixels: embedded.append(pixels.shape) or time.sleep(0.02))

    def read():
        time.sleep(0.02)
        return torch.zeros(3, 56, 56)

    in_turn, ahead = image.from_files(half, read, 5, 1e9, image.facts(half.visual_encoder, half.device))
    assert set(embedded) == {(1, 3, 56, 56)}
    assert len(embedded) == 2 * (2 + 5) * image.FILES
    assert min(in_turn.seconds) >= 0.04
    assert min(ahead.seconds) < 0.8 * min(in_turn.seconds)
    assert in_turn.flop == ahead.flop == 1e9


@pytest.mark.parametrize(
    ("file", "device", "providers", "runs_on"),
    [
        ("x.om", "cpu", [], "npu"),
        ("x.pth", "npu", [], "npu"),
        ("x.onnx", "npu", ["CPUExecutionProvider"], "cpu"),
        ("x.onnx", "cuda", ["CPUExecutionProvider"], "cpu"),
        ("x.onnx", "cuda", ["CUDAExecutionProvider", "CPUExecutionProvider"], "cuda"),
    ],
)
def test_where_the_encoder_runs(monkeypatch, file, device, providers, runs_on):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    assert image._runs_on(Path(file), SimpleNamespace(type=device)) == runs_on
