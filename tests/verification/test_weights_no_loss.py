"""Nothing that a user may want is lost: not by a rename, not by going on from it, not by a half file's name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from downloading import CONTENT, get, leftovers, plain_network, server, target
from hostile_server import HostileServer
from weights_doctor import CKPT, MIRRORS, SHARD, VICUNA, Doctor, doctor
from weights_project import ROOT, Project, bad, project, run

from overlaykit.errors import TryAgain
from verification.weightfiles import command, space
from verification.weightfiles.recognise import recognise

__all__ = ["doctor", "plain_network", "project", "server", "target"]  # fixtures


def test_a_file_that_appears_during_the_download_is_left_alone(server: HostileServer, target: Path) -> None:
    """A browser finishes first."""
    served = server.serve("/f", CONTENT)

    def finish_first() -> None:
        target.write_bytes(b"theirs")

    served.after = finish_first
    with pytest.raises(TryAgain, match="appeared meanwhile") as caught:
        get(target, server.url + "/f")
    assert "is whole, in file.pth.part" in caught.value.why
    assert target.read_bytes() == b"theirs"
    assert target.with_name("file.pth.part").read_bytes() == CONTENT


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("theirs", [b"x" * 1500, b"x" * 3000, CONTENT + b"more"])
def test_a_part_that_is_not_ours_is_kept(server: HostileServer, target: Path, theirs: bytes, known: bool) -> None:
    """Other programs use NAME.part as well."""
    server.serve("/f", CONTENT)
    target.parent.mkdir()
    target.with_name("file.pth.part").write_bytes(theirs)
    get(target, server.url + "/f", known=known)
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == {"file.pth", "file.pth.replaced"}
    kept = target.with_name("file.pth.replaced").read_bytes()
    assert kept.startswith(theirs)


def test_a_part_that_is_a_link_is_not_written_through(server: HostileServer, target: Path) -> None:
    server.serve("/f", CONTENT)
    target.parent.mkdir()
    target.with_name("theirs").write_bytes(b"theirs")
    target.with_name("file.pth.part").symlink_to("theirs")
    with pytest.raises(OSError, match="symbolic links"):
        get(target, server.url + "/f")
    assert target.with_name("theirs").read_bytes() == b"theirs"


def test_a_cut_off_file_that_does_not_fit_is_kept(doctor: Doctor) -> None:
    """Somebody's own training under the name, cut off by a full disk; with a .part.json of an earlier run."""
    doctor.project.copy()
    mine = b"PK\x03\x04" + b"mine" * 1000
    doctor.spoil(CKPT, mine)
    (doctor.models / f"{CKPT}.part.json").write_text('{"url": "http://a/b", "validator": null, "sha256": null}')
    ran = doctor.run("--only", "ckpt")
    assert ran.code == 0
    kept = doctor.models / f"{CKPT}.replaced"
    assert kept.read_bytes().startswith(mine)
    assert f"{kept} is what was in" in ran.err


@pytest.mark.parametrize("longer", [True, False])
def test_a_cut_off_file_that_cannot_be_continued_is_renamed(doctor: Doctor, longer: bool) -> None:
    """It is longer than the published one; or it has a second name, which would change with it."""
    doctor.project.copy()
    content = b"PK\x03\x04" + bytes(doctor.project.facts["ckpt"]["bytes"] if longer else 1000)
    doctor.spoil(CKPT, content)
    backup = doctor.models / "backup"
    if not longer:
        os.link(doctor.models / CKPT, backup)
    assert doctor.run("--only", "ckpt").code == 0
    assert (doctor.models / f"{CKPT}.replaced").read_bytes() == content
    assert longer or backup.read_bytes() == content


def test_a_page_that_was_replaced_meanwhile_is_not_deleted(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checking 13 GB takes minutes, in which a person or another run may put the right file there."""
    doctor.project.copy()
    doctor.spoil(CKPT, b"<!DOCTYPE html>")
    right = (doctor.project.tiny / CKPT).read_bytes()

    def replace(missing: object) -> str:
        doctor.spoil(CKPT, right)
        return ""

    monkeypatch.setattr(command, "check_disk", replace)
    ran = doctor.run("--only", "ckpt")
    assert (doctor.models / CKPT).read_bytes() == right
    assert ran.bad == {}
    assert "appeared meanwhile" in ran.report["troubles"][0]
    assert not doctor.asked(MIRRORS[0])


def test_a_link_named_replaced_is_not_replaced(doctor: Doctor) -> None:
    doctor.project.copy()
    doctor.spoil(CKPT, b"my own training")
    taken = doctor.models / f"{CKPT}.replaced"
    taken.symlink_to("/a/disk/that/is/not/mounted")
    assert doctor.run("--only", "ckpt").code == 0
    assert taken.is_symlink()
    assert (doctor.models / f"{CKPT}.replaced2").read_bytes() == b"my own training"


@pytest.mark.parametrize(("name", "key"), [(CKPT, "ckpt"), ("weights", "llama_model")])
def test_a_link_to_a_disk_that_is_not_mounted(doctor: Doctor, name: str, key: str) -> None:
    link = doctor.models / name
    link.parent.mkdir(parents=True)
    link.symlink_to("/a/disk/that/is/not/mounted")
    ran = doctor.run("--only", key)
    assert ran.code == 5
    assert "is that disk mounted" in ran.report["troubles"][0]
    assert os.readlink(link) == "/a/disk/that/is/not/mounted"
    assert not doctor.asked(MIRRORS[0])


def test_a_folder_in_a_files_place(doctor: Doctor) -> None:
    (doctor.models / CKPT).mkdir(parents=True)
    ran = doctor.run("--only", "ckpt")
    assert ran.code == 1
    assert "a folder, where a file should be" in ran.report["troubles"][0]


def test_what_cannot_be_looked_into_is_neither_wrong_nor_replaced(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor.project.copy()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    for name in ("check_file", "check_folder"):
        monkeypatch.setattr(command, name, refuse)
    ran = doctor.run("--only", "ckpt", "llama_model")
    assert ran.code == 5
    assert ran.bad == {"prerained_minigpt4_7b.pth": "unreadable", "weights": "unreadable"}
    assert len(ran.report["troubles"]) == 2
    assert not list(doctor.models.rglob("*.replaced"))


def test_pins_that_cannot_be_read_are_not_forgotten(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A comma too many, after an entry was deleted by hand: all other files would be accepted as they are."""
    import verify

    models = project.copy()
    assert run(project, models, "--only", "llama_model", capsys=capsys)["exit_code"] == 0
    pins = models / "weights" / "weights-pins.json"
    spoilt = pins.read_text().replace("}\n  }", "},\n  }")
    pins.write_text(spoilt)
    common = ["weights", "--project", str(project.folder), "--model-path", str(models), "--only", "llama_model"]
    assert verify.main(common) == 5
    assert f"{pins} is not readable" in capsys.readouterr().err
    assert pins.read_text() == spoilt
    pins.unlink()
    assert run(project, models, "--only", "llama_model", capsys=capsys)["exit_code"] == 0


def test_a_part_counts_as_room_that_is_taken_already(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard was cut off by a full disk: what is still missing of it fits."""
    path = doctor.models / "weights" / SHARD.format(1)
    path.parent.mkdir(parents=True)
    path.with_name(path.name + ".part").write_bytes(bytes(7_000_000))

    class Usage:
        free = space.RESERVE + 2_000_000

    monkeypatch.setattr(space.shutil, "disk_usage", lambda folder: Usage)
    assert doctor.run("--only", "llama_model").code == 0


def test_a_spoilt_shard_takes_its_room_again(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.run("--only", "llama_model").code == 0
    for number in (1, 2):
        path = doctor.models / "weights" / SHARD.format(number)
        path.write_bytes(path.read_bytes()[:-5])

    class Usage:
        free = space.RESERVE + 2_000_000

    monkeypatch.setattr(space.shutil, "disk_usage", lambda folder: Usage)
    ran = doctor.run("--only", "llama_model")
    assert ran.code == 5
    assert "The disk is too small" in ran.err
    assert len(doctor.asked(VICUNA + SHARD.format(1))) == 1


def test_safetensors_without_shapes(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    models = project.copy()
    header = b'{"a": {"data_offsets": [0, 8]}}'.ljust(64)
    (models / "weights" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    found = bad(run(project, models, "--only", "llama_model", capsys=capsys))["model.safetensors"]
    assert "does not say the shapes" in found["what"]


def test_a_header_as_long_as_the_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((1 << 40).to_bytes(8, "little"))
        file.truncate(200_000_000)
    tracemalloc.start()
    found = recognise(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert found.kind == "truncated"
    assert peak < 1_000_000


def test_a_safetensors_header_as_long_as_gzips_magic_is_no_archive(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}).encode().ljust(0x8B1F)
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert recognise(path) is None


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_nobody_reads_the_output(project: Project, closed: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    models = project.folder / "none"
    arguments = ["verify.py", "weights", "--project", str(project.folder), "--model-path", str(models), "--only"]
    arguments += ["ckpt", *(["--download"] if closed == "stderr" else [])]  # nobody answers, which stderr would say
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writing}
    out, err = streams["stdout"], streams["stderr"]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, timeout=120, stdout=out, stderr=err)
    os.close(writing)
    assert done.returncode == 141
    assert not done.stderr or b"Traceback" not in done.stderr
