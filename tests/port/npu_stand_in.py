"""What the tests of the NPU's operations share: torch_npu stood in for on the CPU, and mistakes to plant in it."""

from __future__ import annotations

import sys

import fake_torch_npu
import pytest
import torch

CPU = torch.device("cpu")
HALF = (torch.float16,)


@pytest.fixture
def torch_npu(monkeypatch):
    """The stand-in as `import torch_npu` finds it, and llama_ops_npu.py imported anew with it."""
    fake = fake_torch_npu.module()
    monkeypatch.setitem(sys.modules, "torch_npu", fake)
    monkeypatch.delitem(sys.modules, "port.models.llama_ops_npu", raising=False)
    yield fake
    sys.modules.pop("port.models.llama_ops_npu", None)


@pytest.fixture
def npu_table(torch_npu):
    from port.models.llama_ops_npu import NPU

    return NPU


@pytest.fixture
def plant(monkeypatch, torch_npu):
    """plant(name, change): torch_npu.name becomes change(the good one, *arguments)."""

    def replace(name, change):
        good = fake_torch_npu.OPERATIONS[name]
        monkeypatch.setattr(torch_npu, name, lambda *args, **kwargs: change(good, *args, **kwargs))

    return replace


def mask_not_read_beyond_512(good, *args, atten_mask, **kwargs):
    """vllm-ascend issue 15503."""
    if atten_mask is not None and atten_mask.dim() == 4:
        atten_mask = atten_mask.clone()
        atten_mask[..., 512:] = False
    return good(*args, atten_mask=atten_mask, **kwargs)


def bad(findings):
    return {finding.op for finding in findings if finding.bad}
