"""The check of an NPU's operations happens once: what it found is kept, said in reports, and never in the way.

torch_npu is stood in for on the CPU (npu_stand_in.py).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import types
from typing import NamedTuple

import fake_torch_npu
import pytest
import torch
from npu_stand_in import CPU, HALF, mask_not_read_beyond_512
from port.models import llama_ops, ops_check, ops_compare, ops_store
from port.models.llama_ops import REFERENCE
from port.models.ops_cases import CASES
from port.models.ops_compare import check


class Npu(NamedTuple):
    """As much of torch.device("npu", 0) as the check reads; that one exists only where torch_npu is loaded."""

    type: str = "npu"
    index: int = 0

    def __str__(self) -> str:
        return f"{self.type}:{self.index}"


NPU0 = Npu()


@pytest.fixture
def npu(monkeypatch, tmp_path, torch_npu):
    """An NPU to ask about: its tensors stay on the CPU. Returns the list of checks that were made."""
    runtime = types.SimpleNamespace(get_device_name=lambda index: "Ascend910B3")
    monkeypatch.setattr(torch, "npu", runtime, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MINIGPT4_NPU_OPS", raising=False)
    made = []

    def check_on_cpu(table, device, dtypes, *marks):
        made.append(device)
        return check(table, CPU, HALF, *marks)

    few = {**CASES, "attention": lambda *args: itertools.islice(CASES["attention"](*args), 3)}
    monkeypatch.setattr(ops_compare, "CASES", few)
    monkeypatch.setattr(ops_check, "check", check_on_cpu)
    monkeypatch.setattr(ops_check, "require_alive", lambda device, *rest: ops_compare.require_alive(CPU, *rest))
    monkeypatch.setattr(ops_check, "_CHECKED", {})
    return made


def next_run(monkeypatch):
    monkeypatch.setattr(ops_check, "_CHECKED", {})


def test_the_table_of_an_npu_is_checked_once_and_kept(npu, monkeypatch, npu_table, tmp_path):
    assert llama_ops.ops_for(NPU0).attention is npu_table.attention
    assert llama_ops.ops_for(NPU0).rope is npu_table.rope
    assert len(npu) == 1
    next_run(monkeypatch)
    assert llama_ops.ops_for(NPU0).attention is npu_table.attention
    assert len(npu) == 1
    (file,) = (tmp_path / "minigpt4-ascend").iterdir()  # and nothing half-written beside it
    content = json.loads(file.read_text())
    assert content["identity"]["processor"] == "Ascend910B3"
    assert content["identity"]["cann"].startswith("9.2.0 in ")
    assert ops_check.npu_checked(NPU0).kept


def test_what_had_to_be_replaced_stays_replaced_in_the_next_run(npu, monkeypatch, plant):
    plant("npu_swiglu", lambda good, x, dim: good(x, dim) + 0.31)
    assert llama_ops.ops_for(NPU0).swiglu is REFERENCE.swiglu
    next_run(monkeypatch)
    assert llama_ops.ops_for(NPU0).swiglu is REFERENCE.swiglu
    assert len(npu) == 1
    text = ops_check.describe(NPU0)
    assert text.startswith("npu:0 (Ascend910B3): fused ops: int8_linear, rms_norm, add_rms_norm, rope, write_kv, att")
    assert re.search(r"; plain PyTorch instead of: swiglu \(differs by 0\.3\d\)$", text)


def test_again_checks_again(npu):
    llama_ops.ops_for(NPU0)
    assert not ops_check.npu_checked(NPU0, again=True).kept
    assert len(npu) == 2


@pytest.mark.parametrize("what", ["torch_npu", "cann", "torch", "processor", "code", "folder of CANN"])
def test_other_software_is_checked_anew(what, npu, monkeypatch, torch_npu):
    llama_ops.ops_for(NPU0)
    next_run(monkeypatch)
    if what == "torch_npu":
        monkeypatch.setattr(torch_npu, "__version__", "2.14.0")
    elif what == "cann":
        monkeypatch.setattr(torch_npu, "utils", types.SimpleNamespace(get_cann_version=lambda: "9.3.0"))
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "2.14.0")
    elif what == "processor":
        monkeypatch.setattr(torch.npu, "get_device_name", lambda index: "Ascend910_9391")
    elif what == "code":
        monkeypatch.setattr(ops_store, "_code_hash", lambda: "another")
    else:
        monkeypatch.setenv("ASCEND_HOME_PATH", "/usr/local/Ascend/8.0")
    llama_ops.ops_for(NPU0)
    assert len(npu) == 2


def test_the_hash_covers_every_model_file(tmp_path, monkeypatch):
    models = os.path.dirname(ops_store.__file__)
    shutil.copytree(models, tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    before = ops_store._code_hash()
    monkeypatch.setattr(ops_store, "__file__", str(tmp_path / "models" / "ops_store.py"))
    assert ops_store._code_hash() == before, "the same files elsewhere"
    for name in ("llama_cache.py", "llama_int8.py", "llama_ops_npu.py", "ops_cases.py"):
        with open(tmp_path / "models" / name, "a") as file:
            file.write("# changed\n")
        assert ops_store._code_hash() != before, name
        before = ops_store._code_hash()


def test_without_the_folder_of_cann_the_working_directory_does_not_count(torch_npu, monkeypatch, tmp_path):
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    here = ops_store.identity(torch_npu, "Ascend910B3")
    monkeypatch.chdir(tmp_path)
    assert ops_store.identity(torch_npu, "Ascend910B3") == here


def test_a_torch_npu_that_knows_no_cann_version_is_no_obstacle(npu, monkeypatch, torch_npu):
    monkeypatch.delattr(torch_npu, "utils")
    monkeypatch.setenv("ASCEND_HOME_PATH", "/usr/local/Ascend/8.0")
    assert ops_store.identity(torch_npu, "x")["cann"] == "unknown in /usr/local/Ascend/8.0"
    monkeypatch.setattr(torch_npu, "utils", types.SimpleNamespace(get_cann_version=lambda: [][0]), raising=False)
    assert ops_store.identity(torch_npu, "x")["cann"] == "unknown in /usr/local/Ascend/8.0"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "{",
        lambda content: "",
        lambda content: "[]",
        lambda content: json.dumps({**content, "identity": {}}),
        lambda content: json.dumps({**content, "found": None}),
        lambda content: json.dumps({**content, "found": content["found"][:-1]}),
        lambda content: json.dumps({**content, "found": [["swiglu"]]}),
        lambda content: json.dumps({**content, "found": [1]}),
        lambda content: json.dumps({**content, "found": [[*row[:1], "fine", *row[2:]] for row in content["found"]]}),
        lambda content: json.dumps({**content, "found": [[*row[:3], "0"] for row in content["found"]]}),
    ],
)
def test_a_damaged_file_is_as_if_it_were_not_there(damage, npu, monkeypatch, tmp_path):
    llama_ops.ops_for(NPU0)
    (file,) = (tmp_path / "minigpt4-ascend").iterdir()
    file.write_text(damage(json.loads(file.read_text())))
    next_run(monkeypatch)
    assert not ops_check.npu_checked(NPU0).kept
    assert len(npu) == 2
    next_run(monkeypatch)
    assert ops_check.npu_checked(NPU0).kept  # it was written anew


def test_a_file_that_is_not_text_is_not_there(npu, monkeypatch, tmp_path):
    llama_ops.ops_for(NPU0)
    (file,) = (tmp_path / "minigpt4-ascend").iterdir()
    file.write_bytes(b"\xff\xfe\x00")
    next_run(monkeypatch)
    llama_ops.ops_for(NPU0)
    assert len(npu) == 2


@pytest.mark.parametrize("obstacle", ["a file in the way", "no home", "the disk is full"])
def test_what_cannot_be_kept_is_checked_in_every_run(obstacle, npu, monkeypatch, tmp_path):
    if obstacle == "a file in the way":
        (tmp_path / "minigpt4-ascend").touch()
    elif obstacle == "no home":
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setattr(ops_store.Path, "home", _no_home)
    else:
        monkeypatch.setattr(ops_store.os, "replace", _disk_full)
    for _ in range(2):
        assert llama_ops.ops_for(NPU0).rope is not REFERENCE.rope
        next_run(monkeypatch)
    assert len(npu) == 2
    if obstacle == "the disk is full":
        assert not list((tmp_path / "minigpt4-ascend").iterdir())


def _no_home():
    raise RuntimeError("Could not determine home directory.")


def _disk_full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_a_user_without_an_entry_in_passwd_has_no_home(monkeypatch):
    """Python 3.9's Path.home() raises KeyError there."""
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(ops_store.Path, "home", lambda: {}["getpwuid(): uid not found: 1234"])
    assert ops_store.file_of({}) is None


def test_a_relative_cache_folder_is_not_followed(monkeypatch):
    """The specification of XDG_CACHE_HOME: paths that are not absolute are to be ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert ops_store.file_of({}).is_absolute()


def test_a_lack_of_memory_is_not_remembered(npu, monkeypatch, torch_npu, plant):
    def full(good, *args):
        raise RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB")

    plant("npu_swiglu", full)
    assert llama_ops.ops_for(NPU0).swiglu is REFERENCE.swiglu
    monkeypatch.setattr(torch_npu, "npu_swiglu", fake_torch_npu.OPERATIONS["npu_swiglu"])
    next_run(monkeypatch)
    assert llama_ops.ops_for(NPU0).swiglu is not REFERENCE.swiglu


def test_the_check_can_be_switched_off(npu, monkeypatch, npu_table):
    monkeypatch.setenv("MINIGPT4_NPU_OPS", "fused")
    assert llama_ops.ops_for(NPU0).attention is npu_table.attention
    assert ops_check.graph_failure(NPU0, lambda device: "wrong") is None
    next_run(monkeypatch)
    monkeypatch.setenv("MINIGPT4_NPU_OPS", "plain")
    assert llama_ops.ops_for(NPU0) is REFERENCE
    assert ops_check.describe(NPU0) == "npu:0 (Ascend910B3): fused ops: none"
    assert "MINIGPT4_NPU_OPS" in ops_check.graph_failure(NPU0, [].append)
    assert npu == []
    next_run(monkeypatch)
    monkeypatch.setenv("MINIGPT4_NPU_OPS", "fast")
    with pytest.raises(ValueError, match="'fast': write checked, fused or plain"):
        llama_ops.ops_for(NPU0)


def test_a_graph_is_checked_once_and_kept(npu, monkeypatch):
    calls = []
    assert ops_check.graph_failure(NPU0, lambda device: calls.append(device)) is None
    assert ops_check.graph_failure(NPU0, lambda device: calls.append(device)) is None
    next_run(monkeypatch)
    assert ops_check.graph_failure(NPU0, lambda device: calls.append(device)) is None
    assert calls == [NPU0]
    assert len(npu) == 1


def test_a_graph_that_fails_is_off_and_said(npu, monkeypatch):
    def raises(device):
        raise RuntimeError("capture failed")

    wrong = ops_check.graph_failure(NPU0, raises)
    assert wrong == "recording or replaying it raised RuntimeError: capture failed"
    next_run(monkeypatch)
    assert ops_check.graph_failure(NPU0, lambda device: None) == wrong
    assert ops_check.describe(NPU0).endswith(f"swiglu; steps are not recorded as a graph: {wrong}")
    assert llama_ops.ops_for(NPU0).swiglu is not REFERENCE.swiglu


def test_without_the_fused_attention_there_is_no_graph(npu, plant):
    plant("npu_fused_infer_attention_score", mask_not_read_beyond_512)
    asked = []
    wrong = ops_check.graph_failure(NPU0, asked.append)
    assert wrong.startswith("the fused attention with padding is not used: it differs by ")
    assert asked == []


def test_other_devices_are_described_without_a_check(npu):
    assert "attention" in ops_check.describe(CPU)
    assert npu == []
