"""`verify.py ops` as a user runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest

import verify
from verification import ops

PROJECT = Path(__file__).resolve().parents[2]


def overlay(folder: Path, file: str, old: str, new: str) -> Path:
    """A project whose overlay has one line changed."""
    shutil.copytree(PROJECT / "overlay", folder / "overlay")
    path = folder / "overlay" / "minigpt4" / "models" / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return folder


def test_the_cpu_agrees_and_says_what_that_is_worth(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["ops", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "nothing about an NPU" in out
    assert "Every operation agrees." in out
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert " ok " in lines["attention"]
    assert " ok " in lines["attention with padding"]
    assert lines["rms_norm"].endswith("plain PyTorch")
    assert lines["graph"] == "graph   steps are computed one by one: there is no graph to record on cpu"


def test_json_has_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["ops", "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["device"] == "cpu"
    assert report["exit_code"] == 0
    assert report["sentence"].startswith("cpu: fused ops: ")
    assert report["versions"]["torch"]
    found = {row["op"]: row for row in report["ops"]}
    assert found["attention"]["outcome"] == "ok"
    assert 0 < found["attention"]["worst"] < found["attention"]["allowed"]


def test_a_wrong_operation_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SDPA with another scale: found in both attentions, and nowhere else."""
    project = overlay(tmp_path, "llama_ops.py", "is_causal=causal)", "is_causal=causal, scale=0.1)")
    assert verify.main(["ops", "--device", "cpu", "--project", str(project)]) == 1
    out = capsys.readouterr().out
    assert [line.split("  ")[0] for line in out.splitlines() if "  DIFFERS  " in line] == [
        "attention",
        "attention with padding",
    ]
    assert "float32, " in out
    assert "NOT every operation agrees." in out


def test_an_operation_that_raises_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = overlay(
        tmp_path, "llama_ops.py", "    causal = mask is None and q.shape[2] > 1\n", "    causal = k[0, 99]\n"
    )
    assert verify.main(["ops", "--device", "cpu", "--project", str(project), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    found = {row["op"]: row for row in report["ops"]}
    assert found["attention"]["outcome"] == "raised"
    assert found["attention"]["detail"].startswith("IndexError: ")


def test_a_device_that_is_not_there_is_5(capsys: pytest.CaptureFixture[str]) -> None:
    if "torch_npu" in sys.modules:
        pytest.skip("an NPU build of PyTorch is loaded")
    assert verify.main(["ops", "--device", "npu:0"]) == 5
    captured = capsys.readouterr()
    assert "torch_npu is not installed" in captured.err
    assert captured.out == ""


def test_without_torch_nothing_is_checked(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert verify.main(["ops", "--device", "cpu"]) == 5
    assert "pip install '.[cpu]'" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["gpu", "npu:x", "cpu:0", ""])
def test_another_form_of_device_is_2(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["ops", "--device", device]) == 2
    assert "is not a device" in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "code"), [(["ops", "--help"], 0), (["ops", "--images", "x"], 2), (["--help"], 0)])
def test_help_and_usage(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        verify.main(argv)
    assert ended.value.code == code
    captured = capsys.readouterr()
    if argv == ["ops", "--help"]:
        assert "verify.py ops" in captured.out
        assert "5 no such device" in captured.out
        assert "an operation that fails is replaced" in " ".join(captured.out.split())
    elif code == 0:
        assert "python verify.py ops --device npu:0" in captured.out


def test_it_starts_as_a_command() -> None:
    command = [sys.executable, str(PROJECT / "verify.py"), "ops", "--device", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("verify: --device nowhere is not a device.")


class Npu(NamedTuple):
    type: str = "npu"
    index: int = 0

    def __str__(self) -> str:
        return "npu:0"


class Found:
    """Stands in for import_overlay: an overlay whose NPU gives these findings."""

    def __init__(self, findings, graph=None, kept=False) -> None:
        self.findings, self.graph, self.kept, self.asked = findings, graph, kept, []

    def __call__(self, name):
        device = Npu()
        checked = types.SimpleNamespace(findings=self.findings, kept=self.kept)
        return {
            "models.device": types.SimpleNamespace(
                resolve_device=lambda spec: device,
                DeviceUnavailable=RuntimeError,
            ),
            "models.ops_check": types.SimpleNamespace(
                npu_checked=lambda device, again=False: self.asked.append(again) or checked,
                describe=lambda device: "npu:0 (Ascend910B3): fused ops: all",
            ),
            "models.llama_graph": types.SimpleNamespace(trouble=lambda device: self.graph),
        }[name]


@pytest.fixture
def npu(monkeypatch):
    from verification import ops

    checker = ops.import_overlay(PROJECT / "overlay")("models.ops_check")

    def install(*findings, **facts):
        found = Found(tuple(checker.Finding(*finding) for finding in findings), **facts)
        monkeypatch.setattr(ops, "import_overlay", lambda overlay: found)
        return found

    return install


GOOD = ("rope", "ok", "float16, q", 0.001, 0.004)


def test_an_npu_is_reported_with_its_graph(npu, capsys: pytest.CaptureFixture[str]) -> None:
    found = npu(GOOD, kept=True)
    assert ops.main(["--device", "npu:0"]) == 0
    out = capsys.readouterr().out
    assert "found by an earlier run with the same software (--again checks now)" in out
    assert "graph   steps are recorded and replayed" in out
    assert found.asked[0] is False
    assert ops.main(["--device", "npu:0", "--again"]) == 0
    assert found.asked[2] is True


def test_a_graph_that_differs_is_1_and_a_row(npu, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "token 9 differs from the step itself by 3.0e-01"
    npu(GOOD, ("graph", "differs", wrong), graph=wrong)
    assert ops.main(["--device", "npu:0"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "graph      DIFFERS" in lines
    assert f"graph   steps are computed one by one: {wrong}" in lines


def test_an_npu_with_a_replaced_operation_is_1(npu, capsys: pytest.CaptureFixture[str]) -> None:
    npu(GOOD, ("attention", "raised", "RuntimeError: aclnn 561002"), graph="the fused attention is not used")
    assert ops.main(["--device", "npu:0"]) == 1
    out = capsys.readouterr().out
    assert "attention  RAISED" in out
    assert "    RuntimeError: aclnn 561002" in out
    assert "graph   steps are computed one by one: the fused attention is not used" in out
    assert out.rstrip().endswith("uses plain PyTorch instead of those; --again checks anew.")


def test_json_is_json_where_a_result_was_nan(npu, capsys: pytest.CaptureFixture[str]) -> None:
    npu(GOOD, ("swiglu", "differs", "float16, 1 x 1: inf apart", float("inf"), 0.1))
    assert ops.main(["--device", "npu:0", "--json"]) == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert [row["worst"] for row in report["ops"]] == [0.001, None]


def test_an_operation_that_ended_a_run_is_1_and_a_row(npu, capsys: pytest.CaptureFixture[str]) -> None:
    npu(GOOD, ("attention", "crashed", "an earlier run ended while this was tried"), graph="the attention is not used")
    assert ops.main(["--device", "npu:0"]) == 1
    out = capsys.readouterr().out
    assert "attention  CRASHED" in out
    assert "    an earlier run ended while this was tried" in out


def test_a_device_that_is_lost_during_the_check_is_5(npu, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lost(*args: object) -> None:
        raise RuntimeError("npu:0 stopped working in this process when the self-check tried rope")

    monkeypatch.setattr(npu(GOOD), "asked", types.SimpleNamespace(append=lost))
    assert ops.main(["--device", "npu:0"]) == 5
    assert capsys.readouterr().err == "verify: npu:0 stopped working in this process when the self-check tried rope\n"
