"""Which Ascend processors are taken and which are refused, whatever a release of torch_npu lets us read."""

from __future__ import annotations

import re
import sys
import types

import pytest
import torch
from port.models.device import DeviceUnavailable, resolve_device
from port.models.npu_soc import REFUSED, SUPPORTED


@pytest.fixture
def card(monkeypatch):
    """Pretend that an NPU with this code and this name is there; None: this release cannot read it."""
    if torch._C._get_privateuse1_backend_name() != "npu":
        torch.utils.rename_privateuse1_backend("npu")
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    calls = []

    def install(code, name, cards=1):
        core = types.SimpleNamespace() if code is None else types.SimpleNamespace(_npu_get_soc_version=lambda: code)

        def get_device_name(index):
            calls.append(("get_device_name", index))
            if name is None:
                raise RuntimeError("aclrtGetSocName failed")
            return name

        runtime = types.SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: cards,
            set_device=lambda index: calls.append(("set_device", index)),
            current_device=lambda: 0,
            get_device_name=get_device_name,
        )
        monkeypatch.setitem(sys.modules, "torch_npu", types.SimpleNamespace(__version__="2.1.0", _C=core))
        monkeypatch.setattr(torch, "npu", runtime, raising=False)
        return calls

    return install


@pytest.mark.parametrize("code", [220, 221, 222, 223, 224, 225, 250, 251, 252, 253, 254, 255, 256])
def test_every_910b_and_a3_is_taken(card, code):
    card(code, None)
    assert resolve_device("npu:0") == torch.device("npu", 0)


def test_the_names_are_those_of_the_codes():
    assert SUPPORTED[220] == "910B1"
    assert SUPPORTED[225] == "910B4-1"
    assert SUPPORTED[250] == "910_9391"
    assert SUPPORTED[256] == "910_9363"
    assert REFUSED[104] == "910B"  # the old training card: another processor than 910B1 to 910B4
    assert REFUSED[205] == "310P7"
    assert not set(SUPPORTED) & set(REFUSED)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (100, "Ascend910PremiumA"),
        (104, "Ascend910B"),
        (202, "Ascend310P3"),
        (240, "Ascend310B1"),
        (260, "Ascend950"),
    ],
)
def test_other_processors_are_refused_by_name(card, code, name):
    card(code, None)
    said = rf"npu:0 is {name} \(code {code}\).*nobody has said yet what they allow.*Use --device cpu"
    with pytest.raises(DeviceUnavailable, match=said):
        resolve_device("npu:0")


def test_a_refused_code_is_not_saved_by_a_name(card):
    card(202, "Ascend910B3")
    with pytest.raises(DeviceUnavailable, match="Ascend310P3"):
        resolve_device("npu:0")


@pytest.mark.parametrize("code", [None, -1, 999])
def test_the_name_decides_where_the_code_says_nothing(card, code):
    """A torch_npu that is older than the processor."""
    card(code, "Ascend910B4-1")
    assert resolve_device("npu:0") == torch.device("npu", 0)


@pytest.mark.parametrize("name", ["Ascend310P3", "Ascend910B", "Ascend950PR_9579", "910B33", "", None])
@pytest.mark.parametrize("code", [None, 999])
def test_what_nobody_knows_is_refused_in_one_sentence(card, code, name):
    card(code, name)
    with pytest.raises(DeviceUnavailable, match=re.escape(f"npu:0 is {name or 'an unknown processor'} (code {code})")):
        resolve_device("npu:0")


def test_the_processor_is_read_on_the_card_that_was_asked_for(card):
    """Reading it starts the runtime on the current card: that must not be card 0 of somebody else."""
    calls = card(223, "Ascend910B3", cards=4)
    resolve_device("npu:3")
    assert calls[0] == ("set_device", 3)
    assert ("get_device_name", 3) in calls
