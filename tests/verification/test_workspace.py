"""verify.py on the real patched upstream: clean, and with one line of it changed.

Each run needs a process of its own, because Python can import only one `minigpt4`. They are forked from one process
that has imported torch and transformers already.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import verify

pytestmark = pytest.mark.upstream

PROJECT = Path(__file__).resolve().parents[2]
ENCODER = "minigpt4/models/eva_vit_model.py"
CACHE = "minigpt4/models/llama_cache.py"

# name -> (file, what stands there, what is put in its place, stage that must catch it)
FAULTS = {
    "wrong eps": (ENCODER, "BLOCK_EPS = 1e-6", "BLOCK_EPS = 1e-5", "encoder"),
    "dropped ln_vision": (
        "minigpt4/models/minigpt4.py",
        "ln_vision=q_former_model if has_qformer else None",
        "ln_vision=None",
        "encoder",
    ),
    "swapped q and k": (CACHE, "q, k = self.ops.rope(q, k,", "k, q = self.ops.rope(q, k,", "LLM logits"),
    "wrong picture": (
        "minigpt4/processors/pil_transforms.py",
        "        for transform in self.transforms:",
        '        item = self.__dict__.setdefault("first", item)\n        for transform in self.transforms:',
        "processor",
    ),
    "forgetful cache": (
        CACHE,
        "return self.ops.attention(q, k, v, self.length, self.mask)",
        "past = 5 * (self.slots.shape[0] == 1)\n        "
        "return self.ops.attention(q, k[:, :, past:], v[:, :, past:], self.length - past, self.mask)",
        "decode",
    ),
}

_FORK = """
import json, os, sys
from transformers import BertConfig, Blip2QFormerModel, Blip2VisionModel, LlamaForCausalLM, LlamaTokenizer
import verify
for argv, out in json.loads(sys.argv[1]):
    if os.fork() == 0:
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 1)
        code = verify.main(argv)
        sys.stdout.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    with open(out + ".code", "w") as file:
        file.write(str(code))
"""


def run_each(jobs: dict[str, list[str]], folder: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """verify.py --json with each list of arguments -> (exit code, report)."""
    work = [([*argv, "--json"], str(folder / name.replace(" ", "-"))) for name, argv in jobs.items()]
    done = subprocess.run(
        [sys.executable, "-c", _FORK, json.dumps(work)], cwd=PROJECT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    results = {}
    for name, (_, out) in zip(jobs, work):
        text = Path(out).read_text()
        assert text, f"{name}: {done.stderr}"
        results[name] = (int(Path(out + ".code").read_text()), json.loads(text))
    return results


def link_copy(workspace: Path, target: Path) -> Path:
    """A second workspace, of hard links where the file system allows; `plant` replaces a file, never writes into it."""

    def link(source: str, copy: str) -> None:
        try:
            os.link(source, copy)
        except OSError:
            shutil.copy2(source, copy)

    return Path(shutil.copytree(workspace, target, copy_function=link, symlinks=True))


def plant(workspace: Path, file: str, old: str, new: str) -> None:
    path = workspace / file
    text = path.read_text()
    assert text.count(old) == 1, f"{file} no longer holds {old!r} once: give the test another place for its fault"
    path.unlink()
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def results(
    workspace: Path, locked_project: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("results")
    few = folder / "pictures"
    few.mkdir()
    for name in ("office.jpg", "KFC-20-for-20-Nuggets.jpg"):
        shutil.copy(workspace / "examples_v2" / name, few)
    common = ["--project", str(locked_project), "--weights", str(tiny), "--device", "cpu"]
    common += ["--images", str(few)]  # without it, all eight of the workspace: test_gate_shipped.py
    golden = folder / "golden.npz"
    reference = ["--workspace", str(workspace), "--weights", str(tiny), "--images", str(few)]
    assert verify.main(["record", *reference, "--halves", "none", "--out", str(golden)]) == 0
    jobs = {"clean": [*common, "--workspace", str(workspace)]}
    common += ["--no-sampling"]
    jobs["llama2"] = [*common, "--workspace", str(workspace), "--cfg-path", "eval_configs/minigpt4_llama2_eval.yaml"]
    for name, (file, old, new, _) in FAULTS.items():
        copy = link_copy(workspace, folder / f"with {name}")
        plant(copy, file, old, new)
        jobs[name] = [*common, "--workspace", str(copy), "--against", str(golden)]
    copy = link_copy(workspace, folder / "with its own paths")
    for file, (old, new) in {
        "minigpt4/configs/models/minigpt4_vicuna0.yaml": (
            "/data/model/MiniGPT-4/om/eva_vit_g.om",
            "othfiles/eva_vit_g.pth",
        ),
        "eval_configs/minigpt4_eval.yaml": ("/data/model/MiniGPT-4/", ""),
    }.items():
        path = copy / file
        text = path.read_text().replace(old, f"{tiny}/{new}").replace("/data/model/MiniGPT-4", str(tiny))
        path.unlink()
        path.write_text(text)
    jobs["own paths"] = ["--workspace", str(copy), *[word for word in common if word not in ("--weights", str(tiny))]]
    jobs["no weights"] = ["--project", str(locked_project), "--workspace", str(workspace), "--images", str(few)]
    return run_each(jobs, folder)


def outcomes(report: dict[str, Any], part: str) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in report["checks"] if check["part"] == part}


def test_the_patched_upstream_agrees_with_the_reference(results: Any) -> None:
    code, report = results["clean"]
    assert code == 0, json.dumps(report, indent=1)
    assert outcomes(report, "tree") == {"lock": "ok", "local edits": "ok"}
    assert set(outcomes(report, "stages").values()) == {"ok"}
    assert len(outcomes(report, "stages")) == 9
    assert set(outcomes(report, "weights").values()) == {"ok"}
    assert "loaded q_former_model" in outcomes(report, "weights")
    assert len(outcomes(report, "pictures")) == 2
    assert set(outcomes(report, "answers").values()) == {"not judged", "ok"}  # ok: the same seed gives the same text


def test_the_llama2_stage_agrees_too(results: Any) -> None:
    code, report = results["llama2"]
    stages = outcomes(report, "stages")
    assert code == 0, json.dumps(report, indent=1)
    assert set(stages.values()) == {"ok"}
    assert "Q-Former" not in stages


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught_by_its_stage_alone(results: Any, name: str) -> None:
    code, report = results[name]
    file, _, _, stage = FAULTS[name]
    failed = [name for name, outcome in outcomes(report, "stages").items() if outcome == "FAILED"]
    assert code == 1
    # Other logits may well give other tokens: the same fault, seen again.
    follows = {"LLM logits": {"decode", "greedy ids", "repeat"}, "decode": {"greedy ids", "repeat"}}
    assert [found for found in failed if found not in follows.get(stage, ())] == [stage]
    edits = next(check for check in report["checks"] if check["name"] == "local edits")
    assert edits["outcome"] == "note"
    assert edits["numbers"]["edits"] == [file]


def test_a_dropped_ln_vision_is_missed_by_the_weights_too(results: Any) -> None:
    assert outcomes(results["dropped ln_vision"][1], "weights")["loaded ln_vision"] == "FAILED"


def test_a_workspace_is_verified_with_the_paths_that_its_yaml_names(results: Any) -> None:
    _, report = results["own paths"]
    assert set(outcomes(report, "weights").values()) == {"ok"}
    assert set(outcomes(report, "stages").values()) == {"ok"}


def test_missing_weights_are_5_and_name_tiny(results: Any) -> None:
    code, report = results["no weights"]
    assert code == 5
    assert "--weights tiny" in report["hint"]
    assert not outcomes(report, "stages")


def test_another_lock_is_4(results: Any, workspace: Path, locked_project: Path, tmp_path: Path) -> None:
    from verification.tree import check_tree

    project = Path(shutil.copytree(locked_project, tmp_path / "project"))
    lock = project / "configs" / "upstream.yaml"
    tree = results["clean"][1]["checks"][0]["numbers"]["tree"]
    lock.write_text(lock.read_text().replace(tree, "0" * 40))
    check = check_tree(project, workspace)[0]
    assert (check.outcome.value, check.code) == ("FAILED", 4)
