"""run_predict.py with an .om: on real upstream with synthetic weights, through the stand-in for ais_bench.

No NPU: `--device cpu` runs the decoder on the CPU and the encoder on "NPU 0". tests/npu_sim does it beside torch_npu.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from ais_bench_stand_in import STAND_INS
from om_files import export, save
from port.models.encoder_record import write_record
from port.models.eva_vit_model import load_eva_vit

pytestmark = [
    pytest.mark.upstream,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Converting a tensor", "ignore:Constant folding"),
]
ASK = [
    *("--cfg-path", "eval_configs/minigpt4_eval.yaml", "--image-path", "examples_v2/office.jpg"),
    *("--max-new-tokens", "12", "--device", "cpu", "--dtype", "float32", "--greedy"),
]


@pytest.fixture(scope="module")
def weights() -> Path:
    from verification.synthetic import cached_tiny

    return Path(cached_tiny())


@pytest.fixture(scope="module")
def made(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """eva_vit_g.om of the synthetic weights and its record, as om_model_convert.py leaves them."""
    others = weights / "othfiles"
    model = load_eva_vit(others / "eva_vit_g.pth", others / "blip2_pretrained_flant5xxl.pth")
    exported = export(model, tmp_path_factory.mktemp("onnx") / "eva_vit_g.onnx")
    om = save(onnx.load(exported), tmp_path_factory.mktemp("om") / "eva_vit_g.om")
    write_record(om, {"kind": "om", "batches": [1], "ln_vision": "blip2"})
    return om


@pytest.fixture
def om(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    for file in (made, made.with_name(made.name + ".json")):
        shutil.copy(file, tmp_path)
    return tmp_path / made.name


@pytest.fixture
def ask(workspace: Path, weights: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    def run(encoder: Path, release: str | None = "new") -> subprocess.CompletedProcess:
        """release None: without ais_bench."""
        paths = {
            "llama_model": weights / "weights",
            "encoder": encoder,
            "q_former_model": weights / "othfiles/blip2_pretrained_flant5xxl.pth",
            "bert": weights / "othfiles/bert-base-uncased",
            "ckpt": weights / "pretrain/prerained_minigpt4_7b.pth",
        }
        options = ["--options", *(f"model.{key}={path}" for key, path in paths.items())]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
        if release:
            environment.update(PYTHONPATH=str(STAND_INS), AIS_BENCH_STAND_IN=release)
        command = [sys.executable, str(workspace / "run_predict.py"), *ASK, *options]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)

    return run


@pytest.fixture(scope="module")
def expected() -> list[str]:
    return []


@pytest.mark.parametrize("release", [pytest.param("old", marks=pytest.mark.slow), "new"])
def test_the_answer_is_that_of_the_weights_file(release: str, om: Path, weights: Path, ask, expected) -> None:
    if not expected:
        expected.append(ask(weights / "othfiles" / "eva_vit_g.pth", None).stdout)
    done = ask(om, release)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected[0] != ""
    assert "[INFO] acl init success" in done.stderr  # ACL writes to standard output, where only the answer belongs
    assert "Traceback" not in done.stderr


def test_features_that_are_no_numbers_end_with_what_to_do(om: Path, ask) -> None:
    """float16 overflows where ATC was left to its default."""
    model = onnx.load(om)
    weights = next(tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    weights.raw_data = b"\xff" * len(weights.raw_data)
    save(model, om)
    write_record(om, {"kind": "om", "batches": [1], "ln_vision": "blip2"})
    done = ask(om)
    assert (done.returncode, done.stdout) == (5, "")
    assert "gave NaN or infinite values" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_run_ends_with_its_reason(om: Path, ask) -> None:
    om.chmod(0o666)
    done = ask(om)
    assert (done.returncode, done.stdout) == (5, "")
    assert f"run_predict: ais_bench does not take {om}: its group or others may write to it: chmod go-w" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_om_without_ais_bench_ends_with_what_to_install(om: Path, ask) -> None:
    done = ask(om, None)
    assert (done.returncode, done.stdout) == (5, "")
    assert "needs ais_bench, aclruntime and CANN" in done.stderr
    assert "Traceback" not in done.stderr
