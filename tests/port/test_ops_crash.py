"""An operation that ends the process, or loses its device, in the middle of the check is left out by the next run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from port.models import ops_check, ops_compare, ops_store
from test_ops_kept import NPU0, _disk_full, next_run
from test_ops_kept import npu as npu_to_ask

npu = npu_to_ask  # the fixture

DIES = """
import os, sys, types
sys.path[:0] = [{tests!r}]
import fake_torch_npu, port_package, torch
sys.modules["torch_npu"] = fake = fake_torch_npu.module()
torch.npu = types.SimpleNamespace(get_device_name=lambda index: "Ascend910B3", synchronize=lambda device: None)
fake.{kernel} = lambda *args, **kwargs: os._exit(139)
from port.models import ops_check, ops_compare
from test_ops_kept import NPU0
check = ops_check.check
ops_check.check = lambda table, device, dtypes, *marks: check(table, torch.device("cpu"), dtypes[:1], *marks)
ops_check.npu_checked(NPU0)
ops_check.graph_failure(NPU0, fake.{kernel})
"""


@pytest.mark.parametrize(("kernel", "op"), [("npu_rotary_mul", "rope"), ("graph", "graph")])
def test_what_ended_the_process_is_left_out_by_the_next_run(kernel, op, npu, monkeypatch, tmp_path):
    """Otherwise every run would end there for ever."""
    script = DIES.format(tests=os.path.dirname(__file__), kernel=kernel)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 139, done.stderr
    (mark,) = (tmp_path / "minigpt4-ascend").glob("*.trying")
    assert mark.read_text() == op
    asked = []
    wrong = ops_check.graph_failure(NPU0, asked.append)
    found = {finding.op: finding.outcome for finding in ops_check.npu_checked(NPU0).findings if finding.bad}
    assert found == {op: "crashed"}
    assert (wrong is None) == bool(asked) == (op != "graph")
    assert not mark.exists()
    next_run(monkeypatch)
    assert ops_check.npu_checked(NPU0).kept
    assert op in ops_check.describe(NPU0).split("; ", 1)[1]
    assert not [finding for finding in ops_check.npu_checked(NPU0, again=True).findings if finding.bad]


def test_again_tries_what_ended_a_run(npu):
    identity = ops_store.identity(sys.modules["torch_npu"], "Ascend910B3")
    with pytest.raises(ops_compare.DeviceLost), ops_store.trying(identity, "rope"):
        raise ops_compare.DeviceLost
    assert ops_store.unfinished(identity) == {"rope"}
    assert not [finding for finding in ops_check.npu_checked(NPU0, again=True).findings if finding.bad]
    assert ops_store.unfinished(identity) == set()


def test_a_check_under_way_in_another_process_is_no_crash(npu, tmp_path):
    identity = ops_store.identity(sys.modules["torch_npu"], "Ascend910B3")
    with ops_store.trying(identity, "rope"):
        assert len(list((tmp_path / "minigpt4-ascend").iterdir())) == 1
        assert ops_store.unfinished(identity, forget=["rope"]) == set()
        assert not [finding for finding in ops_check.npu_checked(NPU0).findings if finding.bad]
    with pytest.raises(KeyboardInterrupt), ops_store.trying(identity, "rope"):
        raise KeyboardInterrupt
    assert ops_store.unfinished(identity) == set()


@pytest.mark.parametrize("obstacle", ["no locks", "the disk is full", "no folder"])
def test_where_no_mark_can_be_kept_there_is_none(obstacle, npu, monkeypatch, tmp_path):
    if obstacle == "no locks":
        monkeypatch.setattr(ops_store, "_lock", lambda file, wait: False)
    elif obstacle == "no folder":
        monkeypatch.setattr(ops_store.tempfile, "mkstemp", _disk_full)
    else:
        monkeypatch.setattr(ops_store.os, "write", _disk_full)
    identity = ops_store.identity(sys.modules["torch_npu"], "Ascend910B3")
    with ops_store.trying(identity, "rope"):
        assert not list(tmp_path.glob("minigpt4-ascend/*"))
