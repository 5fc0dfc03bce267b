"""Which device a spec becomes. No NPU exists here, so torch_npu is stood in for; its real wheel has tests elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch
from port.models import device as device_module
from port.models.device import (
    DeviceUnavailable,
    choose_dtype,
    compute_dtype,
    hide_torch_npu,
    resolve_device,
    select_device,
    synchronize,
)


@pytest.fixture
def no_npu(monkeypatch):
    monkeypatch.setattr(device_module, "_torch_npu_installed", lambda: False)


@pytest.fixture
def npu(monkeypatch):
    """Pretend that torch_npu is installed and sees some cards; returns a function that says how many."""
    if torch._C._get_privateuse1_backend_name() != "npu":  # once per process, as torch_npu does on import
        torch.utils.rename_privateuse1_backend("npu")
    calls = []

    def install(cards=1, version="2.13.0"):
        core = types.SimpleNamespace(_npu_get_soc_version=lambda: 223)  # a 910B3
        monkeypatch.setitem(sys.modules, "torch_npu", types.SimpleNamespace(__version__=version, _C=core))
        runtime = types.SimpleNamespace(
            is_available=lambda: cards > 0,
            device_count=lambda: cards,
            set_device=lambda device: calls.append(("set_device", device)),
            current_device=lambda: 0,
            synchronize=lambda device: calls.append(("synchronize", device)),
        )
        monkeypatch.setattr(torch, "npu", runtime, raising=False)
        return calls

    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    return install


@pytest.mark.parametrize("spec", ["auto", "AUTO", 0, "0", 3, "cpu", "cpu:0", torch.device("cpu")])
def test_without_an_accelerator_everything_is_the_cpu(spec, no_npu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(spec) == torch.device("cpu")


@pytest.mark.parametrize("spec", ["gpu", "npu:x", "npu:-1", "cuda:0:1", "", -1, None])
def test_another_form_is_refused(spec):
    with pytest.raises(ValueError, match="is not a device"):
        resolve_device(spec)


def test_importing_the_module_does_not_import_torch_npu():
    assert "torch_npu" not in sys.modules


def test_the_npu_comes_before_cuda(npu, monkeypatch):
    npu(cards=4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("npu", 0)
    assert resolve_device(2) == torch.device("npu", 2)
    assert resolve_device("npu") == torch.device("npu", 0)
    assert resolve_device(torch.device("npu", 3)) == torch.device("npu", 3)


def test_cuda_is_taken_where_it_is(no_npu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceUnavailable, match=r"cuda:2 does not exist: this machine has 2 \(cuda:0 to cuda:1\)"):
        resolve_device("cuda:2")


def test_missing_cuda_is_said(no_npu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceUnavailable, match="sees no CUDA device"):
        resolve_device("cuda:0")


def test_missing_torch_npu_is_said(no_npu):
    with pytest.raises(DeviceUnavailable, match="torch_npu is not installed"):
        resolve_device("npu:0")


@pytest.mark.parametrize("version", ["2.0.1", "2.0.1.post1", "1.11.0", "unknown"])
def test_an_old_torch_npu_is_refused_with_the_minimum(npu, version):
    npu(version=version)
    with pytest.raises(DeviceUnavailable, match=r"too old: the minimum is 2\.1\."):
        resolve_device("npu:0")


@pytest.mark.parametrize("version", ["2.1.0", "2.1.0.post17", "2.13.0", "3.0.0"])
def test_a_new_torch_npu_is_taken(npu, version):
    npu(version=version)
    assert resolve_device("npu:0") == torch.device("npu", 0)


def test_torch_npu_without_cann_names_set_env(npu, monkeypatch):
    npu()

    def fail(name):
        raise ImportError("libhccl.so: cannot open shared object file")

    monkeypatch.setattr(device_module.importlib, "import_module", fail)
    with pytest.raises(DeviceUnavailable, match=r"(?s)libhccl\.so.*set_env\.sh"):
        resolve_device("auto")


@pytest.mark.parametrize("error", [ImportError("x"), OSError("x"), RuntimeError("x")])
def test_whatever_loading_torch_npu_raises_is_explained(npu, monkeypatch, error):
    npu()

    def fail(name):
        raise error

    monkeypatch.setattr(device_module.importlib, "import_module", fail)
    with pytest.raises(DeviceUnavailable, match="set_env"):
        resolve_device("npu:0")


def test_a_hidden_torch_npu_is_found_by_nobody(tmp_path, monkeypatch):
    (tmp_path / "torch_npu.py").write_text("raise ImportError('libhccl.so')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    monkeypatch.delitem(sys.modules, "torch_npu")  # both undone after the test
    assert importlib.util.find_spec("torch_npu") is not None
    hide_torch_npu()
    assert importlib.util.find_spec("torch_npu") is None
    with pytest.raises(DeviceUnavailable, match="not installed"):
        resolve_device("npu:0")


def test_a_loaded_torch_npu_is_not_hidden(npu):
    npu()
    loaded = sys.modules["torch_npu"]
    hide_torch_npu()
    assert sys.modules["torch_npu"] is loaded


def test_selecting_a_gpu_makes_it_the_current_one(monkeypatch):
    """Without it, what is allocated without naming a device goes to card 0."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    select_device(torch.device("cuda", 1))
    assert chosen == [torch.device("cuda", 1)]


def test_no_card_is_said(npu):
    npu(cards=0)
    with pytest.raises(DeviceUnavailable, match="npu-smi info"):
        resolve_device("npu:0")


def test_a_number_outside_the_visible_cards_explains_the_renumbering(npu, monkeypatch):
    npu(cards=2)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,5")
    assert resolve_device("npu:1") == torch.device("npu", 1)  # card 5
    with pytest.raises(DeviceUnavailable) as error:
        resolve_device("npu:4")
    text = str(error.value)
    assert "ASCEND_RT_VISIBLE_DEVICES=4,5 leaves 2 visible" in text
    assert "renumbered from 0 (npu:0 is card 4, npu:1 is card 5)" in text
    assert "Use npu:0 to npu:1" in text


def test_dtypes(npu):
    npu()
    assert compute_dtype(torch.device("cpu")) is torch.float32
    assert compute_dtype(torch.device("cuda", 0)) is torch.float16
    assert compute_dtype(torch.device("npu", 0)) is torch.float16


def test_select_and_synchronize_reach_the_npu(npu):
    calls = npu()
    device = torch.device("npu", 0)
    select_device(device)
    synchronize(device)
    assert calls == [("set_device", device), ("synchronize", device)]
    select_device(torch.device("cpu"))
    synchronize(torch.device("cpu"))
    assert len(calls) == 2


# The dtype of the language model


@pytest.mark.parametrize(
    ("kind", "words", "name", "dtype"),
    [
        ("cpu", "flags : fpu avx512_bf16 amx_tile", "auto", torch.bfloat16),
        ("cpu", "Features : fp asimd bf16 i8mm", "auto", torch.bfloat16),
        ("cpu", "flags : fpu avx512f avx512_bf16x", "auto", torch.float32),
        ("cpu", "flags : avx512_bf16", "float32", torch.float32),
        ("cuda", "flags : avx512_bf16", "auto", torch.float16),
        ("cuda", "", "bfloat16", torch.bfloat16),
    ],
)
def test_dtype_of_the_language_model(kind, words, name, dtype, monkeypatch):
    monkeypatch.setattr(device_module, "_CHOSEN", {})
    monkeypatch.setattr(device_module.Path, "read_text", lambda *_, **__: words)
    device = torch.device(kind)
    assert choose_dtype(device, name) is compute_dtype(device) is dtype


def test_auto_takes_back_an_earlier_choice(monkeypatch):
    monkeypatch.setattr(device_module, "_CHOSEN", {})
    device = torch.device("cuda")
    choose_dtype(device, "bfloat16")
    assert choose_dtype(device, "auto") is compute_dtype(device) is torch.float16


def test_dtype_where_nobody_chose(monkeypatch):
    monkeypatch.setattr(device_module, "_CHOSEN", {})
    assert compute_dtype(torch.device("cpu")) is torch.float32
    assert compute_dtype(torch.device("cuda")) is torch.float16


def test_float32_is_not_for_an_npu(monkeypatch):
    monkeypatch.setattr(device_module, "_CHOSEN", {})
    npu = types.SimpleNamespace(type="npu")
    with pytest.raises(ValueError, match="float16 and bfloat16, not float32"):
        choose_dtype(npu, "float32")
    assert device_module._CHOSEN == {}


def test_a_name_that_is_no_dtype():
    with pytest.raises(ValueError, match="write auto, float32, float16, bfloat16"):
        choose_dtype(torch.device("cpu"), "fp8")
