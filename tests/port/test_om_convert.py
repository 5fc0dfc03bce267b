"""om_model_convert.py as a user runs it, with stand-ins for CANN's atc, npu-smi and ais_bench."""

from __future__ import annotations

import importlib
import os
import shlex
import stat
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from atc_files import TOLERANCE, write_onnx
from om_conversions import RECORD, files, npus, record
from om_files import SIZE, features
from PIL import Image


def test_converts_and_compares(convert, tmp_path: Path, monkeypatch, capfd) -> None:
    """With an old ais_bench; the other tests have a new one."""
    monkeypatch.setenv("AIS_BENCH_STAND_IN", "old")
    assert convert() == 0
    om = tmp_path / "om" / "eva_vit_g.om"
    assert files(om.parent) == ["eva_vit_g.om", "eva_vit_g.om.json", "eva_vit_g.om.log"]
    assert stat.S_IMODE(om.stat().st_mode) == 0o640
    said, made = capfd.readouterr().out, record(om)
    assert "ATC run success" in said
    assert "two runs agree bit for bit" in said
    assert f"wrote {om}" in said
    assert made["gate"]["status"] == "passed"
    assert 0 <= made["gate"]["rel_l2"] <= made["gate"]["bound"] == 1e-2
    assert {key: made[key] for key in ("kind", "batches", "image_size", "ln_vision", "soc_version", "cann")} == {
        "kind": "om", "batches": [1], "image_size": SIZE, "ln_vision": "blip2", "soc_version": "Ascend910B3",
        "cann": "8.1.RC1",
    }  # fmt: skip
    assert (made["bytes"], made["precision_mode"]) == (om.stat().st_size, "origin")
    assert made["onnx"]["precision"] == "mixed"


def test_a_picture_is_compared_beside_noise(convert, in_process, tmp_path: Path, capfd) -> None:
    Image.new("RGB", (30, 20), (200, 30, 90)).save(tmp_path / "red.png")
    assert convert("--image-path", str(tmp_path / "red.png")) == 0
    said = capfd.readouterr().out
    assert "red.png, batch 1: rel-L2" in said
    assert "random 1, batch 1: rel-L2" in said


def test_every_batch_size_is_compared(convert, in_process, tmp_path: Path, capfd) -> None:
    path = tmp_path / "onnx" / "many.onnx"
    weights = write_onnx(path, None, **{**RECORD, "batches": [1, 2, 4]})
    assert convert(onnx=path) == 0
    said = capfd.readouterr().out
    assert [f"batch {n}: rel-L2" in said for n in (1, 2, 4)] == [True] * 3
    assert "--dynamic_batch_size=1,2,4" in (tmp_path / "om" / "many.om.log").read_text()
    assert record(tmp_path / "om" / "many.om")["batches"] == [1, 2, 4]
    images = np.random.default_rng(1).standard_normal((4, 3, SIZE, SIZE), np.float32)
    got = onnxruntime.InferenceSession((tmp_path / "om" / "many.om").read_bytes()).run(None, {"input": images})[0]
    assert np.abs(got - features(images, weights)).max() < TOLERANCE


def test_an_open_batch_without_a_record(convert, agreeing, tmp_path: Path, capfd) -> None:
    path = tmp_path / "onnx" / "open.onnx"
    write_onnx(path, None)
    assert convert(onnx=path) == 2
    assert "pass --batch-sizes" in capfd.readouterr().err
    assert convert("--batch-sizes", "1,3", onnx=path) == 0
    assert record(tmp_path / "om" / "open.om")["batches"] == [1, 3]


def test_a_second_run_replaces_the_first(convert, agreeing, tmp_path: Path) -> None:
    assert convert() == 0
    assert convert("--precision-mode", "mixed_float16") == 0
    om = tmp_path / "om" / "eva_vit_g.om"
    assert record(om)["precision_mode"] == "mixed_float16"
    assert files(om.parent) == ["eva_vit_g.om", "eva_vit_g.om.json", "eva_vit_g.om.log"]


def test_an_atc_without_the_newer_option(convert, agreeing, tmp_path: Path) -> None:
    assert convert(atc="old") == 0
    log = (tmp_path / "om" / "eva_vit_g.om.log").read_text()
    assert "--precision_mode=must_keep_origin_dtype" in log
    assert "precision_mode_v2" not in log


def test_an_om_that_is_called_after_its_host(convert, agreeing, tmp_path: Path) -> None:
    assert convert(atc="suffix") == 0
    assert (tmp_path / "om" / "eva_vit_g.om").is_file()


def test_an_fp32_model_gets_a_mode_that_takes_its_conv(convert, agreeing, tmp_path: Path, capfd) -> None:
    """The stand-in refuses to keep a float32 Conv, as it is documented."""
    path = tmp_path / "onnx" / "full.onnx"
    for entries in ({}, {**RECORD, "precision": "fp32"}):  # the types of the weights say it, too
        write_onnx(path, kind=np.float32, **entries)
        assert convert(onnx=path) == 0
        assert "float32 Conv" not in capfd.readouterr().out
        assert record(tmp_path / "om" / "full.om")["precision_mode"] == "mixed_float16"
    assert convert("--precision-mode", "origin", onnx=path) == 1
    said = capfd.readouterr()
    assert "a float32 Conv not supported then; if ATC fails, leave the option out" in said.out
    assert "Conv2D does not run on this processor" in said.err


def test_bfloat16_has_its_own_bound(convert, in_process, tmp_path: Path) -> None:
    assert convert("--precision-mode", "mixed_bfloat16") == 0
    assert record(tmp_path / "om" / "eva_vit_g.om")["gate"]["bound"] == 2e-2


# Where something is missing


def test_without_cann_the_command_is_printed(
    convert, converter, monkeypatch, tmp_path: Path, onnx_model: Path, capfd
) -> None:
    monkeypatch.setattr(importlib.import_module("minigpt4.export.atc_machine"), "find_cann", lambda: None)
    assert convert() == 5
    said = capfd.readouterr()
    assert "CANN was not found here, so nothing was run" in said.err
    assert f"cd {onnx_model.parent} && atc --framework=5 --model=eva_vit_g.onnx" in said.out
    assert f'--output={tmp_path}/om/eva_vit_g --soc_version=Ascend910B3 --input_shape="input:1,3,8,8"' in said.out
    again = next(line for line in said.out.splitlines() if line.startswith("python om_model_convert.py"))
    assert "--soc-version Ascend910B3 --precision-mode origin" in again
    assert not (tmp_path / "om").exists()


def test_the_printed_command_is_this_one(convert, agreeing, converter, monkeypatch, tmp_path: Path, capfd) -> None:
    """What is printed for another machine, run there, makes the OM: all that was said is in it."""
    path = tmp_path / "onnx it's" / "open.onnx"
    write_onnx(path, None)
    assert convert("--print-only", "--batch-sizes", "1,3", onnx=path) == 0
    said = capfd.readouterr().out
    assert "Nothing was run." in said
    again = next(line for line in said.splitlines() if line.startswith("python om_model_convert.py"))
    assert converter.main(shlex.split(again)[2:]) == 0
    assert record(tmp_path / "om" / "open.om")["batches"] == [1, 3]


def test_an_environment_that_is_not_sourced(convert, agreeing, cann_machine: Path, monkeypatch, capfd) -> None:
    """Refused where ATC does not start; else only said, for `atc` sets part of it itself, and layouts differ."""
    monkeypatch.delenv("ASCEND_OPP_PATH")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/other/lib64")
    advice = f"`source {cann_machine.parent}/set_env.sh`"
    assert convert(atc="library") == 5
    said = capfd.readouterr().err
    assert f"ATC does not start: CANN is in {cann_machine}" in said
    assert advice in said
    assert convert() == 0
    assert f"LD_LIBRARY_PATH, ASCEND_OPP_PATH of this shell do not name {cann_machine}" in capfd.readouterr().out


def test_a_sourced_environment_is_not_remarked_on(convert, agreeing, capfd) -> None:
    assert convert() == 0
    assert "note:" not in capfd.readouterr().out


def test_without_an_npu_it_is_converted_and_not_compared(convert, tmp_path: Path, onnx_model: Path, capfd) -> None:
    npus(tmp_path, 0)
    assert convert("--soc-version", "Ascend910B4") == 5
    said, om = capfd.readouterr(), tmp_path / "om" / "eva_vit_g.om"
    assert f"wrote {om}" in said.out
    assert "was not compared with the ONNX model: there is no NPU here" in said.err
    assert f"python om_model_convert.py --check {om} --onnx-model {onnx_model}" in said.err
    assert record(om)["gate"] == {"status": "not run"}


def test_without_an_npu_the_processor_must_be_named(convert, tmp_path: Path, capfd) -> None:
    npus(tmp_path, 0)
    assert convert() == 5
    assert "--soc-version: Ascend910B1" in capfd.readouterr().err
    assert not (tmp_path / "om").exists()


def test_for_another_processor_than_this_ones(convert, tmp_path: Path, capfd) -> None:
    assert convert("--soc-version", "Ascend910_9391") == 5
    assert "this machine has Ascend910B3, and the OM is for Ascend910_9391" in capfd.readouterr().err
    assert record(tmp_path / "om" / "eva_vit_g.om")["soc_version"] == "Ascend910_9391"


@pytest.mark.parametrize("below", ["", f"linux/{os.uname().machine}"])
def test_devlib_serves_where_there_is_no_driver(below: str, convert, cann_machine: Path, tmp_path: Path, capfd) -> None:
    """The command sets it for ATC, and says so."""
    devlib = cann_machine / f"{os.uname().machine}-linux" / "devlib" / below
    devlib.mkdir(parents=True)
    npus(tmp_path, 0)
    assert convert("--soc-version", "Ascend910B3", atc="driverless") == 1  # there is no such library
    (devlib / "libascend_hal.so").write_text("")
    assert convert("--soc-version", "Ascend910B3", atc="driverless") == 5  # not compared
    said = capfd.readouterr()
    assert f"no NPU was found: ATC gets {devlib} for the libraries of a driver" in said.out
    assert (tmp_path / "om" / "eva_vit_g.om").is_file()
    npus(tmp_path, 1)
    assert convert("--soc-version", "Ascend910B3", atc="driverless") == 1  # the driver's own are wanted


def test_without_ais_bench_it_is_not_compared(convert, in_process, monkeypatch, tmp_path: Path, capfd) -> None:
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "ais_bench.infer.interface", None)
        assert convert() == 5
    assert "ais_bench" in capfd.readouterr().err
    assert record(tmp_path / "om" / "eva_vit_g.om")["gate"]["status"] == "not run"


def test_without_room(convert, tmp_path: Path, monkeypatch, converter, capfd) -> None:
    om_file = importlib.import_module("minigpt4.export.om_file")
    monkeypatch.setattr(om_file, "SPARE", 1 << 60)
    assert convert() == 5
    assert "GB are free" in capfd.readouterr().err
    assert files(tmp_path / "om") == []
