"""run_predict.py: what it refuses and with which exit code. With a model: test_run_predict_upstream.py, _process.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from PIL import Image
from port_package import OVERLAY


def load_script():
    spec = importlib.util.spec_from_file_location("run_predict", OVERLAY / "run_predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run_predict = load_script()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """An eval YAML and a picture in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("eval.yaml").write_text("model: {}\n")
    Image.new("RGB", (8, 8), "red").save("picture.png")
    return ["--cfg-path", "eval.yaml", "--image-path", "picture.png"]


# The command line


@pytest.mark.parametrize(
    ("device", "npu_id", "expected"),
    [
        (None, None, "auto"),
        ("cpu", None, "cpu"),
        ("cuda:1", None, "cuda:1"),
        (None, 3, "npu:3"),
        ("auto", 0, "npu:0"),
        ("npu", 2, "npu:2"),
        ("npu:2", 2, "npu:2"),
    ],
)
def test_device_and_npu_id_become_one(device, npu_id, expected):
    assert run_predict.device_spec(device, npu_id, "--npu-id") == expected


@pytest.mark.parametrize(("device", "npu_id"), [("cpu", 0), ("npu:1", 0), ("cuda:0", 0), (None, -1)])
def test_contradictions_exit_2(files, capsys, device, npu_id):
    argv = [*files, "--npu-id", str(npu_id)] + (["--device", device] if device else [])
    assert run_predict.main(argv) == 2
    assert "--npu-id" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--cfg-path", "--image-path"])
def test_a_missing_file_exits_2_and_names_both_places(files, capsys, tmp_path, option):
    files[files.index(option) + 1] = "nowhere.x"
    assert run_predict.main(files) == 2
    message = capsys.readouterr().err
    assert f"{option}: there is no file nowhere.x, neither in {tmp_path}" in message
    assert str(run_predict.WORKSPACE) in message


def test_a_file_that_is_no_picture_exits_2(files, capsys):
    Path("picture.png").write_text("not a picture")
    assert run_predict.main(files) == 2
    assert "cannot be read as a picture" in capsys.readouterr().err


def test_missing_pillow_is_named(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert run_predict.main(files) == 5
    assert "pip install '.[cpu]'" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("picture.tiff" if mode in ("CMYK", "I;16") else "picture.png")
    Image.new(mode, (8, 8)).save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode
    assert run_predict.open_picture(path).mode == "RGB"


def test_a_picture_that_is_too_large_exits_2(files, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert run_predict.main(files) == 2
    assert "decompression bomb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--max-new-tokens", "0", "--max-new-tokens 0: give a number from 1 to 1999"),
        ("--max-new-tokens", "-3", "--max-new-tokens -3: give"),
        ("--max-new-tokens", "3000", "--max-new-tokens 3000: give"),
        ("--seed", "-1", "--seed -1: give"),
        ("--prompt", "what is <ImageHere>", "--prompt: leave <ImageHere> out"),
    ],
)
def test_what_no_model_could_answer_exits_2(files, capsys, option, value, message):
    assert run_predict.main([*files, f"{option}={value}"]) == 2
    assert message in capsys.readouterr().err


def test_the_largest_length_that_fits_is_said():
    run_predict.check_length(prompt=100, answer=1900)
    with pytest.raises(run_predict.Refused, match="largest that fits is 1900") as refusal:
        run_predict.check_length(prompt=100, answer=1901)
    assert refusal.value.code == 2
    with pytest.raises(run_predict.Refused, match="--prompt: with the picture it has 2000 tokens"):
        run_predict.check_length(prompt=2000, answer=1)


def test_outside_a_workspace_it_says_where_to_run(files, capsys):
    assert run_predict.main(files) == 2
    assert "run the copy in the folder that apply.py --workspace made" in capsys.readouterr().err


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """run_predict in a workspace whose device.py writes down what it is asked for; returns those calls."""
    from port.models import device as real

    calls = []
    stand_in = types.SimpleNamespace(
        resolve_device=lambda spec: types.SimpleNamespace(type=spec),
        select_device=lambda device: calls.append(("select", device.type)),
        hide_torch_npu=lambda: calls.append("hide"),
        choose_dtype=lambda device, name: calls.append((device.type, name)),
    )
    assert all(hasattr(real, name) for name in vars(stand_in))
    for name in ("minigpt4", "minigpt4.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "minigpt4.models.device", stand_in)
    (tmp_path / "minigpt4" / "common").mkdir(parents=True)
    (tmp_path / "minigpt4" / "common" / "config.py").touch()
    monkeypatch.setattr(run_predict, "WORKSPACE", tmp_path)
    return calls


@pytest.mark.parametrize("kind", ["cpu", "cuda", "npu"])
def test_the_device_is_made_the_current_one(asked, kind):
    assert run_predict.pick_device(kind, "auto").type == kind
    assert asked == ([] if kind == "npu" else ["hide"]) + [("select", kind), (kind, "auto")]


def test_verify_gets_the_dtype_of_the_device(asked):
    """verify.py compares in float32 on every CPU, also where run_predict would compute in bfloat16."""
    run_predict.pick_device("cpu")
    assert asked == ["hide", ("select", "cpu")]


def test_a_graph_that_fails_its_check_is_refused_before_loading(asked, monkeypatch):
    graph = types.SimpleNamespace(trouble=lambda device: "token 4 differs" if device.type == "npu" else None)
    monkeypatch.setitem(sys.modules, "minigpt4.models.llama_graph", graph)
    with pytest.raises(run_predict.Refused, match="--npu-graph on: token 4 differs") as refusal:
        run_predict.pick_device("npu", "auto", "on")
    assert refusal.value.code == 2
    assert run_predict.pick_device("npu", "auto", "auto").type == "npu"


@pytest.mark.parametrize(("error", "code"), [(ZeroDivisionError("oh"), 70), (KeyboardInterrupt(), 130)])
def test_what_nobody_foresaw(files, capsys, monkeypatch, error, code):
    def fail(args):
        raise error

    monkeypatch.setattr(run_predict, "answer", fail)
    assert run_predict.main(files) == code
    assert ("ZeroDivisionError: oh" in capsys.readouterr().err) == (code == 70)


def test_an_unknown_flag_exits_2(files):
    with pytest.raises(SystemExit) as stop:
        run_predict.main([*files, "--npuid", "0"])
    assert stop.value.code == 2


def test_a_clear_error_while_loading_is_not_a_traceback():
    with pytest.raises(run_predict.Refused, match="device_map") as refusal, run_predict.load_errors():
        raise ValueError("device_map: this decoder lives on one device")
    assert refusal.value.code == 5
    with pytest.raises(RuntimeError, match="a bug"), run_predict.load_errors():
        raise RuntimeError("a bug")


@pytest.mark.parametrize("text", ["caf\u00e9 \u4e2d", "plain"])
def test_a_terminal_that_knows_ascii_only(files, text):
    code = (
        "import sys, runpy; module = runpy.run_path(sys.argv[1]); main = module['main']\n"
        f"main.__globals__['answer'] = lambda args: print({text!r})\n"
        "sys.exit(main(sys.argv[2:]))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(OVERLAY)}
    command = [sys.executable, "-c", code, str(OVERLAY / "run_predict.py"), *files]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == text.encode("ascii", "backslashreplace").decode()
