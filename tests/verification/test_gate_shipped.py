"""configs/goldens/tiny.npz: what the reference computes for upstream's eight pictures with synthetic weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

import verify
from verification import weights
from verification.gate.digests import weight_digests
from verification.gate.golden import GOLDEN, load
from verification.prompts import load_prompts

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs" / "goldens" / "tiny.npz"


def test_it_is_of_the_weights_that_the_generator_makes(tiny: Path) -> None:
    """If this fails, synthetic.py makes other numbers: record the golden again, and raise synthetic.VERSION."""
    assert weight_digests(weights.from_folder(tiny)) == load(SHIPPED, GOLDEN).about["weights"]


def test_it_is_of_the_pictures_and_questions_of_prompts_yaml() -> None:
    about, prompts = load(SHIPPED, GOLDEN).about, load_prompts(ROOT / "configs" / "prompts.yaml")
    assert {row["sha256"] for row in about["pictures"]} == {known.sha256 for known in prompts.pictures.values()}
    assert [row["question"] for row in about["prompts"]] == list(prompts.questions)
    assert about["new_tokens"] == 64
    assert sorted(about["half"]) == ["bfloat16", "float16"]


def nine_digits(value: Any) -> Any:
    """Where an array lies in memory decides in which order NumPy adds it up, and so the last digit of a double."""
    return json.loads(json.dumps(value), parse_float=lambda text: f"{float(text):.9g}")


@pytest.mark.upstream
def test_the_patched_upstream_agrees_with_it_and_so_does_its_bundle(
    workspace: Path, locked_project: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(tmp_path / "bundle.npz")
    given = ["--project", str(locked_project), "--workspace", str(workspace), "--weights", str(tiny)]
    given += ["--device", "cpu", "--no-sampling", "--json"]
    command = [sys.executable, str(ROOT / "verify.py"), *given, "--against", str(SHIPPED), "--bundle", bundle]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    here = {check["name"]: check for check in json.loads(done.stdout)["checks"] if check["level"]}
    capsys.readouterr()
    assert verify.main(["replay", bundle, "--against", str(SHIPPED), "--json"]) == 0
    there = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    gate = {name: here[name] for name in there}
    assert len(gate) == 10
    for name, check in there.items():
        assert gate[name]["outcome"] == "ok"
        for key in ("measured", "allowed", "numbers"):
            assert nine_digits(gate[name][key]) == nine_digits(check[key])


@pytest.mark.upstream
@pytest.mark.slow
def test_recorded_again_it_says_the_same(workspace: Path, tiny: Path, tmp_path: Path) -> None:
    """Other processors add up in another order, so the numbers are those of the file within 1e-5, the ids exactly.

    Of two of the pictures, for the others are computed by the same lines; a margin is a difference of two logits.
    """
    two = tmp_path / "pictures"
    two.mkdir()
    for name in ("office.jpg", "KFC-20-for-20-Nuggets.jpg"):
        shutil.copy(workspace / "examples_v2" / name, two)
    given = ["--workspace", str(workspace), "--weights", str(tiny), "--halves", "none", "--images", str(two)]
    command = [sys.executable, str(ROOT / "verify.py"), "record", *given, "--out", str(tmp_path / "again.npz")]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    shipped, again = load(SHIPPED, GOLDEN), load(tmp_path / "again.npz", GOLDEN)
    for name in ("prompts", "pieces", "weights", "qformer", "synthetic"):
        assert again.about[name] == shipped.about[name], name
    places = [shipped.about["pictures"].index(row) for row in again.about["pictures"]]
    assert len(places) == 2
    for name, array in again.arrays.items():
        kind, picture, *question = name.split(".")
        expected = shipped.arrays[".".join([kind, str(places[int(picture)]), *question])]
        if kind == "ids":
            assert (array == expected).all(), name
        elif array.dtype == numpy.float32:
            sizes = again.arrays[name.replace("margins", "logits")]
            scale = float(numpy.abs(sizes[numpy.isfinite(sizes)]).max())
            numpy.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5 * scale, err_msg=name)
