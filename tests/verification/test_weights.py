"""Which files a run uses, whether they are there, and whether the model holds what they say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from overlaykit.errors import FixTheCommand, FixTheProjectFile
from verification import weights
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
    assert files.vit_weights == Path.home() / "eva_vit_g.pth"
    assert files.q_former_model == tmp_path / "othfiles/blip2.pth"  # relative: to the workspace


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
    missing = [check for check in weights.check_present(files, KNOWN) if check.outcome is Outcome.NOT_RUN]
    assert [check.name for check in missing] == ["file ckpt"]
    assert "/nowhere/ckpt.pth does not exist" in missing[0].detail
    assert "drive.google.com" in missing[0].detail


def test_a_real_set_with_a_file_of_the_wrong_size_is_caught(tiny: Path, tmp_path: Path) -> None:
    real = tmp_path / "weights"
    shutil.copytree(tiny / "weights", real)
    config = json.loads((real / "config.json").read_text())
    del config["synthetic_weights"]
    (real / "config.json").write_text(json.dumps(config))
    checks = weights.check_present(replace(weights.from_folder(tiny), llama_model=real), KNOWN)
    failed = {check.name: check for check in checks if check.outcome is Outcome.FAILED}
    assert set(failed) == {"file vit_weights", "file ckpt", "file q_former_model"}
    assert "cut off or another file" in failed["file ckpt"].detail


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
