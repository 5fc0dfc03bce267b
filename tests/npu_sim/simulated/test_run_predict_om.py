"""(C) An .om beside the real torch_npu on the simulated device, in one process, through the stand-in for ais_bench.

The two simulations know nothing of each other: that their contexts stay apart is shown in tests/port.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from ais_bench_stand_in import ais_bench  # noqa: F401  a fixture
from om_files import SIZE, export, features, save, write_om
from port.models.encoder_record import write_record
from port.models.eva_vit_model import load_eva_vit
from port.models.image_encoder import IMAGE_ENCODER_OM

pytestmark = [
    pytest.mark.upstream,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Converting a tensor", "ignore:Constant folding"),
]


@pytest.fixture(scope="module")
def om(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """eva_vit_g.om of the synthetic weights, on the CPU, and its record."""
    others, folder = weights / "othfiles", tmp_path_factory.mktemp("om")
    model = load_eva_vit(others / "eva_vit_g.pth", others / "blip2_pretrained_flant5xxl.pth")
    exported = export(model, folder / "eva_vit_g.onnx")
    om = save(onnx.load(exported), folder / "eva_vit_g.om")
    write_record(om, {"kind": "om", "batches": [1], "ln_vision": "blip2"})
    return om


def test_the_answer_has_the_tokens_of_the_cpu(ask, om: Path) -> None:
    greedy = ("--greedy", "--max-new-tokens", "12")
    on_cpu, on_npu = ask("cpu", *greedy, encoder=str(om)), ask("npu", *greedy, encoder=str(om))
    assert (on_cpu.code, on_npu.code) == (0, 0), on_cpu.log + on_npu.log
    assert "model on npu:0" in on_npu.log
    assert len(on_cpu.ids) > 4
    assert on_npu.ids == on_cpu.ids
    assert on_npu.text.endswith(on_cpu.text)  # torch_npu prints a warning before
    assert "acl init" not in on_npu.text
    assert "Traceback" not in on_npu.log


@pytest.mark.usefixtures("ais_bench")
def test_pictures_and_features_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pictures again are found on the device, and are not computed again."""
    path, weights = write_om(tmp_path / "any.om", batch=None, profiles=(1, 2), batches=[1, 2])
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    with IMAGE_ENCODER_OM(path, "npu:0") as encoder:
        runs = []
        real = encoder._runner.run
        monkeypatch.setattr(encoder._runner, "run", lambda x: (runs.append(len(x)), real(x))[1])
        for _ in range(2):
            answer = encoder(images.to("npu:0"))
            assert (str(answer.device), answer.dtype) == ("npu:0", torch.float32)
            assert np.abs(answer.cpu().numpy() - features(images, weights)).max() < 1e-5
        assert runs == [2, 1]
        encoder(images.flip(0).to("npu:0"))
        assert runs == [2, 1, 2, 1]
