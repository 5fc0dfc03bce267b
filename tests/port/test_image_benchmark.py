"""benchmarks/image_encoder.py and image_precision.py on tiny encoders: all sides work alike, and faults are caught."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

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


@pytest.fixture(scope="module", params=image_weights.KINDS)
def files(request, tmp_path_factory):
    return image_weights.write_files(tmp_path_factory.mktemp(request.param), request.param, **SMALL)


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
def test_what_a_gpu_would_compare_is_the_same_work(upstream_repo, files, images, tmp_path):
    """On the CPU: nobody has run it on a GPU."""
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


def test_outliers_are_outliers(tmp_path):
    random, outliers = (
        torch.load(image_weights.write_files(tmp_path / kind, kind, **SMALL)[0], weights_only=True)
        for kind in image_weights.KINDS
    )
    assert len({key.split(".")[1] for key in random if key.startswith("blocks.")}) == SMALL["depth"] + 1
    for name, factor, count in (
        ("blocks.1.mlp.fc2.bias", 30, 3),
        ("blocks.1.attn.proj.bias", 30, 3),
        ("blocks.0.norm1.weight", 20, 6),
        ("blocks.0.norm2.bias", 20, 6),
    ):
        ratio = outliers[name].float() / random[name].float()
        assert torch.allclose(ratio[ratio > 2], torch.tensor(float(factor)), rtol=0.01), name
        assert (ratio > 2).sum() == count
    assert all(tensor.isfinite().all() for tensor in outliers.values())


# Float16 on a CPU


def test_half_products_are_float16_summed_in_float32():
    x, weight, bias = torch.randn(5, 64).half(), torch.randn(7, 64).half(), torch.randn(7).half()
    with upstream_source.HalfProducts():
        found, untouched = F.linear(x, weight, bias), F.linear(x.float(), weight.float())
    assert torch.equal(found, F.linear(x.float(), weight.float(), bias.float()).half())
    assert untouched.dtype == torch.float32
    torch.testing.assert_close(found, F.linear(x, weight, bias), rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize(
    "product",
    [
        lambda x: x @ x.transpose(-2, -1),
        lambda x: torch.matmul(x, x.transpose(-2, -1)),
        lambda x: F.conv2d(x, x[:2, :, :2, :2]),
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: torch.nn.Conv2d(3, 4, 2)(x),
        lambda x: torch.nn.Linear(6, 3)(x),
    ],
)
def test_with_cast_every_product_comes_out_in_float16(product):
    x = torch.randn(2, 3, 6, 6)
    torch.manual_seed(0)
    with upstream_source.HalfProducts(cast=True):
        found = product(x)
        assert (x + 1).dtype == torch.float32
    assert found.dtype == torch.float16
    torch.manual_seed(0)
    torch.testing.assert_close(found.float(), product(x), rtol=1e-2, atol=1e-2)


def test_half_products_stand_for_torchs_own_float16(nothing, files, images):
    """The same encoder with torch's own: no closer to float32, and much slower at full size."""
    pictures = images[:1]
    exact = image_sides.ours(files, CPU, "float32")(pictures)
    stand_in = image_precision.ours(files, torch.float16, CPU)(pictures)
    real = image_sides.ours(files, CPU, "float16")(pictures)
    errors = [image_precision.relative(found, exact)[0] for found in (stand_in, real)]
    assert 1e-5 < errors[0] < 2 * errors[1] < 1e-2
    assert image_precision.relative(stand_in, real)[0] < 2e-3


# Precision


def run_precision(*arguments):
    common = ["--depth", "1", "--hidden", "96", "--pictures", "2", "--upstream", "/nowhere"]
    code = image_precision.main([*common, *arguments])
    written = json.loads((results.FOLDER / "image_precision_cpu.json").read_text())
    return code, {row["what"]: row for row in written["rows"]}, written


def test_the_precision_gate_passes_and_says_what_it_stood_beside(capsys):
    code, rows, written = run_precision()
    assert code == 0
    assert written["script"] == "benchmarks/image_precision.py"
    assert "Hugging Face" in written["beside"]
    assert written["machine"]["pictures"] == "2 of noise, upstream not reached"
    goals = {what: row["goal"] for what, row in rows.items() if row["goal"]}
    assert len(goals) == 2 * 7
    assert all(goal.endswith(": met") for goal in goals.values())
    assert goals["outliers: onnxruntime fp32, max abs error"] == "every one <= 2e-05: met"
    assert all(len(row["values"]) == 2 for row in rows.values())


def test_faults_are_caught(monkeypatch, capsys):
    """One picture of two that is 3 % off, and an export that is as little off as a wrong epsilon would be."""
    ours, exported = image_precision.ours, image_precision.exported

    def off(files, dtype, device):
        encode = ours(files, dtype, device)
        return lambda images: encode(images) * torch.tensor([1.0, 1.03]).view(-1, 1, 1)

    monkeypatch.setattr(image_precision, "ours", off)
    monkeypatch.setattr(image_precision, "exported", lambda *given: lambda x: exported(*given)(x) + 3e-5)
    code, rows, _ = run_precision("--weights", "random")
    assert code == 1
    missed = {what for what, row in rows.items() if row["goal"].endswith("not met")}
    assert missed == {
        "random: PyTorch bfloat16, relative error",
        "random: PyTorch bfloat16, error against upstream's own in bfloat16",
        "random: PyTorch float16, relative error",
        "random: PyTorch float16, error against upstream's own in float16",
        "random: onnxruntime fp32, max abs error",
    }
    assert capsys.readouterr().out.count("NOT MET") == 5


def test_a_number_that_is_none_is_a_miss():
    gate = image_precision.Gate()
    gate.add("x", "", [0.0, float("nan")], 1.0)
    gate.add("y", "", [float("nan"), 0.0], 1.0)
    assert gate.missed == ["x", "y"]


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


def run_speed(tmp_path, upstream="/nowhere"):
    image_encoder.main(
        ["--depth", "1", "--hidden", "96", "--layers", "1", "--repeat", "2", "--upstream", str(upstream)]
    )
    written = json.loads((tmp_path / "results" / "image_encoder_cpu.json").read_text())
    return {row["what"]: row for row in written["rows"]}, written


def test_the_speed_benchmark_writes_times_ratios_parts_and_what_it_cannot_measure(tmp_path, monkeypatch, tiny_llm):
    monkeypatch.setattr(image_encoder, "matmul_peak", lambda *_: 1e15)
    rows, written = run_speed(tmp_path)
    assert "Hugging Face" in written["beside"]
    sides = ("ours, float32", "ours, bfloat16", "onnxruntime, float32")
    for name in sides:
        assert len(rows[f"{name}: one picture"]["values"]) == 2
        assert rows[f"{name}: relative error against upstream's"]["goal"].endswith(": met")
    goals = [rows[f"{name}: against upstream, eager float32"]["goal"] for name in sides]
    assert sum(goal.startswith(">= 2.5") for goal in goals) == 1
    whole = rows["pixels to the first token, bfloat16"]["values"]
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


def test_the_goals_of_a_gpu(files, monkeypatch):
    """A stand-in for four encoders on a GPU, whose times are made up."""
    names = ("upstream, eager float16", "ours, float16", "ours, bfloat16", "ours, bfloat16, compiled")
    times = dict(zip(names, ([0.009, 0.010], [0.002, 0.002], [0.0016, 0.0018], [0.0014, 0.0015])))
    pixels = SimpleNamespace(device=torch.device("cuda", 0), shape=(1, 3, 224, 224))
    monkeypatch.setattr(image_sides, "on_cuda", lambda *_: {name: lambda _: torch.ones(1, 2, 3) for name in names})
    monkeypatch.setattr(
        image_sides, "interleave", lambda *_: (times, [{name: 8e14 for name in image_encoder.GATE}] * 2)
    )
    report = Report()
    image_encoder.encoders(None, files, None, pixels, SimpleNamespace(repeat=2), report)
    goals = {row["what"]: row["goal"] for row in report.rows if row["goal"]}
    assert goals == {
        "ours, bfloat16, compiled: one picture": "<= 1.5: met",
        "ours, bfloat16, compiled: against upstream, eager float16": ">= 6: met",
    }


@pytest.mark.upstream
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
