"""run_predict.py the whole way, on real upstream with synthetic weights: many calls of it in one process.

Calls that need a process of their own: test_run_predict_process.py.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
from PIL import Image
from predict_runs import BASE, CPU

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
@pytest.mark.slow
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
