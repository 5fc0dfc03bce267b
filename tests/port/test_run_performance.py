"""run_performance.py on tiny models: its files, its guard, what it refuses, and what an interruption leaves."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import port_package
import pytest
from llama_folders import TINY, write_folder
from port.perf.rows import SEED_COLUMNS, Peaks

SCRIPT = port_package.OVERLAY / "run_performance.py"
OURS = (
    "device",
    "operations",
    "dtype",
    "hidden_size",
    "copy(GB/s)",
    "decode(% of copy)",
    "prefill(% of matmul)",
    "response_min(ms)",
)


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script as a module, in an empty folder; the overlay's files are its minigpt4.models for one test."""
    monkeypatch.chdir(tmp_path)
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "minigpt4"}
    monkeypatch.syspath_prepend(str(port_package.OVERLAY))
    spec = importlib.util.spec_from_file_location("run_performance", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    Path("tiny.json").write_text(json.dumps(TINY))
    yield module
    for name in [name for name in sys.modules if name.split(".")[0] == "minigpt4"]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def perf(script, monkeypatch):
    """The module that measures, with quick yardsticks: a real product of 2048 x 2048 takes longer than a tiny model."""
    from minigpt4.perf import measure as perf_measure

    monkeypatch.setattr(perf_measure, "measure_peaks", lambda *_: Peaks(1e12, 1e12, 1e15))
    return perf_measure


RANDOM = ["--random-weights", "--shape", "tiny.json", "--device", "cpu", "--dtype", "float32"]
SHORT = ["--lengths", "8:4,16:3"]


def rows() -> list[dict[str, str]]:
    with open("multi_batch_performance.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_original_ports_command_line_measures_a_weights_folder(script, perf, capsys):
    """--model_path and --batch as documented; its default lengths are cut, a tiny model takes long for 3584 tokens."""
    write_folder(Path("weights"))
    assert script.main(["--model_path", "weights", "--batch", "1", "--device", "cpu", *SHORT]) == 0
    found = rows()
    assert tuple(found[0])[:7] == SEED_COLUMNS
    assert all(column in found[0] for column in OURS)
    assert [[row["batch_size"], row["input_length"], row["output_length"]] for row in found] == [
        ["1", "8", "4"],
        ["1", "16", "3"],
    ]
    for row in found:
        response, first, following, rate = (float(row[column]) for column in SEED_COLUMNS[3:])
        assert 0 < first < response
        assert following == pytest.approx((response - first) / (int(row["output_length"]) - 1), rel=0.9)
        assert rate == pytest.approx(1e3 * int(row["output_length"]) / response)
        assert row["weights"] == "from a file"
        assert row["impossible"] == ""
    out, log = capsys.readouterr()
    assert out.count("\n") == 2
    assert "2 of 2 rows measured, in multi_batch_performance.csv" in log


def test_default_lengths_are_the_original_ports(script):
    args = script.parse(["--model_path", "w", "--device_id", "0", "--batch", "1"])
    assert args.lengths == ((256, 64), (512, 128), (1024, 256), (3584, 512))
    assert (args.device_id, args.batch, args.output) == (0, (1,), "multi_batch_performance.csv")


def test_random_weights_batches_int8_and_json(script, perf):
    options = ["--batch", "1,2", "--int8", "--layers", "2", "--repeat", "6", "--json", "rows.json", "--output", "x.csv"]
    assert script.main([*RANDOM, *SHORT, *options]) == 0
    found = json.loads(Path("rows.json").read_text(encoding="utf-8"))
    assert [row["batch_size"] for row in found] == [1, 1, 2, 2]
    assert all(len(row["seconds"]) == row["repetitions"] == 6 for row in found)
    assert {row["layers"] for row in found} == {2}
    assert {row["dtype"] for row in found} == {"int8 weights, float32"}
    assert "token_seconds" not in found[0]
    assert Path("x.csv").is_file()


def test_return_perf_detail_adds_every_token(script, perf, monkeypatch):
    monkeypatch.setenv("RETURN_PERF_DETAIL", "1")
    assert script.main([*RANDOM, "--lengths", "8:6", "--json", "rows.json"]) == 0
    tokens = json.loads(Path("rows.json").read_text(encoding="utf-8"))[0]["token_seconds"]
    assert len(tokens) == 6
    assert tokens == sorted(tokens)


def test_response_time_is_measured_with_the_first_token_once_waited_for(script, perf, monkeypatch):
    """Three readings of the clock per generation: at the start, at the first token, at the end."""
    readings = []
    real = perf.read_clock
    monkeypatch.setattr(perf, "read_clock", lambda device: readings.append(device) or real(device))
    assert script.main([*RANDOM, "--lengths", "8:6"]) == 0
    assert len(readings) == 3 * (1 + 5)


def test_the_real_yardsticks_serve_a_tiny_model(script):
    assert script.main([*RANDOM, "--lengths", "8:4"]) == 0
    row = rows()[0]
    assert float(row["copy(GB/s)"]) > 0.01
    assert float(row["matmul(TFLOP/s)"]) > 1e-4
    assert 0 < float(row["decode(% of copy)"]) < 115


def test_a_row_above_the_peak_is_an_error(script, perf, monkeypatch, capsys):
    """A clock that runs a thousand times too slowly, beside honest peaks."""
    real = perf.read_clock
    monkeypatch.setattr(perf, "measure_peaks", lambda *_: Peaks(1e9, 1e9, 1e11))
    monkeypatch.setattr(perf, "read_clock", lambda device: real(device) / 1000)
    assert script.main([*RANDOM, *SHORT]) == 1
    assert "decoding would read" in rows()[0]["impossible"]
    out, log = capsys.readouterr()
    assert "IMPOSSIBLE: decoding would read" in out
    assert "2 of them cannot be true" in log


def test_longer_than_the_model_was_trained_for_is_a_warning(script, perf, capsys):
    assert script.main([*RANDOM, "--lengths", "130:3"]) == 0
    assert "133 tokens are more than the 128 that the model was trained for" in capsys.readouterr().err
    assert rows()[0]["input_length"] == "130"


def test_an_interruption_keeps_the_finished_rows(script, perf, monkeypatch, capsys):
    real, calls = perf.time_generation, []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 9:  # in the second row
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(perf, "time_generation", interrupted)
    assert script.main([*RANDOM, *SHORT, "--json", "rows.json"]) == 130
    assert len(rows()) == len(json.loads(Path("rows.json").read_text(encoding="utf-8"))) == 1
    assert "1 of 2 rows measured" in capsys.readouterr().err


def test_a_killed_process_leaves_whole_rows(tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    command = [sys.executable, str(SCRIPT), *RANDOM, "--lengths", ",".join(["8:4"] * 400)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with open(tmp_path / "multi_batch_performance.csv", encoding="utf-8", newline="") as file:
        found = list(csv.reader(file))
    assert len(found) >= 2
    assert {len(row) for row in found} == {len(found[0])}


def test_a_failure_before_the_first_row_keeps_an_earlier_result(script, perf, monkeypatch):
    Path("multi_batch_performance.csv").write_text("earlier\n")

    def fail(*_, **__):
        raise RuntimeError("out of memory: tried to allocate")

    monkeypatch.setattr(perf, "time_generation", fail)
    assert script.main([*RANDOM, *SHORT]) == 5
    assert Path("multi_batch_performance.csv").read_text() == "earlier\n"


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
        ([*RANDOM, "--compile"], "--compile: what is compiled is the recorded step of a CUDA device"),
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


def test_a_closed_pipe_ends_quietly_and_keeps_the_row(tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(SCRIPT), *RANDOM, "--lengths", "8:4"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 141, done.stderr
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr
    assert len((tmp_path / "multi_batch_performance.csv").read_text().splitlines()) == 2


def test_a_file_that_may_not_be_written_is_refused_before_measuring(script, perf, monkeypatch, capsys):
    """Read-only in a folder that is not: opening it would fail once the first row is there."""
    Path("old.csv").write_text("earlier\n")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "old.csv" and real(path, mode))
    assert script.main([*RANDOM, "--output", "old.csv"]) == 2
    assert "--output: old.csv cannot be written" in capsys.readouterr().err


def test_a_link_stays_a_link_and_a_pipe_a_pipe(script, perf):
    Path("other").mkdir()
    Path("rows.json").symlink_to("other/rows.json")
    os.mkfifo("pipe")
    reading = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert script.main([*RANDOM, "--lengths", "8:4", "--json", "rows.json", "--output", "pipe"]) == 0
    assert os.read(reading, 1 << 16).startswith(b"batch_size,")
    assert Path("rows.json").is_symlink()
    assert len(json.loads(Path("other/rows.json").read_text(encoding="utf-8"))) == 1
    assert script.main([*RANDOM, "--lengths", "8:4", "--json", "pipe"]) == 0
    assert Path("pipe").is_fifo()
    assert json.loads(os.read(reading, 1 << 16))[0]["batch_size"] == 1
    os.close(reading)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
def test_a_full_disk_does_not_lose_the_row(script, perf, capsys):
    assert script.main([*RANDOM, *SHORT, "--output", "/dev/full"]) == 5
    out, log = capsys.readouterr()
    assert out.startswith("batch 1, 8 in, 4 out: response")
    assert "No space left on device" in log


def test_outside_a_workspace_it_says_where_to_run(tmp_path):
    for name in ("run_performance.py", "overlay_command.py"):
        (tmp_path / name).write_bytes((port_package.OVERLAY / name).read_bytes())
    for arguments in (["--random-weights", "--device", "cpu"], ["--install-auto-map", "."]):
        command = [sys.executable, "run_performance.py", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 5
        assert "run the copy in a workspace that apply.py --workspace made" in done.stderr


def test_generation_config_changes_nothing_of_what_is_measured(script, perf, monkeypatch):
    """An end token and a penalty in the folder: rows are greedy and of the stated length all the same."""
    folder = write_folder(Path("weights"))
    written = {"eos_token_id": list(range(97)), "repetition_penalty": 1.5, "do_sample": True, "num_beams": 3}
    (folder / "generation_config.json").write_text(json.dumps(written))
    from minigpt4.models import llama_generate

    seen, real = [], llama_generate.ScoreShaper
    monkeypatch.setattr(
        llama_generate, "ScoreShaper", lambda settings, *rest: seen.append(settings) or real(settings, *rest)
    )
    assert script.main(["--model_path", "weights", "--device", "cpu", "--lengths", "8:6"]) == 0
    assert {(one.repetition_penalty, one.do_sample, one.num_beams, tuple(one.eos)) for one in seen} == {
        (1, False, 1, ())
    }


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


def test_every_row_says_which_operations_are_fused(script, perf, monkeypatch, capsys):
    from minigpt4.perf import run

    monkeypatch.setattr(run, "describe", lambda device: f"{device}: plain PyTorch instead of: attention")
    assert script.main([*RANDOM, *SHORT]) == 0
    assert {row["operations"] for row in rows()} == {"cpu: plain PyTorch instead of: attention"}
    assert "plain PyTorch instead of: attention" in capsys.readouterr().err


def test_force_alone_is_refused(script, capsys):
    assert script.main([*RANDOM, *SHORT, "--force"]) == 2
    assert "--force goes with --install-auto-map" in capsys.readouterr().err


def test_the_npus_number_is_joined_with_the_device(script, capsys):
    for wrong, message in ((["--device_id", "-1"], "not the number"), (["--device_id", "1"], "name two devices")):
        assert script.main([*RANDOM, *SHORT, *wrong]) == 2
        assert message in capsys.readouterr().err
