"""Judges Python's side: versions, which torch_npu goes with which CANN, the packages' ranges, known collisions."""

from __future__ import annotations

from collections.abc import Iterator

from verification.env_findings import Case, Finding
from verification.env_python import numbers, release
from verification.env_stack import Release, install
from verification.report import Outcome

OK, NOTE, FAILED = Outcome.PASSED, Outcome.NOTE, Outcome.FAILED
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-cann")  # all three are the module onnxruntime
NUMPY_2 = (2, 3)  # the first torch whose wheels know numpy 2
TOOLS = "https://gitee.com/ascend/tools"
EXTRA = {True: "pip install '.[npu]'", False: "pip install '.[cpu]'"}


def check_python(case: Case) -> Iterator[Finding]:
    yield _python(case)
    yield from _torch(case)
    yield from _collisions(case)
    if case.wanted:
        yield from _ais_bench(case)
    yield from _packages(case)


def _python(case: Case) -> Finding:
    version, asked = case.python.version, case.stack.python
    if not asked.holds(version):
        why = f"This port needs Python {asked}."
        return Finding("Python", "Python", FAILED, version or "not found", why, "Use a newer Python.")
    if case.wanted and case.row and "torch-npu" not in case.python.packages and not case.row.wheels_for(version):
        low, high = case.row.pythons
        why = f"The torch_npu wheels of CANN {case.row.cann} are for Python {low} to {high}."
        remedy = f"python{high} -m venv venv-npu && . venv-npu/bin/activate"
        return Finding("Python", "Python", FAILED, version, why, remedy)
    return Finding("Python", "Python", OK, version)


def _torch(case: Case) -> Iterator[Finding]:
    packages, python = case.python.packages, case.python
    torch, npu = packages.get("torch", ""), packages.get("torch-npu", "")
    command = _command(case, torch, npu)
    if not torch:
        remedy = f"{EXTRA[True]} && {command}" if case.wanted else EXTRA[False]
        yield Finding("Python", "torch", case.bad, "not installed", "Inference needs PyTorch.", remedy)
        return
    build = f"{torch}, built for {f'CUDA {python.torch_cuda}' if python.torch_cuda else 'no CUDA'}"
    if python.cxx11:
        build += f", C++11 ABI {python.cxx11}"
    if case.machine.cards and not python.torch_cuda:
        why = "This build of torch cannot use the CUDA card."
        yield Finding("Python", "torch", NOTE, build, why, f"pip install --force-reinstall torch=={release(torch)}")
    else:
        yield Finding("Python", "torch", OK, build)
    if case.wanted or npu:
        yield from _torch_npu(case, torch, npu, command)
    yield from _abi(case)


def _command(case: Case, torch: str, npu: str) -> str:
    """One answer to all that is wrong with the three: keeps torch_npu where it may stay, else torch's release."""
    row, stack = case.row, case.stack
    may_stay = bool(npu) and stack.torch_npu.holds(npu)
    if row is None:
        return install(npu) if may_stay else "pip install torch==… torch_npu==…   # see configs/ascend_stack.yaml"
    if may_stay and _fits(case, row, npu):
        return install(npu)
    return install(stack.listed(row, torch, case.python.version))


def _fits(case: Case, row: Release, npu: str) -> bool:
    """False for a torch_npu made for other CANN releases, and for nothing like this one."""
    made_for, stack = case.stack.made_for(npu), case.stack
    return not made_for or stack.supported(row.cann, made_for) or stack.related(row.cann, made_for)


def _torch_npu(case: Case, torch: str, npu: str, command: str) -> Iterator[Finding]:
    asked = case.stack.torch_npu
    if not npu:
        yield Finding(
            "Python", "torch_npu", FAILED, "not installed", "PyTorch reaches an NPU only through it.", command
        )
        return
    if not asked.holds(npu):
        why = f"This port needs torch_npu {asked}: older ones lack operations that the decoder calls."
        yield Finding("Python", "torch_npu", FAILED, npu, why, command)
    if release(torch) != release(npu):
        why = f"torch_npu {npu} is built on torch {release(npu)}; with another one symbols are missing, or it crashes."
        yield Finding("Python", "pair with torch", FAILED, f"torch {torch} with torch_npu {npu}", why, command)
    if case.row:
        yield _pair(case, case.row, npu, command)
    elif asked.holds(npu) and release(torch) == release(npu):
        yield Finding("Python", "torch_npu", OK, npu)


def _pair(case: Case, row: Release, npu: str, command: str) -> Finding:
    """torch_npu with CANN."""
    made_for, found = case.stack.made_for(npu), f"torch_npu {npu} with CANN {case.machine.cann.version}"
    if npu in row.torch_npu:
        return Finding("Python", "pair with CANN", OK, found)
    listed = f"Listed for CANN {row.cann}: {', '.join(row.torch_npu)}."
    if not _fits(case, row, npu):
        why = f"It is made for CANN {' and '.join(made_for)}. {listed}"
        return Finding("Python", "pair with CANN", FAILED, found, why, command)
    why = f"It is made for CANN {' and '.join(made_for)}" if made_for else "The table does not know this release"
    why += " and supported with this one too. " if case.stack.supported(row.cann, made_for) else ". "
    remedy = install(case.stack.listed(row, npu, case.python.version))
    remedy += "   # the listed pair, should anything be wrong"
    return Finding("Python", "pair with CANN", NOTE, found, why + listed, remedy)


def _abi(case: Case) -> Iterator[Finding]:
    """ATB's libraries exist for both C++ ABIs; the folder names say which one was sourced."""
    home, abi = case.source.env.get("ATB_HOME_PATH", ""), case.python.cxx11
    if abi and "cxx_abi_" in home and not home.rstrip("/").endswith(f"cxx_abi_{abi}"):
        why = f"torch is built with the C++11 ABI {abi}, ATB's libraries there with the other one: they crash together."
        remedy = f"source {case.source.shown(home).split('/atb/')[0]}/atb/set_env.sh --cxx_abi={abi}"
        yield Finding("Python", "C++11 ABI", FAILED, case.source.shown(home), why, remedy)


def _collisions(case: Case) -> Iterator[Finding]:
    packages = case.python.packages
    numpy, torch = packages.get("numpy", ""), packages.get("torch", "")
    runtimes = [name for name in RUNTIMES if name in packages]
    if len(runtimes) > 1:
        why = "Both are the module `onnxruntime`: one has overwritten files of the other."
        remedy = f"pip uninstall -y {' '.join(runtimes)} && pip install onnxruntime"
        yield Finding("Python", "onnxruntime", FAILED, " and ".join(runtimes), why, remedy)
    if numbers(numpy) >= (2,) and "onnxruntime-cann" in packages:
        why = "onnxruntime-cann is built on numpy 1 (`import numpy failed`); onnx and ml_dtypes want numpy 2."
        found = f"onnxruntime-cann {packages['onnxruntime-cann']} with numpy {numpy}"
        remedy = "pip uninstall -y onnxruntime-cann && pip install onnxruntime   # or keep it in a venv with numpy<2"
        yield Finding("Python", "numpy", FAILED, found, why, remedy)
    if numbers(numpy) >= (2,) and torch and numbers(torch) < NUMPY_2:
        why = "torch below 2.3 is built on numpy 1, and its tensors cannot be turned into arrays of numpy 2."
        yield Finding("Python", "numpy", FAILED, f"torch {torch} with numpy {numpy}", why, "pip install 'numpy<2'")


def _ais_bench(case: Case) -> Iterator[Finding]:
    packages = case.python.packages
    missing = [name for name in ("ais-bench", "aclruntime") if name not in packages]
    if not missing:
        found = f"ais_bench {packages['ais-bench']}, aclruntime {packages['aclruntime']}"
        yield Finding("Python", "ais_bench", OK, found)
        return
    why = "They run an .om image encoder, the default; a .pth one needs neither. They are not on PyPI"
    why += "; ais_bench_benchmark, which is installed, is something else." if "ais-bench-benchmark" in packages else "."
    remedy = f"git clone {TOOLS}, and in ais-bench_workload/tool/ais_bench: pip wheel ./backend ./ && pip install *.whl"
    yield Finding("Python", "ais_bench", FAILED, f"not installed: {', '.join(missing)}", why, remedy)


def _packages(case: Case) -> Iterator[Finding]:
    installed, good, missing = case.python.packages, [], []
    for name, asked in case.stack.packages.items():
        names = RUNTIMES if name == "onnxruntime" else (name,)
        version = next((installed[one] for one in names if one in installed), "")
        if not version:
            missing.append(name)
        elif asked.holds(version):
            good.append(f"{name} {version}")
        else:
            why = f"This port works with {name} {asked}."
            yield Finding("Python", name, FAILED, version, why, f"pip install '{name}{asked}'")
    if missing:
        why = "Inference needs them." if good or case.wanted else ""
        yield Finding("Python", "packages", case.bad, f"not installed: {', '.join(missing)}", why, EXTRA[case.wanted])
    if good:
        yield Finding("Python", "packages", OK, ", ".join(good))
