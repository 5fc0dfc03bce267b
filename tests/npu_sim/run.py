"""Everything that can be shown without an NPU, in one command: `make test-npu`.

    python tests/npu_sim/run.py [--optional] [pytest arguments …]

Makes an environment of its own (.venv-npu) with the real torch_npu, builds stand-ins for CANN's libraries with gcc
(build/npu_sim), and runs tests/npu_sim: schemas of all releases, operations and decoder on a simulated NPU, and
run_predict.py on it. Where that cannot be done, the reason is one sentence and the exit code is 3; with --optional,
0. A test that fails is always a failure. All this shows arguments and control flow, never numerics or speed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = PROJECT / "tests" / "npu_sim"
VENV = Path(os.environ.get("NPU_VENV") or PROJECT / ".venv-npu")
PYTHON = VENV / "bin" / "python"
LIBRARIES = PROJECT / "build" / "npu_sim"
PINS = PROJECT / "constraints" / "npu-sim.txt"
NOT_RUN = 3
PYTHONS = ("3.11", "3.10", "3.12", "3.13")  # torch_npu 2.13.0 has wheels for these, 3.11 is what we test on


class CannotRun(Exception):
    """Why nothing can be shown here."""


def main(arguments: list[str]) -> int:
    optional = "--optional" in arguments
    try:
        check_machine()
        make_environment()
        build_libraries()
    except CannotRun as reason:
        print(f"npu simulation: not run ({reason})")
        return 0 if optional else NOT_RUN
    code = run_tests([word for word in arguments if word != "--optional"])
    print(f"npu simulation: {'passed' if code == 0 else f'failed, pytest ended with {code}'}")
    return code


def check_machine() -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise CannotRun(f"torch_npu has no wheel for {sys.platform} on {platform.machine()}, only for Linux")
    for tool in ("gcc", "nm", "readelf"):
        if shutil.which(tool) is None:
            raise CannotRun(f"{tool} is missing: install gcc and binutils")


def make_environment() -> None:
    """Install what constraints/npu-sim.txt pins, once for its text."""
    ready = VENV / ".ready"
    if ready.exists() and ready.read_text() == PINS.read_text():
        return
    print(f"setting up {VENV} with {interpreter()}: a few minutes on the first run", flush=True)
    steps = [[interpreter(), "-m", "venv", "--clear", str(VENV)]]
    install = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps.append([*install, "-r", str(PINS)])
    for step in steps:
        done = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if "ERROR" in line] or done.stdout.splitlines()[-1:]
            raise CannotRun(f"{' '.join(step[:4])} … failed: {' '.join(lines)[:300]}")
    ready.write_text(PINS.read_text())


def interpreter() -> str:
    """The first Python that torch_npu has wheels for; NPU_PYTHON names another."""
    if os.environ.get("NPU_PYTHON"):
        return os.environ["NPU_PYTHON"]
    for version in PYTHONS:
        found = sys.executable if f"{sys.version_info[0]}.{sys.version_info[1]}" == version else f"python{version}"
        works = [found, "-c", f"import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"]
        if shutil.which(found) and not subprocess.run(works, capture_output=True).returncode:
            return found
    raise CannotRun(f"torch_npu 2.13.0 needs one of Python {', '.join(PYTHONS)}; set NPU_PYTHON to one")


def build_libraries() -> None:
    # Stand-ins on LD_LIBRARY_PATH of this process only: a real CANN elsewhere is not touched.
    find = "import sysconfig; print(sysconfig.get_paths()['platlib'])"
    packages = subprocess.run([PYTHON, "-c", find], capture_output=True, text=True, check=True).stdout.strip()
    shutil.rmtree(LIBRARIES, ignore_errors=True)
    command = [str(PYTHON), str(FOLDER / "simulator" / "build.py"), packages, str(LIBRARIES)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:  # a fault of build.py, or a torch_npu that is not what was pinned: not a missing machine
        sys.exit(f"building the stand-ins failed:\n{done.stderr}")
    print(f"stand-ins in {LIBRARIES}: {done.stdout.strip()}", flush=True)


def run_tests(arguments: list[str]) -> int:
    environment = {
        **os.environ,
        "NPU_SIM": "1",
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, (str(LIBRARIES), os.environ.get("LD_LIBRARY_PATH")))),
        "OMP_NUM_THREADS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    workers = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile"]
    command = [str(PYTHON), "-m", "pytest", str(FOLDER), *workers, *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
