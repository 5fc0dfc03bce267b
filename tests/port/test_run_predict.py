"""run_predict.py: what it refuses and with which exit code, what it prints, and the whole way on real upstream."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import types
from pathlib import Path

import pytest
from PIL import Image
from port.models.answer_stream import AnswerPrinter, BeforeStop, stop_ids
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


# The answer's text


def pieces(word, line, both):
    """A tokenizer that knows three texts by heart."""
    known = {"###": word, "\n": line, "\n###": both}

    def tokenize(text, add_special_tokens):
        assert not add_special_tokens
        return types.SimpleNamespace(input_ids=known[text])

    return tokenize


def test_stop_ids_of_the_real_tokenizer_are_upstreams_constants():
    """The ids are LLaMA's own, as its tokenizer.model gives them."""
    tokenizer = pieces(word=[835], line=[29871, 13], both=[29871, 13, 2277, 29937])
    assert stop_ids(tokenizer) == [[835], [2277, 29937]]


def test_equal_stop_ids_are_given_once():
    assert stop_ids(pieces(word=[7, 8], line=[4], both=[4, 7, 8])) == [[7, 8]]


TEXTS = [
    "A man sits at a desk.",
    "  A man.\n###",
    "A man. ### Human: what else?",
    "C# and ## are not stop words\n\n#",
    "####",
    "###",
    "",
    "one\n\ntwo #1 ##2  ###",
    " \n ",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_shown_stands_before_the_stop_word_however_it_comes(text):
    expected = text.split("###")[0].strip()
    for seed in range(30):
        draw = random.Random(seed)
        sieve, shown, rest = BeforeStop(), "", text
        while rest:
            size = draw.randint(1, 4)
            piece, rest = rest[:size], rest[size:]
            shown += sieve.take(piece)
            assert expected.startswith(shown)
        assert shown + sieve.take("", last=True) == expected


def test_text_is_shown_as_soon_as_it_is_sure():
    sieve = BeforeStop()
    assert [sieve.take(piece) for piece in ("A man ", "sits #", "1 ", "##", "# Human")] == [
        "A man",
        " sits",
        " #1",
        "",
        "",
    ]


def test_the_printer_writes_words_and_hides_the_stop_word():
    import torch

    vocabulary = ["A", "man", "sits.", "###", "Human:"]

    class Words:
        def decode(self, ids, skip_special_tokens):
            assert skip_special_tokens
            return " ".join(vocabulary[token] for token in ids)

    written = []
    printer = AnswerPrinter(Words(), written.append)
    printer.put(torch.zeros(1, 0, dtype=torch.long))
    for token in range(5):
        printer.put(torch.tensor([token]))
    printer.end()
    assert "".join(written) == "A man sits."
    assert written.index("A") < written.index(" man")


# The whole way, on real upstream with synthetic weights

SEVERAL = """
import contextlib, io, json, sys
sys.path.insert(0, sys.argv[1])
import run_predict
results = []
for argv in json.load(sys.stdin):
    out, log = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(log):
        code = run_predict.main(argv)
    results.append((code, out.getvalue(), log.getvalue()))
json.dump(results, sys.stdout)
"""
BASE = [
    "--cfg-path",
    "eval_configs/minigpt4_eval.yaml",
    "--image-path",
    "examples_v2/office.jpg",
    "--max-new-tokens",
    "12",
]
CPU = [*BASE, "--device", "cpu"]


@pytest.fixture(scope="module")
def options():
    from verification.synthetic import cached_tiny

    paths = {
        "llama_model": "weights",
        "encoder": "othfiles/eva_vit_g.pth",
        "q_former_model": "othfiles/blip2_pretrained_flant5xxl.pth",
        "bert": "othfiles/bert-base-uncased",
        "ckpt": "pretrain/prerained_minigpt4_7b.pth",
    }
    weights = cached_tiny()
    return ["--options", *(f"model.{key}={weights / path}" for key, path in paths.items())]


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that is not the workspace, and no GPU: the paths above are found in the workspace all the same."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return {"cwd": tmp_path, "capture_output": True, "text": True, "env": environment}


@pytest.mark.upstream
def test_the_answer_is_all_that_goes_to_standard_output(workspace, options, elsewhere):
    command = [sys.executable, str(workspace / "run_predict.py"), *CPU, "--greedy", *options]
    done = subprocess.run(command, **elsewhere)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stdout.count("\n") == 1
    assert "Loading Q-Former" in done.stderr
    assert "12 tokens in" in done.stderr


YAMLS = {
    "not YAML": "model: [1",
    "a tab": "model:\n\tarch: minigpt4\n",
    "a list": "- 1",
    "a word": "hello",
    "nothing": "",
    "no datasets": "model: {arch: minigpt4, model_type: pretrain_vicuna0}\nrun: {task: x}\n",
    "another arch": "model: {arch: blip, model_type: x}\nrun: {task: x}\ndatasets: {a: 1}\n",
    "no model type": "model: {arch: minigpt4}\nrun: {task: x}\ndatasets: {a: 1}\n",
    "no processor": "model: {arch: minigpt4, model_type: pretrain_vicuna0}\nrun: {task: x}\ndatasets: {a: {b: 1}}\n",
    "odd dataset": "model: {arch: minigpt4, model_type: pretrain_vicuna0}\nrun: {task: x}\ndatasets: {a: 1}\n",
}


@pytest.fixture(scope="module")
def results(workspace, options, tmp_path_factory):
    """(exit code, answer, log) of many calls, in one process because importing takes seconds."""
    import torch

    nowhere = ["--options", "model.ckpt=/nowhere/ckpt.pth"]
    damaged = tmp_path_factory.mktemp("damaged")
    (damaged / "tokenizer.model").write_text("<html>Sign in</html>")
    ckpt = torch.load(options[-1].partition("=")[2], weights_only=True)
    ckpt["model"]["llama_proj.bias"][:] = float("nan")
    torch.save(ckpt, damaged / "nan.pth")
    folder = tmp_path_factory.mktemp("pictures")
    pictures = {mode: folder / f"{mode}.png" for mode in ("RGBA", "L")}
    for mode, path in pictures.items():
        Image.linear_gradient("L").convert(mode).save(path)
    calls = {
        "greedy": [*CPU, "--greedy", *options],
        "greedy, another seed": [*CPU, "--greedy", "--seed", "7", *options],
        "sampled": [*CPU, "--seed", "1", *options],
        "sampled again": [*CPU, "--seed", "1", *options],
        "sampled, another seed": [*CPU, "--seed", "2", *options],
        "another question": [*CPU, "--greedy", "--prompt", "Who?", *options],
        "another picture": [*CPU, "--greedy", "--image-path", "examples_v2/KFC-20-for-20-Nuggets.jpg", *options],
        "longer": [*CPU, "--greedy", "--max-new-tokens", "20", *options],
        "no weights": [*CPU, *nowhere],
        "no tokenizer": [*CPU, *options, f"model.llama_model={tmp_path_factory.mktemp('empty')}"],
        "low_resource": [*CPU, "--greedy", *options, "model.low_resource=True"],
        **{f"seed {seed}": [*CPU, "--max-new-tokens", "300", "--seed", str(seed), *options] for seed in range(4)},
        "too long": [*CPU, "--max-new-tokens", "1980", *options],
        "RGBA": [*CPU, "--greedy", "--image-path", str(pictures["RGBA"]), *options],
        "L": [*CPU, "--greedy", "--image-path", str(pictures["L"]), *options],
        "minigpt_v2": [*CPU, "--cfg-path", "eval_configs/minigptv2_eval.yaml", *options],
        "lora": [*CPU, *options, "model.lora_r=64"],
        "no lora": [*CPU, *options, "model.lora_r=0", "run.task=anything"],
        "no value": [*CPU, *options, "foo"],
        "unknown key": [*CPU, *options, "model.low_resorce=True"],
        "unknown section": [*CPU, *options, "modle.ckpt=x"],
        "another model type": [*CPU, *options, "model.model_type=pretrain_llama2"],
        "no ckpt": [*CPU, *options, "model.ckpt="],
        "NaN": [*CPU, *options, f"model.ckpt={damaged / 'nan.pth'}"],
        "long prompt": [*CPU, "--prompt", "Who is it? " * 700, *options],
        "bad tokenizer": [*CPU, *options, f"model.llama_model={damaged}"],
        "npu": [*BASE, "--npu-id", "0", *options],
        "not a device": [*BASE, "--device", "gpu0", *options],
    }
    for name, content in YAMLS.items():
        (folder / f"{name}.yaml").write_text(content)
        calls[name] = [*CPU, "--cfg-path", str(folder / f"{name}.yaml"), *options]
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, str(workspace)],
        input=json.dumps(list(calls.values())),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
    )
    return dict(zip(calls, json.loads(done.stdout)))


@pytest.mark.upstream
def test_greedy_answers_do_not_depend_on_the_seed(results):
    code, answer, log = results["greedy"]
    assert code == 0, log
    assert answer.strip()
    assert results["greedy, another seed"][1] == answer
    assert results["longer"][1].startswith(answer.rstrip("\n�"))


@pytest.mark.upstream
def test_sampled_answers_follow_the_seed(results):
    assert results["sampled"][:2] == results["sampled again"][:2] != results["sampled, another seed"][:2]
    assert results["sampled"][1] != results["greedy"][1]


@pytest.mark.upstream
def test_question_and_picture_matter(results):
    assert len({results[name][1] for name in ("greedy", "another question", "another picture")}) == 3


@pytest.mark.upstream
def test_missing_weights_exit_5_and_are_all_named(results):
    code, answer, log = results["no weights"]
    assert (code, answer) == (5, "")
    assert "  ckpt: /nowhere/ckpt.pth\n" in log
    assert all(f"  {key}: " in log for key in ("llama_model", "encoder", "q_former_model", "bert"))
    assert "apply.py --set model_path=FOLDER" in log
    code, _, log = results["no tokenizer"]
    assert code == 5
    assert "tokenizer.model does not exist" in log


@pytest.mark.upstream
def test_300_sampled_tokens_under_every_seed(results):
    """The synthetic weights, as Vicuna v0's, have a token more than the tokenizer."""
    for seed in range(4):
        code, answer, log = results[f"seed {seed}"]
        assert code == 0, log
        assert answer.strip()


@pytest.mark.upstream
def test_a_length_that_would_drop_the_picture_exits_2(results):
    code, answer, log = results["too long"]
    assert (code, answer) == (2, "")
    assert "The largest that fits is 1" in log
    assert "Traceback" not in log
    code, answer, log = results["long prompt"]
    assert (code, answer) == (2, "")
    assert "--prompt: with the picture it has" in log


@pytest.mark.upstream
def test_pictures_of_other_modes_are_answered(results):
    assert results["RGBA"][0] == results["L"][0] == 0
    assert results["RGBA"][1] == results["L"][1] != results["greedy"][1]


@pytest.mark.upstream
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minigpt_v2", "run_predict: minigpt_v2 is switched off by the Ascend overlay"),
        ("lora", "run_predict: LoRA is switched off by the Ascend overlay"),
        ("no value", "--options foo: write KEY=VALUE"),
        ("unknown key", "--options model.low_resorce: there is no such key; the nearest is model.low_resource."),
        ("unknown section", "--options modle.ckpt: there is no such key; the nearest is model.ckpt."),
        ("another model type", "choose it by --cfg-path"),
        *((name, "eval_configs/minigpt4_eval.yaml") for name in YAMLS if name != "no model type"),
        ("no model type", "model.model_type must be one of pretrain_vicuna0, pretrain_llama2"),
    ],
)
def test_a_configuration_that_no_run_can_follow_exits_2(results, name, message):
    code, answer, log = results[name]
    assert (code, answer) == (2, ""), log
    assert message in log
    assert "Traceback" not in log
    assert log.count("\n") == 1


@pytest.mark.upstream
def test_harmless_options_are_followed(results):
    assert results["no lora"][0] == 0, results["no lora"][2]


@pytest.mark.upstream
def test_damaged_and_empty_weights_exit_5(results):
    code, _, log = results["bad tokenizer"]
    assert code == 5
    assert "tokenizer.model is not a sentencepiece model" in log
    code, answer, log = results["NaN"]
    assert (code, answer) == (5, "")
    assert "The decoder gave NaN" in log
    assert "Traceback" not in log
    code, _, log = results["no ckpt"]
    assert code == 5
    assert "  ckpt: (empty)\n" in log


@pytest.mark.upstream
def test_low_resource_answers_with_int8_weights(results):
    code, answer, log = results["low_resource"]
    assert code == 0, log
    assert answer.strip()
    assert "int8 weights" in log
    assert "int8 weights" not in results["greedy"][2]


@pytest.mark.upstream
@pytest.mark.skipif(importlib.util.find_spec("torch_npu") is not None, reason="torch_npu is installed here")
def test_an_npu_that_is_not_there_exits_5(results):
    code, _, log = results["npu"]
    assert code == 5
    assert "torch_npu is not installed" in log


@pytest.mark.upstream
def test_a_device_of_another_form_exits_2(results):
    code, _, log = results["not a device"]
    assert code == 2
    assert "'gpu0' is not a device" in log


@pytest.mark.upstream
def test_an_old_torch_npu_is_refused_with_the_minimum(workspace, elsewhere, tmp_path):
    """A stand-in package of the version that is too old: only its version is looked at."""
    (tmp_path / "old" / "torch_npu").mkdir(parents=True)
    (tmp_path / "old" / "torch_npu" / "__init__.py").write_text("__version__ = '2.0.1.post1'\n")
    elsewhere["env"]["PYTHONPATH"] = str(tmp_path / "old")
    done = subprocess.run([sys.executable, str(workspace / "run_predict.py"), *BASE, "--npu-id", "0"], **elsewhere)
    assert done.returncode == 5
    assert "torch_npu 2.0.1.post1 is too old: the minimum is 2.1." in done.stderr


@pytest.fixture
def without_cann(elsewhere, tmp_path):
    """A stand-in torch_npu that torch loads by itself, in a shell where CANN's set_env.sh was forgotten."""
    package = tmp_path / "npu" / "torch_npu"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libhccl.so: cannot open shared object file')\n")
    info = tmp_path / "npu" / "torch_npu-2.13.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.13.0\n")
    (info / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    elsewhere["env"]["PYTHONPATH"] = str(tmp_path / "npu")
    elsewhere["env"].pop("TORCH_DEVICE_BACKEND_AUTOLOAD", None)
    return elsewhere


@pytest.mark.upstream
def test_without_cann_the_npu_names_set_env_and_the_cpu_works(workspace, options, without_cann):
    done = subprocess.run([sys.executable, "-c", "import torch"], **without_cann)
    if done.returncode == 0:
        pytest.skip("this PyTorch loads no backends by itself")
    command = [sys.executable, str(workspace / "run_predict.py"), *BASE, *options]
    done = subprocess.run([*command, "--npu-id", "0"], **without_cann)
    assert done.returncode == 5, done.stderr
    assert "source /usr/local/Ascend/ascend-toolkit/set_env.sh" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run([*command, "--device", "cpu"], **without_cann)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.upstream
def test_a_closed_pipe_ends_quietly(workspace, options, elsewhere):
    command = [sys.executable, str(workspace / "run_predict.py"), *CPU, "--max-new-tokens", "200", *options]
    with subprocess.Popen(
        command, cwd=elsewhere["cwd"], env=elsewhere["env"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.read(1)
        process.stdout.close()
        log = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in log
    assert "BrokenPipe" not in log


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
