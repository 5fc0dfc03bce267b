"""The class that transformers' AutoModelForCausalLM loads after --install-auto-map, by the command line."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import port_package
import pytest
from llama_folders import write_folder
from port.perf.auto_map import FILE

MODELS = port_package.OVERLAY / "minigpt4" / "models"

LOAD = """
import json, os, sys, torch, transformers
from transformers import AutoModelForCausalLM
folder, options = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)
ids = torch.tensor([[1, 5, 6]])
plain = model.generate(ids, max_new_tokens=4, eos_token_id=None)
os.environ["RETURN_PERF_DETAIL"] = "1"
again, detail = model.generate(ids, max_new_tokens=4, eos_token_id=None, stopping_criteria=lambda *_: False)
print(json.dumps({"dtype": str(model.dtype), "ids": plain.tolist(), "again": again.tolist(), "detail": detail,
                  "module": type(model).__module__, "base": type(model).mro()[-3].__module__}))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A model folder after --install-auto-map. Do not change it: copy it."""
    folder = write_folder(tmp_path_factory.mktemp("installed") / "weights")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(port_package.OVERLAY / "run_performance.py"), "--install-auto-map", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert "trust_remote_code=True" in done.stdout
    return folder, environment


@pytest.fixture
def installed(prepared, tmp_path):
    folder, environment = prepared
    copy = shutil.copytree(folder, tmp_path / "weights")
    return copy, {**environment, "HF_MODULES_CACHE": str(tmp_path / "cache")}


def load(folder: Path, environment: dict[str, str], **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", LOAD, str(folder), json.dumps(options)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder.parent)


BFLOAT16 = {"torch_dtype": "bfloat16", "device_map": "cpu", "low_cpu_mem_usage": True}


@pytest.mark.parametrize("options", [{}, pytest.param(BFLOAT16, marks=pytest.mark.slow)], ids=["plain", "bfloat16"])
def test_auto_model_loads_our_decoder_and_its_timings(installed, options):
    """With whatever transformers is installed: `make test-matrix` runs this under 4.30.2, 4.57.x and 5.x."""
    import torch
    from port.models.modeling_vicuna_ascend import LlamaForCausalLM

    done = load(*installed, **options)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["module"].endswith("modeling_vicuna_ascend_performance")
    assert said["dtype"] == f"torch.{options.get('torch_dtype', 'float32')}"
    assert said["ids"] == said["again"]
    assert len(said["ids"][0]) == 7
    detail = said["detail"]
    assert 0 < detail["first"] < detail["response"]
    assert len(detail["tokens"]) == 4
    assert detail["next"] == pytest.approx((detail["response"] - detail["first"]) / 3)
    if not options:
        model = LlamaForCausalLM.from_pretrained(installed[0])
        ids = torch.tensor([[1, 5, 6]])
        assert model.generate(ids, max_new_tokens=4, eos_token_id=None).tolist() == said["ids"]


@pytest.mark.slow
def test_a_workspace_that_has_gone_is_named_with_the_way_out(installed):
    folder, environment = installed
    copy = folder / FILE
    copy.write_text(copy.read_text().replace(str(MODELS.resolve()), "/gone/models"))
    done = load(folder, environment)
    assert done.returncode == 1
    assert "is not where it was when auto_map was installed (/gone/models)" in done.stderr
    assert "--install-auto-map WEIGHTS" in done.stderr
    environment["PYTHONPATH"] = str(port_package.OVERLAY)  # as Python started in the workspace would have it
    done = load(folder, environment)
    assert done.returncode == 0, done.stderr


def test_inside_the_workspace_it_is_a_module_like_the_others(caplog):
    module = importlib.import_module("port.models.modeling_vicuna_ascend_performance")
    from port.models.modeling_vicuna_ascend import LlamaForCausalLM

    assert issubclass(module.LlamaForCausalLM, LlamaForCausalLM)
    with pytest.raises(FileNotFoundError):
        module.LlamaForCausalLM.from_pretrained("nowhere", revision="main", atention="sdpa")
    assert "ignores atention." in caplog.text


def test_the_command_line_removes_and_refuses(installed, tmp_path):
    folder, environment = installed
    script = [sys.executable, str(port_package.OVERLAY / "run_performance.py")]
    run = {"capture_output": True, "text": True, "env": environment}
    assert subprocess.run([*script, "--remove-auto-map", str(folder)], **run).returncode == 0
    assert not (folder / FILE).exists()
    done = subprocess.run([*script, "--install-auto-map", str(tmp_path / "nowhere")], **run)
    assert done.returncode == 2
    assert "config.json does not exist" in done.stderr
