"""`make test-npu` says in one sentence why it cannot run here, and takes no failure for that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import run as runner

SCRIPT = Path(runner.__file__)


def ended(*arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(("arguments", "code"), [((), runner.NOT_RUN), (("--optional",), 0)])
def test_without_gcc(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    returned, said = ended(*arguments, PATH=str(tmp_path))
    assert returned == code
    assert said == "npu simulation: not run (gcc is missing: install gcc and binutils)\n"


@pytest.mark.skipif(not all(map(shutil.which, ("gcc", "nm", "readelf"))), reason="gcc or binutils is missing")
@pytest.mark.slow
def test_without_an_index(tmp_path: Path) -> None:
    returned, said = ended(
        "--optional",
        NPU_VENV=str(tmp_path / "venv"),
        NPU_PYTHON=sys.executable,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_CONFIG_FILE=os.devnull,
        PIP_EXTRA_INDEX_URL="",
        PIP_FIND_LINKS="",
        PIP_RETRIES="0",
        PIP_NO_CACHE_DIR="1",
    )
    assert returned == 0
    last = said.splitlines()[-1]
    assert last.startswith("npu simulation: not run (")
    assert "No matching distribution found" in last


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "riscv64")])
def test_elsewhere(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(runner.sys, "platform", system)
    monkeypatch.setattr(runner.platform, "machine", lambda: machine)
    with pytest.raises(runner.CannotRun, match="no wheel for"):
        runner.check_machine()


def test_without_a_python_that_has_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NPU_PYTHON", raising=False)
    monkeypatch.setattr(runner, "PYTHONS", ("3.1",))
    with pytest.raises(runner.CannotRun, match="set NPU_PYTHON"):
        runner.interpreter()


@pytest.mark.parametrize("code", [0, 1, 5])
def test_a_test_that_fails_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys, code: int) -> None:
    for step in ("check_machine", "make_environment", "build_libraries"):
        monkeypatch.setattr(runner, step, lambda: None)
    monkeypatch.setattr(runner, "run_tests", lambda arguments: code)
    assert runner.main(["--optional"]) == code
    assert ("passed" in capsys.readouterr().out) == (code == 0)
