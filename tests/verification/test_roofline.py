"""The work of the stages is that of the model that was timed."""

from __future__ import annotations

from typing import Any

import pytest

from verification import roofline
from verification.weights import llama_tensors, pth_tensors

TAKEN = {
    roofline.PICTURES: [[1, 0.3], [7, 0.9]],
    roofline.PREFILL: [[70, 0.01], [60, 0.02], [70, 0.03]],
    roofline.DECODE: [[24, 0.1], [24, 0.09]],
}


def test_the_calls_of_one_size_are_kept() -> None:
    found = roofline.report_timings({**TAKEN, "never ran": []})
    assert [(stage["name"], stage["seconds"], stage["units"]) for stage in found["stages"]] == [
        (roofline.PICTURES, [0.9], [7]),  # the later of two that are as common: the device was warm
        (roofline.PREFILL, [0.01, 0.03], [70, 70]),
        (roofline.DECODE, [0.1, 0.09], [24, 24]),
    ]
    assert found["peaks"] == {}
    assert {stage["flop"] for stage in found["stages"]} == {None}


def test_the_work_is_counted_from_the_weights_and_the_peaks_are_measured(port: Any) -> None:
    found = roofline.report_timings(TAKEN, port)
    pictures, prefill, decode = found["stages"]
    llama = dict(llama_tensors(port.files.llama_model))
    matrices = sum(tensor.numel() for name, tensor in llama.items() if tensor.ndim == 2 and "embed_tokens" not in name)
    read = sum(tensor.numel() * 4 for name, tensor in llama.items() if "embed_tokens" not in name)
    assert prefill["flop"] == pytest.approx(2 * 70 * matrices, rel=0.1)  # and attention
    assert prefill["bytes"] == pytest.approx(read, rel=0.01)
    assert decode["bytes"] == pytest.approx(24 * read, rel=0.1)  # and keys and values
    assert decode["flop"] == pytest.approx(2 * 70 * matrices, rel=0.1)  # the prompt of 46, then 24 tokens one by one
    encoder = dict(pth_tensors(port.files.vit_weights, ("patch_embed", "blocks.0.", "blocks.1.")))
    weights = sum(tensor.numel() for tensor in encoder.values() if tensor.ndim > 1)
    assert pictures["flop"] == pytest.approx(7 * 2 * 257 * weights, rel=0.2)
    assert pictures["bytes"] == pytest.approx(4 * weights, rel=0.05)
    peaks = found["peaks"]
    assert 1e9 < peaks["flops"] < 1e14
    assert 1e8 < peaks["bandwidth"] < 1e13
    assert "float32" in peaks["measured"]


def test_an_encoder_on_another_device_has_no_roofline(port: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an .onnx on the host beside an NPU: the device's peaks are not the host's."""
    image = port.parts("perf.image")
    real = image.facts
    monkeypatch.setattr(image, "facts", lambda *of: {**real(*of), "encoder_runs_on": "npu"})
    peaks = port.parts("perf.rows").Peaks(1e9, 1e9, 1e12)
    monkeypatch.setattr(port.parts("perf.measure"), "measure_peaks", lambda *_: peaks)
    pictures, prefill, _ = roofline.report_timings(TAKEN, port)["stages"]
    assert (pictures["flop"], pictures["bytes"]) == (None, None)
    assert prefill["flop"]
