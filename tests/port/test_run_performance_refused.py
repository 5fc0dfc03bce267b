"""What run_performance.py refuses, with which exit code and sentence, before anything is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import port_package
import pytest
from performance_runs import RANDOM, SCRIPT, SHORT


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Give either --model_path"),
        ([*RANDOM, "--model_path", "."], "Give either --model_path"),
        (["--model_path", "nowhere", "--device", "cpu"], "--model_path: there is no folder nowhere"),
        (["--model_path", ".", "--layers", "2"], "--shape and --layers go with --random-weights"),
        (["--random-weights", "--shape", "no.json"], "--shape: there is no file no.json"),
        ([*RANDOM, "--layers", "0"], "--layers 0"),
        ([*RANDOM, "--repeat", "4"], "--repeat 4"),
        ([*RANDOM, "--device_id", "0"], "--device cpu and --device_id 0 name two devices"),
        (["--random-weights", "--device", "gpu0"], "'gpu0' is not a device"),
        ([*RANDOM, "--npu-graph", "on"], "--npu-graph on: there is no graph to record on cpu"),
        ([*RANDOM, "--compile"], "--compile: what is compiled is what a CUDA device records and replays"),
        ([*RANDOM, "--output", "none/x.csv"], "--output: none/x.csv cannot be written"),
        ([*RANDOM, "--output", ""], "--output: an empty name cannot be written"),
        ([*RANDOM, "--output", "x", "--json", "./x"], "--output and --json are both ./x"),
        (["--install-auto-map", ".", "--remove-auto-map", "."], "Give either --install-auto-map or"),
        ([*RANDOM, "--json", "."], "--json: . cannot be written"),
    ],
)
def test_what_cannot_be_measured_exits_2(script, capsys, argv, message):
    assert script.main(argv) == 2
    log = capsys.readouterr().err
    assert message in log
    assert log.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch", "0"], "'0': a batch is a whole number from 1 on"),
        (["--batch", "1,x"], "'x': a batch"),
        (["--lengths", "256"], "'256': write PROMPT:ANSWER"),
        (["--lengths", "256:1"], "'1': an answer is a whole number from 2 on"),
        (["--lengths", "0:8"], "'0': a prompt"),
    ],
)
def test_numbers_that_make_no_sense_exit_2(script, capsys, argv, message):
    with pytest.raises(SystemExit) as stop:
        script.main([*RANDOM, *argv])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_weights_exits_5(script, capsys):
    Path("empty").mkdir()
    assert script.main(["--model_path", "empty", "--device", "cpu"]) == 5
    assert "config.json does not exist" in capsys.readouterr().err


def test_too_little_memory_is_said_before_loading(script, perf, monkeypatch, capsys):
    from minigpt4.perf import memory as perf_memory

    monkeypatch.setattr(perf_memory, "free_memory", lambda device: 20 * 10**9)
    assert script.main(["--random-weights", "--device", "cpu", "--dtype", "float32"]) == 5
    assert "need 31.2 GB and cpu has 20.0 GB free" in capsys.readouterr().err


def test_a_file_that_may_not_be_written_is_refused_before_measuring(script, perf, monkeypatch, capsys):
    """Read-only in a folder that is not: opening it would fail once the first row is there."""
    Path("old.csv").write_text("earlier\n")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "old.csv" and real(path, mode))
    assert script.main([*RANDOM, "--output", "old.csv"]) == 2
    assert "--output: old.csv cannot be written" in capsys.readouterr().err


def test_outside_a_workspace_it_says_where_to_run(tmp_path):
    for name in ("run_performance.py", "overlay_command.py"):
        (tmp_path / name).write_bytes((port_package.OVERLAY / name).read_bytes())
    for arguments in (["--random-weights", "--device", "cpu"], ["--install-auto-map", "."]):
        command = [sys.executable, "run_performance.py", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 5
        assert "run the copy in a workspace that apply.py --workspace made" in done.stderr


def test_help_needs_no_torch(tmp_path):
    code = f"""
import runpy, sys
sys.modules["torch"] = None
sys.argv = ["x", "--help"]
sys.path.insert(0, {str(port_package.OVERLAY)!r})
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--install-auto-map" in done.stdout


def test_a_dtype_that_the_device_lacks_is_refused(script, monkeypatch, capsys):
    """An NPU's attention has no float32; there is none here, so the refusal is planted."""
    from minigpt4.models import device

    def refuse(*_):
        raise ValueError("npu:0 has no float32 attention")

    monkeypatch.setattr(device, "choose_dtype", refuse)
    assert script.main([*RANDOM, *SHORT]) == 2
    assert "--dtype: npu:0 has no float32 attention" in capsys.readouterr().err
    assert not Path("multi_batch_performance.csv").exists()


def test_force_alone_is_refused(script, capsys):
    assert script.main([*RANDOM, *SHORT, "--force"]) == 2
    assert "--force goes with --install-auto-map" in capsys.readouterr().err


def test_the_npus_number_is_joined_with_the_device(script, capsys):
    for wrong, message in ((["--device_id", "-1"], "not the number"), (["--device_id", "1"], "name two devices")):
        assert script.main([*RANDOM, *SHORT, *wrong]) == 2
        assert message in capsys.readouterr().err
