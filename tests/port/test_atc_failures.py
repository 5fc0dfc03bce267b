"""What a failed run of ATC is explained as: the messages of real ones, printed by the stand-in."""

from __future__ import annotations

import pytest
from atc_files import planned, program, run_atc
from port.export import atc, atc_failures

EXPLAINED = {
    "library": ("libge_compiler.so", "set_env.sh"),
    "driver": ("libascend_hal.so", "devlib"),
    "python": ("the Python package decorator", "pip install"),
    "te_fusion": ("cannot import te_fusion", "PYTHONPATH"),
    "processor": ("does not know the processor Ascend910B3", "npu-smi info"),
    "kernels": ("no kernel of MatMulV2", "kernels"),
    "opp": ("LayerNorm", "ASCEND_OPP_PATH"),
    "parser": ("cannot read the operator ai.onnx::17::LayerNormalization", "--opset"),
    "parser2": ("cannot read the operator ai.onnx::17::LayerNormalization", "--opset"),
    "unsupported": ("Erf", "--opset"),
    "compile": ("blocks.3.mlp.fc1", "TE_PARALLEL_COMPILER=1"),
    "memory": ("Memory ran out", "swap"),
    "killed": ("signal 9", "swap"),
    "disk": ("The disk is full", "Make room"),
    "permission": ("may not use a file: /root/atc_data", "HwHiAiUser"),
    "model": ("Failed to load the model from eva_vit_g.onnx", "Export it again"),
    "inner": ("E19999", "plog"),
    "silent": ("exit code 3", "--log debug"),
    "crash": ("signal 11", "--log debug"),
    "unsure": ("exit code 0", "--log debug"),
}


@pytest.mark.parametrize("fault", EXPLAINED)
def test_failures_are_explained(fault: str, staged, atc_env) -> None:
    model, folder, _ = staged()
    finished = run_atc(model, folder, atc_env, fault)
    assert not finished.good
    text = " ".join(atc_failures.explain(finished.lines, finished.code))
    for part in EXPLAINED[fault]:
        assert part in text, text


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("--input_shape=input:-1,3,8,8", ("refuses --input_shape", "E10011")),
        ("--input_shape=picture:1,3,8,8", ("no input named", "onnx_model_export.py")),
        ("--dynamic_batch_size=2", ("E10018",)),
        ("--precision_mode=force_fp16", ("exclude each other",)),
        ("--precision_mode_v2=fp64", ("does not know fp64 for --precision_mode_v2", "origin")),
        ("--soc_version=Ascend910B9", ("does not know the processor Ascend910B9", "kernels")),
        ("--log=loud", ("refuses --log=loud", "atc --help")),
        ("--model=a b.onnx", ("refuses a path", "no spaces")),
        ("--nonsense=1", ("does not know --nonsense", "CANN 7.0")),
        ("--framework", ("not given", "spaces")),
    ],
)
def test_refused_options_are_explained(option: str, parts: tuple[str, ...], staged, atc_env) -> None:
    model, folder, _ = staged()
    name = option.partition("=")[0]
    argv = [it for it in planned(model, atc=str(program(folder.parent / "bin"))).argv if it.partition("=")[0] != name]
    if "=" in option:
        argv.append(option)
    finished = atc.run(argv, folder, atc_env, folder.parent / "log", lambda line: None)
    text = " ".join(atc_failures.explain(finished.lines, finished.code))
    for part in parts:
        assert part in text or part in " ".join(finished.lines), text
    assert parts[0] in text or parts[0].startswith("E1"), text


def test_weights_that_atc_does_not_find_are_explained(staged, atc_env) -> None:
    model, folder, _ = staged()
    (folder / "0001.weight").unlink()
    finished = run_atc(model, folder, atc_env)
    text = " ".join(atc_failures.explain(finished.lines, finished.code))
    assert "did not find the model's weights" in text
    assert "om_model_convert.py" in text


@pytest.mark.parametrize("code", [137, -9])
def test_killed_for_memory_even_behind_a_shell(code: int) -> None:
    assert "Memory ran out" in atc_failures.explain((), code)[0]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("E10001: Value [-1] for parameter [input:0] is invalid.", "--batch-sizes"),  # as CANN up to 8 writes it
        ("E10001: Value Ascend910X for parameter --soc_version is invalid. Reason: x", "processor Ascend910X"),
        ("EE1000: Value Ascend910X is invalid for the SoC version. Valid values are: a", "processor Ascend910X"),
        ("EC0005: Value [Ascend910X] for parameter [--soc_version] is invalid or the config", "processor Ascend910X"),
        ("E40001: Failed to import the Python module: [te.platform]", "import te.platform"),
        ("E40020: Failed to import Python module te_fusion. Reason: x.", "import te_fusion"),
        ("EZ9010: No parser is registered for Op [n, optype [ai.onnx::18::Gelu]].", "operator ai.onnx::18::Gelu"),
        ("EZ3003: No supported Ops kernel and engine are found for X1, optype X.", "no kernel of X"),
        ("E40021: Failed to compile Op blocks.0.fc1. (oppath: x", "failed at blocks.0.fc1"),
        ("E10010: Value loud for parameter --log is invalid.", "refuses --log=loud"),
        ("OSError: [Errno 12] Cannot allocate memory", "Memory ran out"),
        (
            "E13023: Model x has a size of 9 bytes, which exceeds system limit of 8 bytes.",
            "larger than this ATC writes",
        ),
    ],
)
def test_both_ways_of_writing_a_message(line: str, part: str) -> None:
    """With brackets around values, up to CANN 8, and without."""
    assert part in atc_failures.explain([line], 255)[0]


def test_the_telling_reasons_come_first_and_few() -> None:
    lines = ["No module named 'sympy'", "E40021: Failed to compile Op [x].", "E19999: Inner Error!"]
    reasons = atc_failures.explain(lines, 255)
    assert len(reasons) == 1
    assert "sympy" in reasons[0]


def test_every_entry_of_the_table_is_a_sentence() -> None:
    for failure in atc_failures.FAILURES:
        said = atc_failures._say(failure, ["x"] * 3)
        assert said.endswith((".", ")")), failure.name
        assert "{" not in said


@pytest.mark.parametrize(
    ("line", "start"),
    [
        ("Operation not permitted", "ATC may not use a file. It belongs to"),
        ("E13023: Model x is too large.", "The OM is larger than this ATC writes. Model x is too large. Weights in"),
        ("E13001: x: no such file", "A file cannot be used: x: no such file. See the reason"),
    ],
)
def test_what_atc_says_ends_as_a_sentence(line: str, start: str) -> None:
    assert atc_failures.explain([line], 255)[0].startswith(start)
