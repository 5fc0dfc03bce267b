"""run_performance.py on tiny models: its files, its guard, and what an interruption leaves."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from llama_folders import TINY, write_folder
from performance_runs import RANDOM, SCRIPT, SHORT, rows
from port.perf.rows import SEED_COLUMNS, Peaks

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


def test_every_row_says_which_operations_are_fused(script, perf, monkeypatch, capsys):
    from minigpt4.perf import run

    monkeypatch.setattr(run, "describe", lambda device: f"{device}: plain PyTorch instead of: attention")
    assert script.main([*RANDOM, *SHORT]) == 0
    assert {row["operations"] for row in rows()} == {"cpu: plain PyTorch instead of: attention"}
    assert "plain PyTorch instead of: attention" in capsys.readouterr().err
