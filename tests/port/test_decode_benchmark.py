"""benchmarks/decode.py on a tiny model: all sides do the same work, and the rows say whether goals are met."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from port.models.llama_config import LlamaConfig
from port.perf import run as perf_run
from port.perf.rows import Peaks, Timing, Work

from benchmarks import decode_sides, decode_stages, results

CONFIG = LlamaConfig(97, 32, 56, 3, 4, 4, 8, max_position_embeddings=128)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def model(request):
    return perf_run.random_model(CONFIG, torch.device("cpu"), request.param, int8=False)


def test_hugging_face_has_the_same_weights_and_gives_the_same_numbers(model):
    other = decode_sides.hugging_face_model(model)
    twin = decode_sides.hugging_face_model(model, like=other)
    assert twin.lm_head.weight.data_ptr() == other.lm_head.weight.data_ptr()
    ids = torch.tensor([[1, 5, 6, 7]])
    ours = model(input_ids=ids).logits
    for theirs in (other, twin):
        torch.testing.assert_close(theirs(ids).logits.float(), ours, rtol=0.05, atol=0.01)


def test_every_side_times_the_same_generation(model):
    other = decode_sides.hugging_face_model(model)
    for side in (
        decode_sides.ours(model),
        decode_sides.hugging_face(other),
        decode_sides.hugging_face(other, "static"),
    ):
        timing = side(8, 5)
        assert 0 < timing.first < timing.response
        assert timing.tokens == ()


def test_a_compiler_that_takes_too_long_is_interrupted(model, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda *args, **more: time.sleep(20))
    start = time.perf_counter()
    side, why = decode_sides.compiled(decode_sides.hugging_face_model(model), 8, 5, 0.2)
    assert time.perf_counter() - start < 10
    assert side is None
    assert why == "not run: compiling and two answers took more than 0.2 s"


def test_the_other_clocks_run(model):
    assert len(decode_sides.steps(model, 2, 9, 3)) == 3
    assert decode_sides.forward_only(model, 8, 4) > 0
    assert decode_sides.whole_loop(model, 8, 4) > 0
    assert all(seconds > 0 for seconds in decode_sides.linears_alone(model))
    found = decode_sides.profile(model, 8, count=2)
    assert sum(row["percent"] for row in found) <= 100.5
    assert found == sorted(found, key=lambda row: -row["percent"])


def test_int8_has_products_to_run_alone_too():
    model = perf_run.random_model(CONFIG, torch.device("cpu"), torch.bfloat16, int8=True)
    assert model.int8
    assert all(seconds > 0 for seconds in decode_sides.linears_alone(model))


def test_goals_are_met_or_not_and_the_table_shows_all_kinds_of_rows(tmp_path, monkeypatch, capsys):
    report = decode_stages.Report()
    report.add("fast", "x", [1.0, 2.0, 3.0], (decode_stages.AT_LEAST, 2), bound="unused")
    report.add("slow", "%", [20.0], (decode_stages.AT_MOST, 16), bound="the products")
    report.elsewhere("H100", ">= 180")
    report.rows.append({"what": "theirs: published", "unit": "token/s", "goal": "", "values": [104.9], "source": "X"})
    assert [row["goal"] for row in report.rows[:3]] == [">= 2: met", "<= 16: not met", ">= 180: not measurable here"]
    report.add("growth", "%", [-3.0], (decode_stages.AT_MOST, 16), best=0)
    report.add("batch", "x", [8.4], (decode_stages.AT_LEAST, 6.5), best=8)
    impossible = report.rows.pop(), report.rows.pop()
    assert all("not shown, the figure is impossible" in row["goal"] for row in impossible)
    assert "bound" not in report.rows[0]
    assert report.rows[1]["bound"] == "the products"
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    results.write("decode_cpu", report.rows, {"device": "here"}, script="decode", profile=[])
    written = json.loads((tmp_path / "decode_cpu.json").read_text())
    assert written["script"] == "benchmarks/decode.py"
    text = results.tables(("What", "Median", "Min to max", "Goal"))
    assert text.startswith("[benchmarks/decode.py](benchmarks/decode.py), here;")
    assert "| fast | 2 x | 1 to 3, 3 runs | >= 2: met |" in text
    assert "| H100 | — | — | >= 180: not measurable here |" in text
    assert "| theirs: published | 104.9 token/s | X |  |" in text


def test_of_a_long_result_only_what_has_a_goal_or_a_source_is_shown(tmp_path, monkeypatch, capsys):
    rows = [{"what": f"row {i}", "unit": "ms", "goal": "", "values": [1234.5]} for i in range(results.ALL_SHOWN)]
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    results.write("short", rows, {"device": "here"})
    assert "| row 3 | 1234 ms | 1 run |  |" in results.tables(results.HEADS["README.md"])
    (tmp_path / "short.json").unlink()
    results.write("long", [*rows, {**rows[0], "what": "with a goal", "goal": "< 2000"}], {"device": "here"})
    text = results.tables(results.HEADS["README.md"])
    assert "with a goal" in text
    assert "row 3" not in text


def test_a_side_that_beats_the_device_ends_the_benchmark():
    work = Work(weights=10**9, kv=1, matrices=10**6, head=1, attention=1)
    args = Namespace(prompt=8, new=5)
    slow, fast = Timing(1.0, 9.0), Timing(0.1, 0.1004)
    peaks = [Peaks(1e10, 1e10, 1e12)]
    decode_stages.check([slow] * 5, work, peaks, args)
    with pytest.raises(SystemExit, match="impossible"):
        decode_stages.check([slow, fast], work, peaks, args)
