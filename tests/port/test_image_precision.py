"""benchmarks/image_precision.py on tiny encoders: both sides' float16 on a CPU, and faults are caught."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from port.models.device import choose_dtype

from benchmarks import image_precision, image_sides, image_weights, results, upstream_source

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return image_weights.write_files(tmp_path_factory.mktemp("random"), "random", hidden=96, depth=2)


@pytest.fixture(autouse=True)
def results_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    yield
    choose_dtype(CPU, "float32")


def test_outliers_are_outliers(tmp_path):
    random, outliers = (
        torch.load(image_weights.write_files(tmp_path / kind, kind, hidden=96, depth=2)[0], weights_only=True)
        for kind in image_weights.KINDS
    )
    assert len({key.split(".")[1] for key in random if key.startswith("blocks.")}) == 3
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


def test_half_products_stand_for_torchs_own_float16(files):
    """The same encoder with torch's own: no closer to float32, and much slower at full size."""
    pictures = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
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


@pytest.mark.slow
def test_the_precision_gate_passes_and_says_what_it_stood_beside(capsys):
    code, rows, written = run_precision()
    assert code == 0
    assert written["script"] == "benchmarks/image_precision.py"
    assert "Hugging Face" in written["beside"]
    assert written["machine"]["pictures"] == "2 of noise, upstream not reached"
    assert {"device", "torch", "onnxruntime", "threads", "blocks", "width", "hidden"} <= set(written["machine"])
    goals = {what: row["goal"] for what, row in rows.items() if row["goal"]}
    assert len(goals) == 2 * 7
    assert all(goal.endswith(": met") for goal in goals.values())
    assert goals["outliers: onnxruntime fp32, max abs error"] == "every one <= 2e-05: met"
    assert all(len(row["values"]) == 2 for row in rows.values())


def test_faults_are_caught(monkeypatch, capsys):
    """One picture of two that is 3 % off, and an export that is as little off as a wrong epsilon would be."""
    ours, exported = image_precision.ours, image_sides.exported

    def off(files, dtype, device):
        encode = ours(files, dtype, device)
        return lambda images: encode(images) * torch.tensor([1.0, 1.03]).view(-1, 1, 1)

    monkeypatch.setattr(image_precision, "ours", off)
    monkeypatch.setattr(image_sides, "exported", lambda *given: lambda x: exported(*given)(x) + 3e-5)
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
