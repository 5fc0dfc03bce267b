"""`verify.py record`: what it writes, what it refuses before the long work, and that Ctrl-C leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import pytest

import verify
from verification.gate import command
from verification.gate.golden import GOLDEN, load
from verification.prompts import load_prompts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def options(tiny: Path, pictures: list[Path], tmp_path: Path) -> list[str]:
    given = {"--out": tmp_path / "golden.npz", "--weights": tiny, "--images": pictures[0].parent, "--new-tokens": 4}
    return ["record", *(str(part) for pair in given.items() for part in pair), "--workspace", str(tmp_path / "none")]


def test_a_golden_says_what_it_is_of(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([*options, "--halves", "bfloat16"]) == 0
    said = capsys.readouterr()
    golden = load(tmp_path / "golden.npz", GOLDEN)
    questions = load_prompts(ROOT / "configs" / "prompts.yaml").questions
    assert golden.about["new_tokens"] == 4
    assert [row["question"] for row in golden.about["prompts"]] == list(questions)
    (half,) = golden.about["half"].values()
    assert list(golden.about["half"]) == ["bfloat16"]
    assert [row["token"] >= row["error"] > 0 for row in half["encoder"] + half["Q-Former"]] == [True, True]
    assert [row["worst"] >= row["mean"] > 0 <= row["flip"] for row in half["LLM logits"].values()] == [True]
    assert sorted(golden.about["weights"]) == ["ckpt", "llama_model", "q_former_model", "tokenizer", "vit_weights"]
    assert golden.about["code"].keys() == {"oracle.py", "oracle_decoder.py", "gate/record.py", "gate/sketch.py"}
    assert golden.digest in said.out
    assert "python verify.py --against" in said.out
    assert "1 picture, 1 question, texts of up to 4 tokens; in float32, bfloat16" in said.err
    assert str(tmp_path).encode() not in (tmp_path / "golden.npz").read_bytes()


def test_recording_again_gives_the_same_numbers(options: list[str], tmp_path: Path) -> None:
    assert verify.main([*options, "--halves", "none"]) == 0
    first = load(tmp_path / "golden.npz", GOLDEN)
    assert verify.main([*options, "--halves", "none", "--force"]) == 0
    again = load(tmp_path / "golden.npz", GOLDEN)
    assert again.about == first.about
    for name, array in first.arrays.items():
        numpy.testing.assert_allclose(again.arrays[name], array, rtol=1e-6, atol=1e-6)


def test_a_golden_is_not_overwritten(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "golden.npz").write_text("a day's work")
    assert verify.main(options) == 2
    assert "use --force" in capsys.readouterr().err
    assert (tmp_path / "golden.npz").read_text() == "a day's work"


@pytest.mark.parametrize("out", [".", "file/golden.npz", "/proc/golden.npz"])
def test_a_place_that_cannot_be_written_is_told_first(
    options: list[str], tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(command, "_compute", lambda *_: pytest.fail("the long work began"))
    assert verify.main([*options, "--force", "--out", str(tmp_path / out)]) == 2
    assert "is a folder" in (said := capsys.readouterr().err) or "cannot be written" in said


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--new-tokens", "0", "it takes 1 to 1024"),
        ("--halves", "float64", "it takes none, float16, bfloat16"),
        ("--halves", "float16,float16", "it takes none, float16, bfloat16"),
        ("--weights", "nowhere", "is not a folder"),
        ("--images", "nowhere", "does not exist"),
        ("--cfg-path", "other.yaml", "does not exist"),
    ],
)
def test_a_wrong_option_says_what_is_right(
    options: list[str], option: str, value: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = verify.main([*options, option, value])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert why in capsys.readouterr().err


def test_missing_weights_are_told_with_the_command_that_fetches_them(
    options: list[str], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny, tmp_path / "part")
    (tmp_path / "part" / "othfiles" / "eva_vit_g.pth").unlink()
    assert verify.main([*options, "--weights", str(tmp_path / "part")]) == 5
    said = capsys.readouterr().err
    assert "eva_vit_g.pth does not exist" in said
    assert "verify.py weights" in said


@pytest.mark.parametrize("name", ["othfiles/eva_vit_g.pth", "weights/pytorch_model-00002-of-00002.bin"])
def test_a_damaged_weight_file_is_no_traceback(
    options: list[str], tiny: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny, tmp_path / "part")
    file = tmp_path / "part" / name
    file.write_bytes(file.read_bytes()[:-5000])
    assert verify.main([*options, "--weights", str(tmp_path / "part")]) == 2
    said = capsys.readouterr().err
    assert f"{file} cannot be read" in said
    assert not (tmp_path / "golden.npz").exists()


def test_too_little_memory_is_told_first(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "available_memory", lambda: 1 << 20)
    assert verify.main(options) == 5
    assert "The image half needs about 0.3 GiB of memory, and 0.0 GiB are free" in capsys.readouterr().err


def test_reading_layer_by_layer_is_said_with_how_often(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verification import weights

    monkeypatch.setattr(command, "lacking_memory", lambda _: True)
    assert "67 times in all" in command.plan(weights.from_folder(tiny), 8, 1, 64, ("float16", "bfloat16"))


def test_the_time_is_said_once_two_tokens_are_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(command.time, "monotonic", lambda: clock[0])
    step = command.Estimating(questions=1, tokens=64, halves=2)
    for what, done, at in [("image half in float32", 8, 10.0), *(("text 1 of 1", n, 60.0 + 10 * n) for n in (1, 2, 3))]:
        clock[0] = at
        step(what, done, 64)
    # a prompt of 60 s and 64 tokens of 10 s, then three times the prompt and eight tokens' time
    assert "10.0 s a token; about 19 minutes in all" in capsys.readouterr().err


def test_weights_that_compute_no_numbers_give_no_golden(
    options: list[str], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    shutil.copytree(tiny, tmp_path / "nan")
    file = tmp_path / "nan" / "pretrain" / "prerained_minigpt4_7b.pth"
    state = torch.load(file, weights_only=True)
    state["model"]["llama_proj.bias"][0] = float("nan")
    torch.save(state, file)
    assert verify.main([*options, "--weights", str(tmp_path / "nan"), "--halves", "none"]) == 2
    assert "Are these the right weights?" in capsys.readouterr().err
    assert not (tmp_path / "golden.npz").exists()


def test_an_interrupted_recording_leaves_nothing(options: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child: Any = subprocess.Popen(
        [sys.executable, str(ROOT / "verify.py"), *options, "--new-tokens", "1000"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert "texts of up to 1000 tokens" in child.stderr.readline()
    time.sleep(3)
    child.send_signal(signal.SIGINT)
    assert "interrupted" in child.communicate(timeout=60)[1]
    assert child.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["record", "replay"])
def test_help_says_what_it_is_for_and_needs_no_torch(name: str) -> None:
    code = (
        f"import sys; sys.modules['torch'] = sys.modules['numpy'] = None; import verify; verify.main(['{name}', '-h'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Exit codes: 0" in done.stdout
    assert "--against" in done.stdout


def test_llama2s_stage_is_taken_from_the_workspace(tiny: Path, tmp_path: Path) -> None:
    from verification.weights import MODEL_YAML

    for name, content in (("eval.yaml", {"model_type": "pretrain_llama2"}), (MODEL_YAML["pretrain_llama2"], {})):
        paths = dict.fromkeys(("llama_model", "encoder", "vit_weights", "ckpt"), "x")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"model": {"has_qformer": False, **paths, **content}}))
    given = ["--out", "x", "--weights", str(tiny), "--workspace", str(tmp_path), "--cfg-path", "eval.yaml"]
    assert command.find_weights(command.parse(given), tmp_path).model_type == "pretrain_llama2"
