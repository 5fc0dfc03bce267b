"""How a process ends that has an .om loaded, beside what torch_npu does at the end; forks, and no standard output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ais_bench_stand_in import STAND_INS
from om_files import TOKENS, WIDTH, write_om
from port_package import OVERLAY

CHILD = """
import atexit, os, sys
sys.path[:0] = [{port!r}, {stand_ins!r}]
import acl
acl.init()  # as torch_npu, which ends ACL in its exit handler
acl.rt.set_device(0)
atexit.register(acl.finalize)
import port_package, torch
from port.models.image_encoder import IMAGE_ENCODER_OM
encoder = IMAGE_ENCODER_OM(sys.argv[1], "cpu")
features = encoder(torch.zeros(2, 3, 8, 8))
"""


@pytest.fixture
def om(tmp_path: Path) -> Path:
    return write_om(tmp_path / "eva_vit_g.om")[0]


def child(code: str, om: Path, release: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "AIS_BENCH_STAND_IN": release, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    start = CHILD.format(port=str(OVERLAY.parent / "tests" / "port"), stand_ins=str(STAND_INS))
    command = [sys.executable, "-c", start + code, str(om)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize("release", [pytest.param("old", marks=pytest.mark.slow), "new"])
@pytest.mark.parametrize("end", ["", "del encoder", "encoder.close()"])
def test_the_process_ends_cleanly(end: str, release: str, om: Path) -> None:
    """The model leaves the device before torch_npu ends ACL; the stand-in crashes the process otherwise."""
    done = child(f"print(tuple(features.shape))\n{end}", om, release)
    assert (done.returncode, done.stdout) == (0, f"(2, {TOKENS}, {WIDTH})\n"), done.stderr
    for noise in ("[ERROR] acl init failed", "[INFO] unload model success"):  # not among the command's answers
        assert noise in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_ends_the_process_as_always(om: Path) -> None:
    done = child("raise KeyError('mine')", om, "old")  # whose session a traceback might keep alive
    assert done.returncode == 1
    assert "KeyError: 'mine'" in done.stderr
    assert "stand-in" not in done.stderr


def test_a_forked_child_is_told_and_leaves_the_device_alone(om: Path) -> None:
    code = """
if os.fork() == 0:
    try:
        encoder.encode(torch.zeros(2, 3, 8, 8))
    except RuntimeError as error:
        print("child:", error, flush=True)
    encoder.close()
    os._exit(0)
os.wait()
print("parent:", tuple(encoder.encode(torch.ones(1, 3, 8, 8)).shape))
"""
    done = child(code, om, "new")
    assert done.returncode == 0, done.stderr
    assert re.search(r"child: .*was loaded in another process", done.stdout)
    assert f"parent: (1, {TOKENS}, {WIDTH})" in done.stdout


def test_without_standard_output(om: Path) -> None:
    """A service may have closed it."""
    code = "os.close(1); IMAGE_ENCODER_OM(sys.argv[1], 'cpu').encode(torch.zeros(1, 3, 8, 8)); os.write(2, b'fine')"
    assert child(code, om, "new").stderr.endswith("fine")
