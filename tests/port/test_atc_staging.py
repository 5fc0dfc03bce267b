"""The layout of the weights for ATC, which every release reads right, with a strict stand-in for ATC."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import onnx
import pytest
from atc_files import SOC, computes, program, run_atc, write_onnx
from om_files import SIZE
from port.export import atc_staging
from port.export.atc_staging import CannotConvert

LAYOUTS = ["one file", "each its own", ""]


@pytest.mark.parametrize("outside", LAYOUTS)
@pytest.mark.parametrize("release", ["", "old"])
def test_every_layout_is_read_by_every_release(outside: str, release: str, staged, atc_env) -> None:
    """Older releases multiply offsets by 4096; without one there is nothing to multiply."""
    model, folder, weights = staged(outside)
    finished = run_atc(model, folder, atc_env, release, v2=not release)
    assert finished.good, finished.lines
    computes(folder / "out" / "eva.om", weights)


def test_an_older_release_misreads_the_model_as_it_was_exported(tmp_path: Path, atc_env) -> None:
    """The stand-in shows the fault that the layout is for."""
    write_onnx(tmp_path / "eva.onnx")
    command = [program(tmp_path / "bin"), "--framework=5", "--model=eva.onnx", "--output=eva", f"--soc_version={SOC}",
               f"--input_shape=input:1,3,{SIZE},{SIZE}"]  # fmt: skip
    for release, code in (("", 0), ("old", 255)):
        atc_env["ATC_STAND_IN"] = release
        done = subprocess.run(command, cwd=tmp_path, env=atc_env, capture_output=True, text=True)
        assert done.returncode == code, done.stdout
    assert "past its end" in done.stdout


def test_weights_have_a_file_each_and_say_where_and_how_long(staged) -> None:
    _, folder, _ = staged()
    proto = onnx.load(str(folder / "eva.onnx"), load_external_data=False)
    outside = [tensor for tensor in proto.graph.initializer if tensor.external_data]
    assert len(outside) == 2
    for tensor in outside:
        said = {entry.key: entry.value for entry in tensor.external_data}
        assert set(said) == {"location", "length"}
        assert (folder / said["location"]).stat().st_size == int(said["length"])


def test_weights_with_a_file_of_their_own_are_linked(staged, tmp_path: Path) -> None:
    model, folder, _ = staged("each its own")
    assert atc_staging.bytes_to_copy(model, folder) == 0
    for file in folder.glob("*.weight"):
        assert file.stat().st_nlink == 2


def test_without_links_they_are_copied(monkeypatch, staged, atc_env) -> None:
    def refused(*_):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    model, folder, weights = staged("each its own")
    assert run_atc(model, folder, atc_env).good
    computes(folder / "out" / "eva.om", weights)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    write_onnx(tmp_path / "eva.onnx")
    model = atc_staging.read_model(tmp_path / "eva.onnx")
    (tmp_path / "work").mkdir()
    counts: list[int] = []
    atc_staging.stage(model, tmp_path / "work", "eva", counts.append)
    assert sum(counts) == model.weights_bytes == atc_staging.bytes_to_copy(model, tmp_path / "work")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "cut off"),
    ],
)
def test_weights_that_are_not_there(spoil, says: str, tmp_path: Path) -> None:
    write_onnx(tmp_path / "eva.onnx")
    spoil(next(tmp_path.glob("*.weights")))
    with pytest.raises(CannotConvert, match=says) as caught:
        atc_staging.read_model(tmp_path / "eva.onnx")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("location", ["/etc/passwd", "../outside", "a/../../outside", ""])
def test_weights_outside_of_the_folder_are_refused(location: str, tmp_path: Path) -> None:
    write_onnx(tmp_path / "eva.onnx")
    proto = onnx.load(str(tmp_path / "eva.onnx"), load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = location if entry.key == "location" else entry.value
    (tmp_path / "eva.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CannotConvert, match="not a file in the model's folder"):
        atc_staging.read_model(tmp_path / "eva.onnx")


@pytest.mark.parametrize("content", [b"", b"not an ONNX model"])
def test_a_file_that_is_no_model(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "eva.onnx").write_bytes(content)
    with pytest.raises(CannotConvert):
        atc_staging.read_model(tmp_path / "eva.onnx")
