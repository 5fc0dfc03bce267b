"""onnx_model_export.py killed at every moment, and two runs at the same time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

from onnx_exports import EXPORTED, OVERLAY, listing

# One process imports everything, which takes seconds, and forks before torch or onnxruntime start a thread. A child
# exports and kills itself at the n-th change of a file; the next child finds a whole export there, and exports.
KILLED_EVERYWHERE = """
import hashlib, os, re, signal, sys
sys.path.insert(0, sys.argv[1])
import onnx, onnx_model_export
from minigpt4.export import onnx_file, parity
flags, folder = sys.argv[2:], sys.argv[3]

def child(work):
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(work())
    return os.waitpid(pid, 0)[1]

def export(*more):
    return onnx_model_export.main([*flags, *more])

def killed(count):
    parity.measure = lambda *rest: {}  # changes no file, and takes long
    left = [count]
    def hook(event, args):
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            if folder in str(args[0]) or event in ("os.remove", "os.rmdir"):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    return export("--dtype", ("mixed", "fp32")[count % 2], "--force")

def whole():
    path = onnx_file.Path(folder, "eva_vit_g.onnx")
    data = onnx_file.weights_file(path)
    onnx.load(str(path))
    return int(onnx_file.sha256(data)[:8] != data.name.split(".")[1])

onnx_model_export.load(onnx_model_export.find_weights(onnx_model_export._parser().parse_args(flags)))  # imports more
assert child(export) == 0
for count in range(1, 99):
    status = child(lambda: killed(count))
    assert child(whole) == 0, count
    if status != signal.SIGKILL:
        assert status == 0, status
        break
print(count)
assert child(export) == 0
"""


def test_a_kill_at_every_change_of_a_file(vit_files, picture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    flags = ["--onnx-model-dir", str(folder), "--image-path", str(picture), "--image-size", "56"]
    flags += ["--vit-weights", str(vit_files[0]), "--ln-vision", str(vit_files[1])]
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(OVERLAY), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 12  # folder, lock, weights, graph, record, renames, removals
    assert listing(folder) == EXPORTED


def test_nothing_takes_its_name_before_it_is_on_the_disk(run, part, monkeypatch, tmp_path: Path) -> None:
    """The disk and the proof work at the same time, and the slower one decides."""
    proven, fsync, measure, publish = threading.Event(), os.fsync, part("parity").measure, part("onnx_file").publish
    order = []

    def slow(file: int) -> None:
        if threading.current_thread() is threading.main_thread():  # the graph and the record, which are small
            return fsync(file)
        order.append("the disk waits for the proof" if proven.wait(60) else "the proof waits for the disk")
        fsync(file)
        order.append("on the disk")
        return None

    def prove(*args):
        found = measure(*args)
        proven.set()
        return found

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(part("parity"), "measure", prove)
    monkeypatch.setattr(part("onnx_file"), "publish", lambda *args: (order.append("published"), publish(*args)))
    assert run() == 0
    assert order == ["the disk waits for the proof", "on the disk", "published"]
    assert listing(tmp_path / "onnx") == EXPORTED


def test_a_disk_that_fails_behind_the_proof(run, monkeypatch, tmp_path: Path, capsys) -> None:
    assert run() == 0
    before = {path: path.read_bytes() for path in (tmp_path / "onnx").iterdir()}
    capsys.readouterr()

    def broken(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    assert run("--dtype", "mixed") == 5
    assert "Input/output error. Nothing was changed there." in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "onnx").iterdir()} == before


def test_a_second_run_at_the_same_time_is_refused(run, part, tmp_path: Path, capsys) -> None:
    """And leaves the first one's files alone; another name is free."""
    with part("onnx_file").unproven_folder(tmp_path / "onnx", "eva_vit_g") as work:
        (work / "first").touch()
        assert run() == 5
        assert "another export writes eva_vit_g there just now; wait for it" in capsys.readouterr().err
        assert (work / "first").exists()
        assert run("--name", "other") == 0
    assert run() == 0
    assert not list((tmp_path / "onnx").glob("*.unproven"))


def test_a_file_system_without_locks(run, part, monkeypatch) -> None:
    def no_locks(*args) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(part("onnx_file").fcntl, "flock", no_locks)
    assert run() == 0
