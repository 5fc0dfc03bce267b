"""An .om that ais_bench would refuse, and a device that is not there: said with what to do, before ais_bench is called.

On the stand-in, both releases: paths are looked at by newer ones only.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from ais_bench_stand_in import both_releases
from om_files import SIZE, never, save, write_om
from port.models import image_encoder
from port.models.device import DeviceUnavailable
from port.models.image_encoder import IMAGE_ENCODER_OM
from port.models.om_session import LARGEST, OmSession


@pytest.fixture
def om(tmp_path: Path) -> Path:
    return write_om(tmp_path / "eva_vit_g.om")[0]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(7, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def npus(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch knows no `npu` here, so the resolved device is a stand-in too."""
    stand_in = lambda spec: SimpleNamespace(type="npu", index=int(str(spec)[4:]))  # noqa: E731
    monkeypatch.setattr(image_encoder, "resolve_device", stand_in)


# One row, one test: the file


@both_releases
@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_a_bad_om(content: bytes, tmp_path: Path, ais_bench) -> None:
    path = tmp_path / "bad.om"
    path.write_bytes(content)
    path.chmod(0o640)
    with pytest.raises(ValueError, match=r"ais_bench cannot load .*bad\.om on NPU 0: \[1\].*--soc_version"):
        IMAGE_ENCODER_OM(path, "cpu")


@both_releases
def test_a_missing_om(tmp_path: Path, ais_bench, monkeypatch) -> None:
    monkeypatch.setattr(ais_bench.InferSession, "__init__", never)
    with pytest.raises(FileNotFoundError, match=r"gone\.om does not exist\. Set `encoder`"):
        IMAGE_ENCODER_OM(tmp_path / "gone.om", "cpu")


@both_releases
def test_a_symbolic_link_is_followed(om: Path, tmp_path: Path, images, ais_bench) -> None:
    (tmp_path / "ключ").mkdir()  # a name that newer releases refuse: they never see it
    link = tmp_path / "ключ" / "link.om"
    link.symlink_to(om)
    assert len(IMAGE_ENCODER_OM(link, "cpu")(images)) == 7


def test_a_link_to_a_file_of_another_suffix(om: Path, ais_bench, monkeypatch) -> None:
    """As model caches lay files down."""
    om.rename(om.with_name("1f2e3d"))
    om.symlink_to("1f2e3d")
    monkeypatch.setattr(ais_bench.InferSession, "__init__", never)
    with pytest.raises(ValueError, match=r"1f2e3d: the file itself, .* does not end in \.om: copy it"):
        IMAGE_ENCODER_OM(om, "cpu")


@pytest.mark.parametrize("mode", [0o660, 0o646, 0o666])
def test_a_file_that_others_may_write_to(mode: int, om: Path, ais_bench, monkeypatch) -> None:
    om.chmod(mode)
    monkeypatch.setattr(ais_bench.InferSession, "__init__", never)
    with pytest.raises(ValueError, match=rf"others may write to it: chmod go-w {om}"):
        IMAGE_ENCODER_OM(om, "cpu")


@pytest.mark.parametrize("name", ["eva vit.om", "图像.om", "a+b.om", "a~.om"])
def test_a_name_that_ais_bench_refuses(name: str, om: Path, ais_bench, monkeypatch) -> None:
    monkeypatch.setattr(ais_bench.InferSession, "__init__", never)
    with pytest.raises(
        ValueError, match=r"its path has .* only letters without accents, digits and _ - \. / .* rename"
    ):
        IMAGE_ENCODER_OM(om.rename(om.with_name(name)), "cpu")


def test_a_file_of_somebody_else(om: Path, ais_bench, monkeypatch) -> None:
    monkeypatch.setattr(ais_bench.InferSession, "__init__", never)
    monkeypatch.setattr(os, "geteuid", lambda: om.stat().st_uid + 1)
    monkeypatch.setattr(os, "getgroups", list)
    with pytest.raises(ValueError, match=r"it belongs to user \d+ and you are user \d+: chown, or copy it"):
        IMAGE_ENCODER_OM(om, "cpu")


def test_a_file_that_cannot_be_read(om: Path, ais_bench, monkeypatch) -> None:
    om.chmod(0o040)
    monkeypatch.setattr(ais_bench.InferSession, "__init__", never)
    with pytest.raises(ValueError, match=r"it cannot be read: chmod u\+r"):
        IMAGE_ENCODER_OM(om, "cpu")


def test_a_file_that_is_too_large(om: Path, ais_bench, monkeypatch) -> None:
    os.truncate(om, LARGEST + 1)  # sparse: it takes no room
    monkeypatch.setattr(ais_bench.InferSession, "__init__", never)
    with pytest.raises(ValueError, match=r"it has 10737418241 bytes and 10737418240 are allowed"):
        IMAGE_ENCODER_OM(om, "cpu")


def test_all_faults_of_a_file_are_said_at_once(om: Path, ais_bench) -> None:
    om = om.rename(om.with_name("eva vit.om"))
    om.chmod(0o666)
    with pytest.raises(ValueError, match=r"its path has ' '.*; its group or others may write to it: chmod go-w '"):
        IMAGE_ENCODER_OM(om, "cpu")


@pytest.mark.parametrize("ais_bench", ["old"], indirect=True)
def test_an_older_release_takes_what_newer_ones_refuse(om: Path, images, ais_bench) -> None:
    om = om.rename(om.with_name("图像 1.om"))
    om.chmod(0o666)
    assert len(IMAGE_ENCODER_OM(om, "cpu")(images)) == 7


@both_releases
def test_a_file_that_is_no_image_encoder(om: Path, ais_bench) -> None:
    import aclruntime

    model = onnx.load(om)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    save(model, om)
    with pytest.raises(ValueError, match="one float input") as error:  # its traceback holds the encoder
        IMAGE_ENCODER_OM(om, "cpu")
    assert aclruntime.loaded == []
    assert error.tb is not None


# One row, one test: the device


@both_releases
@pytest.mark.parametrize("number", ["0", True, -1, 256, 0.0, None])
def test_a_device_that_is_no_number_from_0_to_255(number, om: Path, ais_bench, monkeypatch) -> None:
    monkeypatch.setattr(ais_bench.InferSession, "__init__", never)
    with pytest.raises(ValueError, match="is no NPU for ais_bench: it takes the numbers 0 to 255"):
        OmSession(om, number)


@both_releases
def test_a_device_that_is_not_there(om: Path, npus, ais_bench) -> None:
    with pytest.raises(ValueError, match=r"on NPU 9: \[107001\].*npu-smi info.*ASCEND_RT_VISIBLE_DEVICES"):
        IMAGE_ENCODER_OM(om, "npu:9")


@both_releases
def test_the_npu_of_the_devices_number(om: Path, npus, ais_bench, monkeypatch) -> None:
    asked = []
    real = ais_bench.InferSession.__init__
    spy = lambda self, *arguments: (asked.append(arguments), real(self, *arguments))[1]  # noqa: E731
    monkeypatch.setattr(ais_bench.InferSession, "__init__", spy)
    IMAGE_ENCODER_OM(om, "npu:3")
    assert asked == [(3, str(om))]


def test_without_ais_bench(om: Path) -> None:
    with pytest.raises(DeviceUnavailable, match=r"eva_vit_g\.om needs ais_bench, aclruntime and CANN"):
        IMAGE_ENCODER_OM(om, "cpu")


@pytest.mark.parametrize("inside", ["blip2", "default"])
def test_an_om_with_the_other_ln_vision_is_refused(inside: str, om: Path, tmp_path: Path, ais_bench) -> None:
    write_om(om, ln_vision=inside)
    right, wrong = (tmp_path / "blip2.pth", None) if inside == "blip2" else (None, tmp_path / "blip2.pth")
    IMAGE_ENCODER_OM(om, "cpu", ln_vision=right)
    with pytest.raises(ValueError, match=rf"ln_vision={inside}, and this model needs .*eva_vit_g\w*\.om, or export"):
        IMAGE_ENCODER_OM(om, "cpu", ln_vision=wrong)
