"""benchmarks/image_encoder.py on tiny encoders: all sides work alike, and no goal is met by an artefact."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from port.models.device import choose_dtype

from benchmarks import image_encoder, image_precision, image_sides, image_weights, results, upstream_source
from benchmarks.decode_stages import Report

SMALL = {"hidden": 96, "depth": 2}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    """An upstream that cannot be reached."""
    folder = tmp_path_factory.mktemp("nothing")
    return upstream_source.Upstream(folder, str(folder / "nowhere"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return image_weights.write_files(tmp_path_factory.mktemp("outliers"), "outliers", **SMALL)


@pytest.fixture
def images():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def results_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    yield
    choose_dtype(CPU, "float32")


# Sides


def test_all_sides_give_the_same_features(nothing, files, images, tmp_path):
    assert nothing.repo is None
    assert "nowhere" in nothing.why
    theirs, *others = image_sides.on_cpu(nothing, files, tmp_path).items()
    exact = theirs[1](images)
    assert exact.shape == (2, 257, 1408)
    for name, side in others:
        found = side(images)
        assert found.dtype == torch.float32
        bound = 2e-5 if "float32" in name else 2e-2
        assert max(image_precision.relative(found, exact)) < bound, name


@pytest.mark.upstream
def test_upstreams_own_module_and_hugging_faces_are_the_same(upstream_repo, nothing, files, images, tmp_path):
    upstream = upstream_source.Upstream(tmp_path, str(upstream_repo))
    assert upstream_source.source_of(upstream) == "upstream's own module"
    assert "Hugging Face" in upstream_source.source_of(nothing)
    before = set(sys.modules)
    theirs = upstream_source.TheirEncoder(upstream, *files, CPU)
    assert not {name for name in set(sys.modules) - before if name.split(".")[0] in ("timm", "minigpt4")}
    other = upstream_source.TheirEncoder(nothing, *files, CPU)
    assert max(image_precision.relative(theirs(images), other(images))) < 1e-5
    half = [encoder(images, torch.float16) for encoder in (theirs, other)]
    assert max(image_precision.relative(*half)) < 2e-3
    assert torch.equal(theirs.halve()(images, torch.float16), half[0])  # the file's numbers are float16


@pytest.mark.upstream
def test_what_a_gpu_would_compare_is_the_same_work(upstream_repo, files, images, tmp_path, monkeypatch):
    """On the CPU, where nothing is compiled: nobody has run it on a GPU."""
    compiled = property(lambda encoder: hasattr(encoder, "asked"))
    monkeypatch.setattr(image_sides.IMAGE_ENCODER_OM, "compile", lambda encoder: setattr(encoder, "asked", True))
    monkeypatch.setattr(image_sides.IMAGE_ENCODER_OM, "compiled", compiled)
    upstream = upstream_source.Upstream(tmp_path, str(upstream_repo))
    exact = upstream_source.TheirEncoder(upstream, *files, CPU)(images[:1])
    found = image_sides.on_cuda(upstream, files, CPU)
    assert next(iter(found)) == "upstream, eager float16"
    for name, side in found.items():
        assert image_precision.relative(side(images[:1]), exact)[0] < image_encoder.GATE[image_encoder.dtype_of(name)]


@pytest.mark.upstream
def test_upstreams_eight_pictures(upstream_repo, tmp_path):
    pictures = upstream_source.Upstream(tmp_path, str(upstream_repo)).pictures()
    assert len(pictures) == 8
    assert {"office.jpg", "float.png"} < {path.name for path in pictures}


# Speed


def test_each_side_is_first_in_turn():
    order = []
    sides = {name: (lambda name=name: order.append(name)) for name in "abc"}
    taken, beside = image_sides.interleave(sides, CPU, 3, 1, lambda: order.append("|"))
    assert "".join(order) == "abc|abc|bca|cab"
    assert [len(seconds) for seconds in taken.values()] == [3, 3, 3]
    assert len(beside) == 3


@pytest.fixture
def tiny_llm(monkeypatch):
    monkeypatch.setattr(image_sides, "SHAPE", {"vocab_size": 64, "intermediate_size": 64})


def run_speed(tmp_path):
    image_encoder.main(["--depth", "1", "--hidden", "96", "--layers", "1", "--repeat", "2", "--upstream", "/nowhere"])
    written = json.loads((tmp_path / "results" / "image_encoder_cpu.json").read_text())
    return {row["what"]: row for row in written["rows"]}, written


@pytest.mark.slow
def test_the_speed_benchmark_writes_times_ratios_parts_and_what_it_cannot_measure(tmp_path, monkeypatch, tiny_llm):
    monkeypatch.setattr(image_encoder, "matmul_peak", lambda *_: 1e15)
    monkeypatch.setattr(image_encoder, "DEPTH", 1)  # as if this were the real size
    monkeypatch.setattr(image_encoder, "HIDDEN", 96)
    rows, written = run_speed(tmp_path)
    assert "Hugging Face" in written["beside"]
    assert {"date", "device", "python", "torch", "onnxruntime", "transformers", "threads", "blocks"} <= set(
        written["machine"]
    )
    sides = ("ours, float32", "ours, bfloat16", "onnxruntime, float32")
    for name in sides:
        assert len(rows[f"{name}: one picture"]["values"]) == 2
        assert rows[f"{name}: relative error against upstream's float32"]["goal"].endswith(": met")
    goals = [rows[f"{name}: against upstream, eager float32"]["goal"] for name in sides]
    assert not goals[0]  # the goal names bfloat16 and onnxruntime
    assert sum(goal.startswith(">= 2.5") for goal in goals) == 1
    whole = rows["pixels to the first token, bfloat16, 1 of 32 layers"]["values"]
    parts = [row["values"] for what, row in rows.items() if what.startswith("of it")]
    assert len(parts) == 3
    assert all(len(values) == 2 and min(values) > 0 for values in (whole, *parts))
    assert rows["H100, 7B: pixels to the first token"]["goal"] == "<= 10 ms: not measurable here"
    assert "not measured here" in rows["picture, GPU: published"]["source"]


def test_a_side_that_beats_the_device_ends_the_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(image_encoder, "matmul_peak", lambda *_: 1e6)
    with pytest.raises(SystemExit, match="impossible, so something here measures wrongly: upstream"):
        run_speed(tmp_path)
    assert not (tmp_path / "results").exists()


def on_a_gpu(files, monkeypatch, wrong=(), depth=image_encoder.DEPTH) -> dict[str, str]:
    """The goals of four encoders on a GPU, whose times and features are made up. wrong: 3 % off."""
    names = (
        "upstream, eager float16",
        "ours, float16",
        "ours, bfloat16",
        "ours, bfloat16, compiled",
    )
    times = dict(zip(names, ([0.009, 0.010], [0.0016, 0.0018], [0.0014, 0.0015], [0.001, 0.001])))
    found = {name: lambda x, name=name: x * (1.03 if name in wrong else 1) for name in names}
    monkeypatch.setattr(image_sides, "exactly", lambda upstream, files, images: images.cpu())
    monkeypatch.setattr(image_sides, "on_cuda", lambda *_: found)
    peaks = [{name: 8e14 for name in image_encoder.GATE}] * 2
    monkeypatch.setattr(image_sides, "interleave", lambda *_: (times, peaks))
    args, report = SimpleNamespace(repeat=2, depth=depth, hidden=image_encoder.HIDDEN), Report()
    image_encoder.encoders(None, files, None, Pixels(torch.rand(1, 3, 224, 224)), args, report)
    return {row["what"]: row["goal"] for row in report.rows if row["goal"] and "error" not in row["what"]}


class Pixels:
    """On a GPU, they say."""

    device = torch.device("cuda", 0)

    def __init__(self, pixels):
        self.pixels, self.shape = pixels, pixels.shape

    def flip(self, axis):
        return self.pixels.flip(axis)


def test_a_goal_is_about_the_fastest_side_that_users_can_have(files, monkeypatch):
    assert on_a_gpu(files, monkeypatch) == {
        "ours, bfloat16: one picture": "<= 1.5: met",
        "ours, bfloat16: against upstream, eager float16": ">= 6: met",
    }


def test_a_side_that_is_fast_and_wrong_reaches_no_goal(files, monkeypatch):
    assert on_a_gpu(files, monkeypatch, ["ours, bfloat16"]) == {
        "ours, float16: one picture": "<= 1.5: not met",
        "ours, float16: against upstream, eager float16": ">= 6: not met",
    }
    with pytest.raises(SystemExit, match="no side is exact enough for a goal"):
        on_a_gpu(files, monkeypatch, ["ours, bfloat16", "ours, float16"])


def test_a_small_encoder_has_no_goals(files, monkeypatch):
    assert on_a_gpu(files, monkeypatch, depth=1) == {}


def test_a_side_that_repeats_the_timed_pictures_features_is_wrong(nothing, files, images, tmp_path, monkeypatch):
    """As a recording whose input nobody writes to, or a memory of the last picture."""
    pixels, found = images[:1], image_sides.on_cpu(nothing, files, tmp_path)
    kept = found["ours, bfloat16"](pixels)
    monkeypatch.setattr(image_sides, "on_cpu", lambda *_: {**found, "ours, bfloat16": lambda _: kept})
    monkeypatch.setattr(image_encoder, "matmul_peak", lambda *_: 1e25)
    report = Report()
    args = SimpleNamespace(repeat=1, depth=1, hidden=1)
    image_encoder.encoders(nothing, files, tmp_path, pixels, args, report)
    missed = [row["what"] for row in report.rows if row["goal"].endswith("not met")]
    assert missed == ["ours, bfloat16: relative error against upstream's float32"]


def test_onnxruntime_has_as_many_threads_as_pytorch(files, tmp_path):
    """It would take every core, whatever OMP_NUM_THREADS leaves to the others."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        side = image_sides.exported(tmp_path, files, "fp32")
    finally:
        torch.set_num_threads(before)
    session = side.__self__._runner.session
    assert session.get_session_options().intra_op_num_threads == before + 1


@pytest.mark.upstream
@pytest.mark.slow
def test_the_first_token_comes_from_upstreams_own_half(upstream_repo, tmp_path, tiny_llm, files, images):
    before = set(sys.modules)
    upstream = upstream_source.Upstream(tmp_path, str(upstream_repo))
    try:
        model = image_sides.FirstToken(files, upstream, CPU, "float32", layers=1)
        assert type(model.half).__mro__[1].__module__ == "minigpt4.models.minigpt4"
        features = model.encode(images[:1])
        embeddings = model.features_to_embeddings(images[:1], features)
        assert embeddings.shape == (1, 32, 4096)
        ids = model.ids(64)
        assert model.whole(images[:1], ids) == model.prefill(ids, embeddings)
    finally:
        sys.path.remove(str(tmp_path / "MiniGPT-4"))
        for name in [name for name in set(sys.modules) - before if name.split(".")[0] == "minigpt4"]:
            del sys.modules[name]
