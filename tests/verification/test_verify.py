"""verify.py and the demo as a user runs them, without upstream."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import verify
from verification import demo, run
from verification.report import Check, Outcome
from verification.weights import DEFAULT_CFG, MODEL_YAML

PROJECT = Path(__file__).resolve().parents[2]
NOT_RUN = Check("weights", "all", Outcome.NOT_RUN, "missing")


def bare_workspace(folder: Path) -> Path:
    """As much of a workspace as verify reads before it loads the model; its weights are nowhere."""
    keys = ("llama_model", "encoder", "vit_weights", "ckpt", "q_former_model", "bert")
    texts = {
        DEFAULT_CFG: "model: {model_type: pretrain_vicuna0}\n",
        MODEL_YAML["pretrain_vicuna0"]: "model:\n" + "".join(f"  {key}: /nowhere/{key}\n" for key in keys),
        "run_predict.py": "",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_overlay_alone_is_verified_and_says_what_it_does_not_show(
    tiny: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--overlay-alone", "--weights", str(tiny), "--images", str(pictures[0]), "--device", "cpu"]
    assert verify.main([*argv, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["synthetic"] is True
    by_name = {check["name"]: check for check in report["checks"]}
    assert by_name["greedy ids"]["outcome"] == "ok"
    assert by_name["encoder"]["shows"].startswith("eva_vit_g.pth: ")
    assert "nothing about the patches" in by_name["upstream"]["shows"]
    assert "both sides are Hugging Face's" in by_name["Q-Former"]["shows"]
    assert by_name["house"]["outcome"] == "not judged"
    assert all(check["shows"] for check in report["checks"])  # every line says what it is worth


def test_a_fault_in_the_overlay_is_exit_code_1(
    tiny: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("overlay", "configs"):
        shutil.copytree(PROJECT / part, tmp_path / part)
    code = tmp_path / "overlay" / "minigpt4" / "models" / "eva_vit_model.py"
    text = code.read_text()
    assert text.count("BLOCK_EPS = 1e-6") == 1
    code.write_text(text.replace("BLOCK_EPS = 1e-6", "BLOCK_EPS = 1e-5"))
    argv = ["--overlay-alone", "--weights", str(tiny), "--images", str(pictures[0]), "--project", str(tmp_path)]
    assert verify.main([*argv, "--device", "cpu", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in report["checks"] if check["outcome"] == "FAILED"] == ["encoder"]


def test_missing_weights_are_5_and_name_the_way_out(
    pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    argv = ["--overlay-alone", "--weights", str(tmp_path / "empty"), "--images", str(pictures[0])]
    assert verify.main(argv) == 5
    out = capsys.readouterr().out
    assert "--weights tiny" in out
    assert "huggingface.co/Vision-CAIR/vicuna-7b" in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--workspace", "/nowhere/at/all"], "apply.py --workspace"),
        (["--overlay-alone", "--weights", "/nowhere/at/all"], "is not a folder"),
        (["--overlay-alone", "--images", "/nowhere/at/all"], "does not exist"),
        (["--overlay-alone", "--images", "README.md"], "cannot be read as a picture"),
        (["--overlay-alone", "--images", "PICTURE", "--device", "gpu"], "--device gpu is not a device"),
    ],
)
def test_a_wrong_command_is_2_and_says_what_to_do(
    tiny: Path,
    pictures: list[Path],
    argv: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(PROJECT)
    argv = [str(pictures[0]) if word == "PICTURE" else word for word in argv]
    weights = [] if "--weights" in argv else ["--weights", str(tiny)]
    assert verify.main([*argv, *weights]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("given", ["real", "tiny"])
def test_a_folder_of_weights_keeps_the_encoder_of_the_configuration(
    tiny: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """The workspace names an .om that is there: that is what is to be verified, unless the numbers are random."""
    workspace = bare_workspace(tmp_path / "workspace")
    folder = tmp_path / "set"
    shutil.copytree(tiny, folder)
    if given == "real":
        config = folder / "weights" / "config.json"
        config.write_text(config.read_text().replace("synthetic_weights", "other"))
    model = workspace / MODEL_YAML["pretrain_vicuna0"]
    om = tmp_path / "eva_vit_g.om"
    om.touch()
    model.write_text(model.read_text().replace("/nowhere/encoder", str(om)))
    seen = []
    monkeypatch.setattr(run.present, "check_present", lambda files, known: seen.append(files) or (NOT_RUN,))
    assert verify.main(["--workspace", str(workspace), "--weights", str(folder), "--images", str(pictures[0])]) == 5
    assert seen[0].encoder == (om if given == "real" else folder / "othfiles" / "eva_vit_g.pth")
    assert seen[0].vit_weights == folder / "othfiles" / "eva_vit_g.pth"


def test_an_absent_device_is_5(tiny: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--overlay-alone", "--weights", str(tiny), "--images", str(pictures[0]), "--device", "npu:0"]
    if "torch_npu" in sys.modules:
        pytest.skip("an NPU build of PyTorch is loaded")
    assert verify.main(argv) == 5
    assert "torch_npu" in capsys.readouterr().out


def test_a_folder_that_no_git_knows_is_not_green(
    tiny: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its .git a workspace cannot be compared with the lock."""
    bare_workspace(tmp_path)
    argv = ["--workspace", str(tmp_path), "--images", str(pictures[0]), "--json"]
    assert verify.main(argv) == 5
    report = json.loads(capsys.readouterr().out)
    assert {"lock", "file encoder"} <= {c["name"] for c in report["checks"] if c["outcome"] == "not run"}
    assert "--weights tiny" in report["hint"]


@pytest.mark.slow
def test_the_demo_says_that_upstream_was_not_reached_and_goes_on(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "GIT_ALLOW_PROTOCOL": "none",  # git refuses every address: as good as a pulled cable
    }
    command = [sys.executable, "-m", "verification.demo", "--folder", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Upstream was not reached" in done.stdout
    assert "$ python verify.py --overlay-alone" in done.stdout
    assert "greedy ids" in done.stdout
    assert "Verified with synthetic weights" in done.stdout
    page = tmp_path / "demo" / "report" / "report.html"
    assert page.is_file()
    assert done.stderr.splitlines()[-1] == f"report: {page}"


def test_the_demo_stops_at_the_first_step_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    fail = ["-c", "raise SystemExit(7)"]
    assert demo.first_failure(["-c", "pass"], fail, ["-c", "print('never reached')"]) == 7
    said = capfd.readouterr()
    assert "exit code 7" in said.err
    assert "never reached" not in said.out.replace("$ python -c 'print('\"'\"'never reached'\"'\"')'", "")


def test_a_bundle_without_the_file_of_its_golden_is_refused(
    tiny: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--overlay-alone", "--weights", str(tiny), "--images", str(pictures[0]), "--bundle", "taking.npz"]
    assert verify.main(argv) == 2
    assert "--bundle needs --against" in capsys.readouterr().err
    assert not Path("taking.npz").exists()
