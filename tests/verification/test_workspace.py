"""verify.py on the real patched upstream; tests/mutation/ plants faults in it.

Each run needs a process of its own, because Python can import only one `minigpt4`. They are forked from one process
that has imported torch and transformers already.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.upstream

PROJECT = Path(__file__).resolve().parents[2]
# YAML -> (what stands there, what of the synthetic weights is put in its place)
OWN_PATHS = {
    "minigpt4/configs/models/minigpt4_vicuna0.yaml": (
        "/data/model/MiniGPT-4/om/eva_vit_g.om",
        "othfiles/eva_vit_g.pth",
    ),
    "eval_configs/minigpt4_eval.yaml": ("/data/model/MiniGPT-4/", ""),
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
    jobs = {"clean": [*common, "--workspace", str(workspace)]}
    common += ["--no-sampling"]
    jobs["llama2"] = [*common, "--workspace", str(workspace), "--cfg-path", "eval_configs/minigpt4_llama2_eval.yaml"]
    copy = Path(shutil.copytree(workspace, folder / "with its own paths", symlinks=True))
    for file, (old, new) in OWN_PATHS.items():
        path = copy / file
        text = path.read_text().replace(old, f"{tiny}/{new}").replace("/data/model/MiniGPT-4", str(tiny))
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


def test_a_workspace_is_verified_with_the_paths_that_its_yaml_names(results: Any) -> None:
    _, report = results["own paths"]
    edits = next(check for check in report["checks"] if check["name"] == "local edits")
    assert edits["outcome"] == "note"
    assert set(edits["numbers"]["edits"]) == set(OWN_PATHS)
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
