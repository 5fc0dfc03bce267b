"""run_predict.py as a process of its own, on real upstream with synthetic weights: its output and its surroundings."""

from __future__ import annotations

import subprocess
import sys

import pytest
from predict_runs import BASE, CPU


@pytest.mark.upstream
def test_the_answer_is_all_that_goes_to_standard_output(workspace, options, elsewhere):
    command = [sys.executable, str(workspace / "run_predict.py"), *CPU, "--greedy", *options]
    done = subprocess.run(command, **elsewhere)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stdout.count("\n") == 1
    assert "Loading Q-Former" in done.stderr
    assert "12 tokens in" in done.stderr


@pytest.mark.upstream
def test_an_old_torch_npu_is_refused_with_the_minimum(workspace, elsewhere, tmp_path):
    """A stand-in package of the version that is too old: only its version is looked at."""
    (tmp_path / "old" / "torch_npu").mkdir(parents=True)
    (tmp_path / "old" / "torch_npu" / "__init__.py").write_text("__version__ = '2.0.1.post1'\n")
    elsewhere["env"]["PYTHONPATH"] = str(tmp_path / "old")
    done = subprocess.run([sys.executable, str(workspace / "run_predict.py"), *BASE, "--npu-id", "0"], **elsewhere)
    assert done.returncode == 5
    assert "torch_npu 2.0.1.post1 is too old: the minimum is 2.1." in done.stderr


@pytest.fixture
def without_cann(elsewhere, tmp_path):
    """A stand-in torch_npu that torch loads by itself, in a shell where CANN's set_env.sh was forgotten."""
    package = tmp_path / "npu" / "torch_npu"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libhccl.so: cannot open shared object file')\n")
    info = tmp_path / "npu" / "torch_npu-2.13.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.13.0\n")
    (info / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    elsewhere["env"]["PYTHONPATH"] = str(tmp_path / "npu")
    elsewhere["env"].pop("TORCH_DEVICE_BACKEND_AUTOLOAD", None)
    return elsewhere


@pytest.mark.upstream
def test_without_cann_the_npu_names_set_env_and_the_cpu_works(workspace, options, without_cann):
    done = subprocess.run([sys.executable, "-c", "import torch"], **without_cann)
    if done.returncode == 0:
        pytest.skip("this PyTorch loads no backends by itself")
    command = [sys.executable, str(workspace / "run_predict.py"), *BASE, *options]
    done = subprocess.run([*command, "--npu-id", "0"], **without_cann)
    assert done.returncode == 5, done.stderr
    assert "source /usr/local/Ascend/ascend-toolkit/set_env.sh" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run([*command, "--device", "cpu"], **without_cann)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.upstream
def test_a_closed_pipe_ends_quietly(workspace, options, elsewhere):
    command = [sys.executable, str(workspace / "run_predict.py"), *CPU, "--max-new-tokens", "200", *options]
    with subprocess.Popen(
        command, cwd=elsewhere["cwd"], env=elsewhere["env"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.read(1)
        process.stdout.close()
        log = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in log
    assert "BrokenPipe" not in log
