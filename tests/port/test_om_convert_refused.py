"""om_model_convert.py where ATC fails, the OM is wrong, the command line is, or the run is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from atc_files import gone, interruptible, until, write_onnx
from om_conversions import OVERLAY, RECORD, files, record
from port.models.encoder_record import write_record


def test_a_failure_is_explained_and_the_earlier_om_stays(convert, agreeing, tmp_path: Path, capfd) -> None:
    assert convert() == 0
    om = tmp_path / "om" / "eva_vit_g.om"
    before = om.read_bytes(), record(om)
    assert convert(atc="kernels") == 1
    said = capfd.readouterr().err
    assert "no kernel of MatMulV2" in said
    assert f"All of its output: {om}.log" in said
    assert (om.read_bytes(), record(om)) == before
    assert files(om.parent) == ["eva_vit_g.om", "eva_vit_g.om.json", "eva_vit_g.om.log"]


@pytest.mark.parametrize("fault", ["no_om", "unsure"])
def test_a_success_without_an_om_is_none(fault: str, convert, tmp_path: Path, capfd) -> None:
    assert convert(atc=fault) == 1
    assert "ATC made no OM" in capfd.readouterr().err
    assert files(tmp_path / "om") == ["eva_vit_g.om.log"]


@pytest.mark.parametrize(("spoiled", "says"), [("wrong", "rel-L2 5.00e-01"), ("nan", "NaN or infinite")])
def test_a_wrong_om_never_has_the_name(spoiled: str, says: str, convert, in_process, tmp_path: Path, capfd) -> None:
    om = tmp_path / "om" / "eva_vit_g.om"
    om.parent.mkdir()
    om.write_bytes(b"an earlier one")
    assert convert("--precision-mode", "fp16", atc=spoiled) == 1
    said = capfd.readouterr().err
    assert says in said
    assert "Convert it with --precision-mode origin" in said
    assert om.read_bytes() == b"an earlier one"
    failed = om.with_name("eva_vit_g.failed.om")
    assert record(failed)["gate"]["status"] == "failed"
    assert record(failed)["file"] == failed.name


def test_an_om_that_crashes_its_reader_does_not_crash_us(convert, tmp_path: Path, monkeypatch, capfd) -> None:
    crashing = tmp_path / "crashing" / "ais_bench" / "infer"
    crashing.mkdir(parents=True)
    (crashing / "interface.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    for package in (crashing, crashing.parent):
        (package / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'crashing'}:{os.environ['PYTHONPATH']}")
    assert convert() == 1
    assert "this OM crashes who uses it" in capfd.readouterr().out
    assert "ended with code -11" in record(tmp_path / "om" / "eva_vit_g.failed.om")["gate"]["reason"]
    assert files(tmp_path / "om") == ["eva_vit_g.failed.om", "eva_vit_g.failed.om.json", "eva_vit_g.om.log"]


def test_ended_while_it_compares_it_leaves_nothing(cann_machine, onnx_model: Path, tmp_path: Path, monkeypatch) -> None:
    slow_package = tmp_path / "slow" / "ais_bench"
    slow_package.mkdir(parents=True)
    (slow_package / "__init__.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'pids')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'slow'}:{os.environ['PYTHONPATH']}")
    process = start(onnx_model, tmp_path / "om")
    pids = tmp_path / "pids"
    until(lambda: pids.exists() and pids.read_text(), 60)
    process.terminate()
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 143, said
    assert files(tmp_path / "om") == ["eva_vit_g.om.log"]
    until(lambda: gone(int(pids.read_text())))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--soc-version", "Ascend310P3"], "not a processor of this port"),
        (["--batch-sizes", "1,2"], "fixed batch of 1"),
        (["--device", "3"], "this machine has 1 NPUs"),
        (["--image-path", "none.jpg"], "none.jpg does not exist"),
    ],
)
def test_refused(flags: list[str], says: str, convert, tmp_path: Path, capfd) -> None:
    assert convert(*flags) == 2
    assert says in capfd.readouterr().err
    assert not (tmp_path / "om" / "eva_vit_g.om").exists()


def test_a_graph_that_atc_would_not_take(convert, onnx_model: Path, tmp_path: Path, capfd) -> None:
    import onnx

    proto = onnx.load(str(onnx_model), load_external_data=False)
    proto.graph.node[0].op_type = "NonZero"
    onnx_model.write_bytes(proto.SerializeToString())
    onnx_model.with_name(onnx_model.name + ".json").unlink()
    assert convert() == 1
    assert "ATC would not take this graph" in capfd.readouterr().err


def test_a_record_of_another_file(convert, onnx_model: Path, capfd) -> None:
    write_record(onnx_model, {"sha256": "0" * 64, **RECORD})
    assert convert() == 2
    assert "is not the file that eva_vit_g.onnx.json describes" in capfd.readouterr().err


def test_a_precision_mode_that_is_none(converter, onnx_model: Path, tmp_path: Path) -> None:
    """By the converter line argparse refuses it; onnx_model_export.py passes it on."""
    from overlay_command import Refused
    from port.export.atc import PRECISION_MODES

    assert tuple(PRECISION_MODES) == converter.MODES
    with pytest.raises(Refused, match="it is one of origin") as caught:
        converter.convert(onnx_model, tmp_path / "om", "Ascend910B3", "float8", print_only=True)
    assert caught.value.code == 2


def test_nothing_to_convert(converter, capfd) -> None:
    assert converter.main([]) == 2
    assert "--onnx-model and --om-dir" in capfd.readouterr().err


def test_help_is_quick_and_complete() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(OVERLAY / "om_model_convert.py"), "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Exit codes:" in done.stdout
    assert not any(line.rpartition("|")[2].strip() in ("torch", "onnx", "numpy") for line in done.stderr.splitlines())


# Paths


@pytest.mark.parametrize("folder", ["with space", "模型", "it's $HOME"])
def test_the_onnx_model_may_lie_anywhere(folder: str, convert, agreeing, tmp_path: Path) -> None:
    write_onnx(tmp_path / folder / "eva_vit_g.onnx", **RECORD)
    assert convert("--soc-version", "910B3", onnx=tmp_path / folder / "eva_vit_g.onnx") == 0


@pytest.mark.parametrize("folder", ["with space", "模型", "a+b"])
def test_the_oms_folder_must_be_plain(folder: str, convert, tmp_path: Path, capfd) -> None:
    """ATC and newer releases of ais_bench refuse it, after minutes."""
    assert convert("--om-dir", str(tmp_path / folder)) == 2
    assert "Give another folder" in capfd.readouterr().err
    assert not (tmp_path / folder).exists()


def test_the_models_name_must_be_plain(convert, tmp_path: Path, capfd) -> None:
    write_onnx(tmp_path / "onnx" / "eva vit.onnx", **RECORD)
    assert convert(onnx=tmp_path / "onnx" / "eva vit.onnx") == 2
    assert "another --name" in capfd.readouterr().err


def test_symbolic_links_are_followed(convert, agreeing, onnx_model: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    for file in onnx_model.parent.iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    (tmp_path / "real").mkdir()
    (tmp_path / "om").symlink_to(tmp_path / "real")
    assert convert(onnx=tmp_path / "links" / onnx_model.name) == 0
    assert "eva_vit_g.om" in files(tmp_path / "real")


def test_a_folder_that_cannot_be_written(convert, monkeypatch, capfd) -> None:
    """Stood in for: root, as whom containers run tests, may write anywhere."""
    mkdir = Path.mkdir

    def refused(path: Path, *args, **options) -> None:
        if path.suffix == ".converting":
            raise PermissionError(13, "Permission denied")
        mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refused)
    assert convert() == 2
    assert "nothing can be written into" in capfd.readouterr().err


def test_a_file_where_the_folder_should_be(convert, tmp_path: Path, capfd) -> None:
    (tmp_path / "om").write_text("")
    assert convert() == 2
    assert "nothing can be written" in capfd.readouterr().err


# Two at once, and one that is ended


def start(onnx_model: Path, om_dir: Path) -> subprocess.Popen:
    """The command, in a process of its own."""
    argv = [str(OVERLAY / "om_model_convert.py"), "--onnx-model", str(onnx_model), "--om-dir", str(om_dir)]
    return subprocess.Popen(
        [sys.executable, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=interruptible
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(number, cann_machine, onnx_model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ATC_STAND_IN", "slow")
    process = start(onnx_model, tmp_path / "om")
    pids = tmp_path / "pids"
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    assert "eva_vit_g.converting" in files(tmp_path / "om")
    process.send_signal(number)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == (130 if number == signal.SIGINT else 143), said
    assert files(tmp_path / "om") == ["eva_vit_g.om.log"]
    for pid in pids.read_text().split():
        until(lambda pid=pid: gone(int(pid)))


def test_two_runs_do_not_mix_and_a_killed_ones_rest_goes(
    convert, agreeing, onnx_model: Path, tmp_path: Path, monkeypatch, capfd
) -> None:
    monkeypatch.setenv("ATC_STAND_IN", "slow")
    process = start(onnx_model, tmp_path / "om")
    pids = tmp_path / "pids"
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    assert convert() == 5
    assert "is being made by another run" in capfd.readouterr().err
    process.kill()
    process.communicate()
    for pid in pids.read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    assert "eva_vit_g.converting" in files(tmp_path / "om")
    assert convert() == 0
    assert files(tmp_path / "om") == ["eva_vit_g.om", "eva_vit_g.om.json", "eva_vit_g.om.log"]
