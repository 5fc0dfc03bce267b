"""Which files a run uses, whether they are there, and whether the model holds what they say."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from overlaykit.errors import FixTheCommand, FixTheProjectFile
from verification import present, weights
from verification.report import Outcome

KNOWN = Path(__file__).resolve().parents[2] / "configs" / "weights.yaml"

MODEL = """
model:
  llama_model: "/data/weights/"
  encoder: "/data/om/eva_vit_g.om"
  vit_weights: "~/eva_vit_g.pth"
  q_former_model: "othfiles/blip2.pth"
  bert: "/data/bert"
"""
EVAL = """
model:
  model_type: pretrain_vicuna0
  ckpt: '/data/ckpt.pth'
"""


def make_workspace(folder: Path, model: str = MODEL, chosen: str = EVAL) -> Path:
    for name, text in ((weights.MODEL_YAML["pretrain_vicuna0"], model), (weights.DEFAULT_CFG, chosen)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_eval_file_is_laid_over_the_models_file(tmp_path: Path) -> None:
    files = weights.from_workspace(make_workspace(tmp_path, chosen=EVAL + "  encoder: /else/eva.onnx\n"))
    assert files.encoder == Path("/else/eva.onnx")
    assert files.llama_model == Path("/data/weights")
    assert files.ckpt == Path("/data/ckpt.pth")
    # as upstream opens them: relative to the current folder, "~" is an ordinary name
    assert files.vit_weights == Path("~/eva_vit_g.pth")
    assert files.q_former_model == Path("othfiles/blip2.pth")


def test_an_environment_variable_is_filled_in_as_upstream_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS", "/mnt/weights")
    files = weights.from_workspace(make_workspace(tmp_path, MODEL.replace("/data/om", "${oc.env:WEIGHTS}")))
    assert files.encoder == Path("/mnt/weights/eva_vit_g.om")


def test_without_a_qformer_its_files_are_not_asked_for(tmp_path: Path) -> None:
    files = weights.from_workspace(make_workspace(tmp_path, model=MODEL + "  has_qformer: False\n"))
    assert files.q_former_model is None
    assert "bert" not in files.items


@pytest.mark.parametrize(
    ("model", "chosen", "error"),
    [
        (MODEL, EVAL.replace("vicuna0", "vicuna9"), FixTheCommand),
        (MODEL.replace("  encoder", "  encoders"), EVAL, FixTheCommand),
        (MODEL, "model: [", FixTheProjectFile),
        (MODEL, "modell: {}", FixTheProjectFile),
    ],
)
def test_a_yaml_that_does_not_serve_is_refused(tmp_path: Path, model: str, chosen: str, error: type) -> None:
    with pytest.raises(error):
        weights.from_workspace(make_workspace(tmp_path, model, chosen))


def test_no_workspace_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FixTheCommand) as caught:
        weights.from_workspace(tmp_path)
    assert "apply.py" in caught.value.fix


def test_a_missing_file_is_named_with_its_source(tiny: Path) -> None:
    files = replace(weights.from_folder(tiny), ckpt=Path("/nowhere/ckpt.pth"))
    missing = [check for check in present.check_present(files, KNOWN) if check.outcome is Outcome.NOT_RUN]
    assert [check.name for check in missing] == ["file ckpt"]
    assert "/nowhere/ckpt.pth does not exist" in missing[0].detail
    assert "drive.google.com" in missing[0].detail


@pytest.fixture
def real(tiny: Path, tmp_path: Path) -> weights.WeightFiles:
    """The synthetic set without its marker: it passes for a real one."""
    folder = tmp_path / "set"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "weights" / "config.json").read_text())
    del config["synthetic_weights"]
    (folder / "weights" / "config.json").write_text(json.dumps(config))
    return weights.from_folder(folder)


def test_a_real_set_with_a_file_of_the_wrong_size_is_caught(real: weights.WeightFiles) -> None:
    checks = present.check_present(real, KNOWN)
    failed = {check.name: check for check in checks if check.outcome is Outcome.FAILED}
    assert set(failed) == {"file vit_weights", "file ckpt", "file q_former_model"}
    assert "cut off or another file" in failed["file ckpt"].detail


def test_a_real_file_of_the_right_size_and_another_content_is_caught(
    real: weights.WeightFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = yaml.safe_load(KNOWN.read_text())
    for key, path in real.items.items():
        if path.is_file():
            facts[key].update(bytes=path.stat().st_size)
    known = tmp_path / "weights.yaml"
    for content, outcome in ((real.ckpt.read_bytes(), Outcome.PASSED), (b"other", Outcome.FAILED)):
        facts["ckpt"]["sha256"] = hashlib.sha256(content).hexdigest()
        known.write_text(yaml.safe_dump(facts))
        by_name = {check.name: check for check in present.check_present(real, known)}
        assert by_name["file ckpt"].outcome is outcome
        assert by_name["file vit_weights"].outcome is Outcome.FAILED  # its sum is the published one
    assert str(real.ckpt) in by_name["file ckpt"].detail
    assert "drive.google.com" in by_name["file ckpt"].detail
    assert f"sha256 of {real.vit_weights}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
)
def test_a_hole_in_the_language_model_is_missing(real: weights.WeightFiles, name: str) -> None:
    (real.llama_model / name).unlink()
    check = next(check for check in present.check_present(real, KNOWN) if check.name == "file llama_model")
    assert check.outcome is Outcome.NOT_RUN
    assert name in check.detail


def test_every_tensor_of_every_file_is_in_the_model(port: Any) -> None:
    checks = {check.name: check for check in weights.check_loaded(port.files, port.parameters())}
    assert {check.outcome for check in checks.values()} == {Outcome.PASSED}
    assert checks["loaded llama_model"].numbers["equal"] == 39
    assert checks["loaded ln_vision"].numbers["equal"] == 2


def drop(key: str, name: str) -> Any:
    return lambda loaded: loaded[key].pop(name)


def zero(key: str, name: str) -> Any:
    return lambda loaded: loaded[key].update({name: torch.zeros_like(loaded[key][name])})


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (zero("encoder", "ln_vision.bias"), "loaded ln_vision"),
        (drop("encoder", "ln_vision.weight"), "loaded ln_vision"),
        (zero("encoder", "blocks.1.attn.q_bias"), "loaded vit_weights"),
        (drop("llama_model", "model.norm.weight"), "loaded llama_model"),
        (zero("llama_model", "model.layers.3.mlp.up_proj.weight"), "loaded llama_model"),
        (lambda loaded: loaded["llama_model"].update(extra=torch.ones(1)), "loaded llama_model"),
        (zero("ckpt", "llama_proj.bias"), "loaded ckpt"),
        (lambda loaded: loaded.update(encoder={}), "loaded vit_weights"),  # a .pth encoder that shows nothing
    ],
)
def test_a_weight_that_did_not_arrive_is_caught(port: Any, fault: Any, line: str) -> None:
    loaded = {key: dict(tensors) for key, tensors in port.parameters().items()}
    fault(loaded)
    failed = [check.name for check in weights.check_loaded(port.files, loaded) if check.outcome is Outcome.FAILED]
    assert line in failed


@pytest.mark.parametrize("fault", [None, "weight", "scale"])
def test_weights_in_int8_are_those_of_the_file_to_half_a_step(tiny: Path, fault: str | None) -> None:
    from verification.overlay_alone import OverlayAlone

    port = OverlayAlone(Path(__file__).parents[2] / "overlay", weights.from_folder(tiny), "cpu", int8=True)
    loaded = {key: dict(tensors) for key, tensors in port.parameters().items()}
    name = "model.layers.2.mlp.down_proj"
    held = loaded["llama_model"]
    if fault == "weight":  # one of them is one step off
        held[f"{name}.weight"] = held[f"{name}.weight"].clone()
        held[f"{name}.weight"][5, 7] += 1 if held[f"{name}.weight"][5, 7] < 100 else -1
    elif fault == "scale":  # so large that zeros are within half a step of everything
        held[f"{name}.scale"] = held[f"{name}.scale"] * 300
        held[f"{name}.weight"] = torch.zeros_like(held[f"{name}.weight"])
    line = weights.check_loaded(port.files, loaded)[0]
    assert line.outcome is (Outcome.FAILED if fault else Outcome.PASSED)
    assert line.numbers == {"equal": 38 if fault else 39, "total": 39}
    if fault:
        assert line.detail == f"{name}.weight is not the file's, rounded to int8"


def test_the_llama2_stage_keeps_a_default_ln_vision(tiny: Path, port: Any) -> None:
    files = weights.from_folder(tiny, "pretrain_llama2")
    encoder = dict(port.parameters()["encoder"])  # Vicuna's, with a loaded ln_vision: wrong here
    assert weights._compare("ln_vision", weights._ln_vision(files, encoder), encoder, "").outcome is Outcome.FAILED
    encoder["ln_vision.weight"], encoder["ln_vision.bias"] = torch.ones(1408), torch.zeros(1408)
    assert weights._compare("ln_vision", weights._ln_vision(files, encoder), encoder, "").outcome is Outcome.PASSED


def test_a_compiled_encoder_is_left_to_its_stage(port: Any) -> None:
    loaded = {**port.parameters(), "encoder": {}}
    files = replace(port.files, encoder=Path("eva_vit_g.om"))
    by_name = {check.name: check for check in weights.check_loaded(files, loaded)}
    assert by_name["loaded encoder"].outcome is Outcome.NOTE
    assert "loaded vit_weights" not in by_name


def test_nothing_in_a_pickle_is_executed(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"model": Harm()}, tmp_path / "bad.pth")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        weights.read_tensors(tmp_path / "bad.pth")
    assert not (tmp_path / "harm").exists()
