"""ATC's command line, and a run of it, with a strict stand-in for ATC."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from atc_files import SOC, STAND_IN, computes, gone, interruptible, planned, program, run_atc, until, write_onnx
from om_files import SIZE
from port.export import atc, atc_staging
from port.export.atc_staging import CannotConvert


def test_the_command(staged) -> None:
    model, _, _ = staged()
    plan = planned(model)
    shape = f"input:1,3,{SIZE},{SIZE}"
    assert plan.argv == (
        "atc", "--framework=5", "--model=eva.onnx", "--output=out/eva", f"--soc_version={SOC}",
        f"--input_shape={shape}", "--precision_mode_v2=origin", "--log=error",
    )  # fmt: skip
    assert plan.shell.startswith(f"cd {model.path.parent} && atc --framework=5 --model=eva.onnx --output=/om/eva ")
    assert f'--input_shape="{shape}"' in plan.shell


@pytest.mark.parametrize(("mode", "older"), atc.PRECISION_MODES.items())
def test_precision_modes_of_both_generations(mode: str, older: str, staged, atc_env) -> None:
    """The stand-in knows the values that the documentation lists, and not one of them by the other's name."""
    model, folder, _ = staged()
    assert f"--precision_mode_v2={mode}" in planned(model, mode=mode).argv
    assert f"--precision_mode={older}" in planned(model, mode=mode, v2=False).argv
    assert run_atc(model, folder, atc_env, mode=mode).good
    assert run_atc(model, folder, atc_env, "old", mode=mode, v2=False).good


def test_an_older_atc_does_not_take_the_newer_option(staged, atc_env) -> None:
    model, folder, _ = staged()
    assert not run_atc(model, folder, atc_env, "old").good


@pytest.mark.parametrize("soc", ["Ascend910B4-1", "Ascend910_9391"])
def test_processors(soc: str, staged, atc_env) -> None:
    model, folder, _ = staged()
    plan = atc.plan(model, Path("/om/eva.om"), soc, "origin", (1,), atc=str(program(folder.parent / "bin")))
    assert atc.run(plan.argv, folder, atc_env, folder.parent / "log").good


def test_a_list_of_batch_sizes(staged, atc_env) -> None:
    model, folder, weights = staged(batch=None)
    plan = planned(model, (1, 2, 4))
    assert f"--input_shape=input:-1,3,{SIZE},{SIZE}" in plan.argv
    assert "--dynamic_batch_size=1,2,4" in plan.argv
    assert '--dynamic_batch_size="1,2,4"' in plan.shell
    assert run_atc(model, folder, atc_env, batches=(1, 2, 4)).good
    computes(folder / "out" / "eva.om", weights, 4)


def test_an_open_batch_may_be_fixed(staged) -> None:
    model, _, _ = staged(batch=None)
    plan = planned(model, (2,))
    assert f"--input_shape=input:2,3,{SIZE},{SIZE}" in plan.argv
    assert not any("dynamic" in it for it in plan.argv)


@pytest.mark.parametrize(
    ("batch", "wanted", "good"),
    [
        (1, (), (1,)), (4, (), (4,)), (4, (4,), (4,)), (None, (3,), (3,)), (None, (1, 2048), (1, 2048)),
        (None, tuple(range(1, 101)), tuple(range(1, 101))),
        (None, (), "open batch"), (1, (2,), "fixed batch of 1"), (1, (1, 2), "fixed batch of 1"),
        (None, (2, 1), "in order"), (None, (1, 1), "in order"), (None, (0, 1), "1 to 2048"),
        (None, (1, 2049), "1 to 2048"), (None, (-1,), "1 to 2048"), (None, tuple(range(1, 102)), "up to 100"),
    ],
)  # fmt: skip
def test_batch_sizes_are_checked(batch: int | None, wanted: tuple[int, ...], good, tmp_path: Path) -> None:
    write_onnx(tmp_path / "eva.onnx", batch)
    model = atc_staging.read_model(tmp_path / "eva.onnx")
    if isinstance(good, tuple):
        assert atc.check_batches(model, wanted) == good
        return
    with pytest.raises(CannotConvert, match=good):
        atc.check_batches(model, wanted)


@pytest.mark.parametrize("folder", ["a b", "模型", "it's", "$HOME", 'a"b'])
def test_the_printed_command_works_in_a_shell(folder: str, tmp_path: Path, atc_env) -> None:
    """A person may use any folder for ONNX files; the shell must get it as one word."""
    write_onnx(tmp_path / folder / "eva.onnx", outside="each its own")
    model = atc_staging.read_model(tmp_path / folder / "eva.onnx")
    bin_folder = program(tmp_path / "bin").parent
    (bin_folder / "atc").write_text('#!/bin/sh\npwd\nfor word in "$@"; do echo "$word"; done\n')
    plan = atc.plan(model, tmp_path / "om" / "eva.om", SOC, "origin", (1,))
    path = {**atc_env, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    done = subprocess.run(plan.shell, shell=True, env=path, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[0] == str(tmp_path / folder)
    assert words[1:] == [f"--output={tmp_path}/om/eva" if "--output" in it else it for it in plan.argv[1:]]
    assert shlex.split(plan.shell)[2] == "&&"


@pytest.mark.parametrize(("words", "known"), [("", True), ("old", False)])
def test_the_options_of_this_atc(words: str, known: bool, tmp_path: Path, atc_env) -> None:
    options = atc.ask_options(str(program(tmp_path / "bin")), {**atc_env, "ATC_STAND_IN": words})
    assert ("precision_mode_v2" in options) is known


@pytest.mark.parametrize("text", ["#!/bin/sh\necho no library; exit 1\n", "#!/no/such/interpreter\n"])
def test_an_atc_that_does_not_start_has_no_options(text: str, tmp_path: Path, atc_env) -> None:
    (tmp_path / "atc").write_text(text)
    (tmp_path / "atc").chmod(0o755)
    assert atc.ask_options(str(tmp_path / "atc"), atc_env) == ""


@pytest.mark.parametrize(
    ("kind", "precision", "mode"), [(np.float16, "mixed", "origin"), (np.float32, "fp32", "mixed_float16")]
)
def test_the_default_mode_is_for_what_the_model_is(kind, precision: str, mode: str, tmp_path: Path) -> None:
    write_onnx(tmp_path / "eva.onnx", kind=kind)
    assert atc_staging.read_model(tmp_path / "eva.onnx").precision == precision
    assert atc.default_mode(precision) == mode


# Run


def test_the_output_is_streamed_and_kept(staged, atc_env) -> None:
    model, folder, _ = staged()
    said: list[str] = []
    assert run_atc(model, folder, atc_env, said=said).good
    assert said[0].startswith("ATC start working")
    log = (folder.parent / "log").read_text().splitlines()
    assert log[1:] == said
    assert shlex.split(log[0])[1:] == list(planned(model).argv[1:])


def test_a_line_is_said_before_the_run_ends(staged, atc_env) -> None:
    _, folder, _ = staged()
    times: list[float] = []
    path = folder.parent / "slow"
    path.write_text("#!/bin/sh\necho one\nsleep 1\necho two\n")
    path.chmod(0o755)
    atc.run([str(path)], folder, atc_env, folder.parent / "log", lambda line: times.append(time.monotonic()))
    assert times[1] - times[0] > 0.8


def test_a_child_that_holds_the_output_open_does_not_stop_us(staged, atc_env) -> None:
    _, folder, _ = staged()
    path = folder.parent / "forks"
    path.write_text("#!/bin/sh\nsleep 50 &\necho $!\n")
    path.chmod(0o755)
    start = time.monotonic()
    finished = atc.run([str(path)], folder, atc_env, folder.parent / "log", lambda line: None)
    assert time.monotonic() - start < 20
    assert finished.code == 0
    until(lambda: gone(int(finished.lines[0])))


def test_bytes_that_are_no_text(staged, atc_env) -> None:
    _, folder, _ = staged()
    path = folder.parent / "odd"
    path.write_bytes(b"#!/bin/sh\nprintf 'a\\377b\\n'\n")
    path.chmod(0o755)
    assert atc.run([str(path)], folder, atc_env, folder.parent / "log", lambda line: None).lines == ("a\ufffdb",)


def test_a_program_that_cannot_be_started(staged, atc_env) -> None:
    _, folder, _ = staged()
    with pytest.raises(CannotConvert, match="cannot be started") as caught:
        atc.run([str(folder / "none")], folder, atc_env, folder.parent / "log")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_no_process_is_left(number: signal.Signals, staged, atc_env, tmp_path: Path) -> None:
    model, folder, _ = staged()
    argv = planned(model, atc=str(program(tmp_path / "bin"))).argv
    code = f"""
import os
import sys
from pathlib import Path
sys.path[:0] = [{str(STAND_IN.parents[1])!r}]
import port_package
from port.export import atc
atc.run({argv!r}, Path({str(folder)!r}), os.environ, Path({str(tmp_path / "log")!r}))
"""
    atc_env["ATC_STAND_IN"] = "slow"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=atc_env, stderr=subprocess.PIPE, preexec_fn=interruptible
    )
    pids = tmp_path / "pids"
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGINT if number == signal.SIGINT else 128 + number)
    for pid in pids.read_text().split():
        until(lambda pid=pid: gone(int(pid)))


def test_in_another_thread_it_runs_too(staged, atc_env) -> None:
    """signal.signal works in the main thread alone."""
    model, folder, _ = staged()
    results: list[atc.Finished] = []
    thread = threading.Thread(target=lambda: results.append(run_atc(model, folder, atc_env)))
    thread.start()
    thread.join()
    assert results[0].good
