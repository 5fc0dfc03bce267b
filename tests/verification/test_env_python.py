"""The trial of torch in a child process, and what reading Python's packages must survive."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.verification.env_machines import MACHINES, Fake
from verification import env, env_python, env_trial
from verification.env_findings import Case, Finding
from verification.env_machine import read_machine
from verification.env_npu import check_npu
from verification.env_python import Trial, numbers, read_python, release, try_torch
from verification.env_shell import check_shell
from verification.env_source import Source
from verification.env_stack import Range, install, read_stack
from verification.overlay_modules import import_overlay
from verification.report import Outcome

PROJECT = Path(__file__).resolve().parents[2]
STACK = read_stack(PROJECT)
TORCH = """
class version: cuda = {cuda}
class cuda: device_count = staticmethod(lambda: 2)
float16, compiled_with_cxx11_abi = 1, lambda: True
"""
NPU = """
import torch
class npu: device_count = staticmethod(lambda: 8)
class Tensor:
    def npu(self): return self
    def __add__(self, other): return self
    def sum(self): return self
    def cpu(self): return {result}
torch.npu, torch.ones = npu, lambda *shape, dtype: Tensor()
"""


def trial(tmp_path: Path, torch: str, torch_npu: str | None = None, timeout: float = 20.0) -> Trial:
    """What happens with these as torch and torch_npu."""
    (tmp_path / "torch.py").write_text(torch)
    if torch_npu is not None:
        (tmp_path / "torch_npu.py").write_text(torch_npu)
    return try_torch(Source(Path("/"), {**os.environ, "PYTHONPATH": str(tmp_path)}), timeout)


def judged(tmp_path: Path, name: str, found: Trial) -> Finding:
    """One of the machines made of files, after this trial."""
    fake = Fake(tmp_path / "machine")
    MACHINES[name][0](fake)
    source, parts = Source(fake.root, fake.env), import_overlay(PROJECT / "overlay")
    machine = read_machine(source, parts, tmp_path)
    python = replace(read_python(source, STACK.packages), trial=found)
    return next(env_trial.check_trial(Case(source, machine, python, STACK, parts("export.cann").SOC_VERSIONS)))


def test_torch_and_torch_npu_that_work(tmp_path: Path) -> None:
    found = trial(tmp_path, TORCH.format(cuda=None), NPU.format(result=32))
    assert (found.code, found.step, found.npus, found.cuda, found.wrong_sum) == (0, "done", 8, 0, False)
    assert found.cxx11 == "1"
    finding = judged(tmp_path, "current", found)
    assert (finding.outcome, finding.found) == (Outcome.PASSED, "adds on npu:0, one of 8")


def test_what_computes_cannot_lack_its_software(tmp_path: Path) -> None:
    """CANN may be found without LD_LIBRARY_PATH, and a container may need fewer device files."""
    fake = Fake(tmp_path)
    MACHINES["set_env_not_sourced"][0](fake)
    (fake.root / "dev/devmm_svm").unlink()
    source, parts = Source(fake.root, fake.env), import_overlay(PROJECT / "overlay")
    works = Trial(0, "done", cuda=0, npus=8, cxx11="1", wrong_sum=False, said="")
    lacking = ["device files", "toolkit"]
    for trial, wrong in ((None, lacking), (replace(works, wrong_sum=True), lacking), (works, [])):
        python = replace(read_python(source, STACK.packages), trial=trial)
        case = Case(source, read_machine(source, parts, tmp_path), python, STACK, parts("export.cann").SOC_VERSIONS)
        found = [*check_npu(case), *check_shell(case)]
        assert [it.name for it in found if it.outcome is Outcome.FAILED] == wrong


def test_an_npu_that_computes_wrongly(tmp_path: Path) -> None:
    found = trial(tmp_path, TORCH.format(cuda=None), NPU.format(result=31))
    assert found.wrong_sum
    assert judged(tmp_path, "current", found).found == "npu:0 computes wrongly"


def test_cuda_cards_are_counted(tmp_path: Path) -> None:
    found = trial(tmp_path, TORCH.format(cuda="'12.8'"), "")
    found = replace(found, step="done", code=0, npus=0)
    assert found.cuda == 2
    assert judged(tmp_path, "cuda", found).found == "torch can be imported, sees 2 CUDA cards"


def test_no_npu_where_npu_smi_shows_some(tmp_path: Path) -> None:
    none = NPU.format(result=32).replace("lambda: 8", "lambda: 0")
    finding = judged(tmp_path, "current", trial(tmp_path, TORCH.format(cuda=None), none))
    assert (finding.outcome, finding.found) == (Outcome.FAILED, "torch_npu sees no NPU")


def test_a_hang_ends_and_names_the_step(tmp_path: Path) -> None:
    """Also one that has children of its own, which would keep the output open."""
    hang = "import subprocess, time\nsubprocess.Popen(['sleep', '60'])\ntime.sleep(60)"
    started = time.monotonic()
    found = trial(tmp_path, TORCH.format(cuda=None), hang, timeout=2)
    assert time.monotonic() - started < 20
    assert (found.code, found.step) == (None, "import torch_npu")
    assert judged(tmp_path, "current", found).found == "hangs at: import torch_npu"


def test_a_crash_is_no_end_of_the_doctor(tmp_path: Path) -> None:
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
    found = trial(tmp_path, TORCH.format(cuda=None), crash)
    finding = judged(tmp_path, "current", found)
    assert finding.found == "crashes at: import torch_npu"
    assert "SIGSEGV" in finding.why


@pytest.mark.parametrize(
    ("message", "why", "remedy"),
    [
        ("libhccl.so: cannot open shared object file: No such file or directory", "CANN is not sourced", "set_env.sh"),
        ("libascend_hal.so: cannot open shared object file", "driver's libraries", "lib64/driver"),
        ("torch_npu/lib/libtorch_npu.so: undefined symbol: _ZN2at4_ops", "do not fit each other", "pair"),
        ("/lib64/libstdc++.so.6: version `GLIBCXX_3.4.29' not found", "comes first", "LD_LIBRARY_PATH"),
        ("npuSetDevice ... error code is 507033", "cannot use the NPU", "npu-smi info"),
        ("something new", "something new", "by hand"),
    ],
)
def test_what_the_last_line_says_is_explained(tmp_path: Path, message: str, why: str, remedy: str) -> None:
    found = trial(tmp_path, TORCH.format(cuda=None), f"raise ImportError({message!r})")
    finding = judged(tmp_path, "current", found)
    assert finding.outcome is Outcome.FAILED
    assert finding.found == "fails at: import torch_npu"
    assert message[:20] in finding.why
    assert why in finding.why
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("machine", "remedy"), [("set_env_not_sourced", "source /usr"), ("bare_cpu", "export TORCH_D")]
)
def test_torch_that_loads_torch_npu_without_cann(tmp_path: Path, machine: str, remedy: str) -> None:
    """The message is torch's own."""
    message = "Failed to load the backend extension: torch_npu. You can disable extension auto-loading with "
    found = trial(tmp_path, f"raise RuntimeError('{message}TORCH_DEVICE_BACKEND_AUTOLOAD=0.')")
    finding = judged(tmp_path, machine, found)
    assert (finding.outcome, finding.found) == (Outcome.FAILED, "fails at: import torch")
    assert finding.remedy.startswith(remedy)


def test_torch_npu_that_nothing_needs_is_no_fault(tmp_path: Path) -> None:
    found = trial(tmp_path, TORCH.format(cuda=None), "raise ImportError('libhccl.so: cannot open shared object file')")
    finding = judged(tmp_path, "cuda", found)
    assert (finding.outcome, finding.found) == (Outcome.NOTE, "torch can be imported, torch_npu cannot")


def test_torch_without_torch_npu_is_all_that_a_cpu_needs(tmp_path: Path) -> None:
    found = trial(tmp_path, TORCH.format(cuda=None), None)
    if found.npus == 0:  # torch_npu may be installed where this runs
        assert (found.code, found.step) == (0, "done")


def test_this_python_is_read_without_importing_anything() -> None:
    found = read_python(Source(Path("/"), dict(os.environ)), STACK.packages, trial=False)
    assert numbers(found.version) == sys.version_info[:3]
    assert found.packages["torch"]
    assert found.trial is None


def test_a_broken_installation_is_passed_over(tmp_path: Path) -> None:
    """Folders that pip left behind have no name, or no metadata at all."""
    fake = Fake(tmp_path).python("3.11.2", {"numpy": "1.26.4"})
    site = "usr/local/lib/python3.11/site-packages"
    fake.file(f"{site}/~orch-2.1.0.dist-info/RECORD")
    fake.file(f"{site}/onnx-1.0.dist-info/METADATA", "Metadata-Version: 2.1\n")
    assert env_python.read_python(Source(tmp_path, {}), ()).packages == {"numpy": "1.26.4"}


def test_versions_are_compared_by_their_numbers() -> None:
    assert release("2.10.0.post4") == "2.10.0"
    assert release("2.13.0+cpu") == "2.13.0"
    assert Range("4.30.2", "6").holds("5.19.0")
    assert not Range("4.30.2", "6").holds("6.0.0")
    assert not Range("4.30.2", "6").holds("4.30.1")
    assert not Range("4.30.2", "6").holds("unknown")
    assert str(Range("4.30.2", "6")) == ">=4.30.2,<6"
    assert install("2.10.0.post4") == "pip install torch==2.10.0 torch_npu==2.10.0.post4"


def test_atb_of_the_other_abi_is_named(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    MACHINES["seed"][0](fake)
    report = env.examine(PROJECT, Source(fake.root, fake.env))
    assert not [found for found in report.findings if found.name == "C++11 ABI"]
    fake.env["ATB_HOME_PATH"] = "/usr/local/Ascend/nnal/atb/latest/atb/cxx_abi_1"
    report = env.examine(PROJECT, Source(fake.root, fake.env))
    (found,) = [found for found in report.findings if found.name == "C++11 ABI"]
    assert found.outcome is Outcome.FAILED
    assert found.remedy == "source /usr/local/Ascend/nnal/atb/set_env.sh --cxx_abi=0"
