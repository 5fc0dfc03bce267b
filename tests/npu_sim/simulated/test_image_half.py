"""(B) EvaViT on the simulated NPU against the same numbers on the CPU, without a subprocess; and the faults that this
comparison sees. It shows calls and their meaning, never the numerics of a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from answers import apart
from port.models.eva_vit_model import EvaViT, load_eva_vit
from simulator import npu_kernels
from simulator.npu_kernels import CALLED
from torch import Tensor
from vit_files import write_files

SIZE, DEPTH = 56, 3
NPU = torch.device("npu:0")
FUSED = "npu_fusion_attention_v3"
# Relative L2. Measured: float32 1.1e-4, all of it the tanh form of GELU, which an NPU takes; float16 4e-4 on both
# devices, bfloat16 4e-3.
FLOAT32 = 3e-4
HALF = {torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_files(tmp_path_factory.mktemp("vit"), 176, 96, DEPTH + 1, SIZE)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def features(files: tuple[Path, Path], images: Tensor, dtype: torch.dtype, device: torch.device | None) -> Tensor:
    model: EvaViT = load_eva_vit(*files, image_size=SIZE, dtype=dtype, device=device)
    return model(images if device is None else images.to(device)).cpu()


def test_float32_is_the_cpus(files: tuple[Path, Path], images: Tensor) -> None:
    before = CALLED.get(FUSED, 0)
    found = features(files, images, torch.float32, NPU)
    assert CALLED[FUSED] == before + DEPTH
    assert apart(found, features(files, images, torch.float32, None)) <= FLOAT32


@pytest.mark.parametrize("dtype", HALF)
def test_a_half_dtype_is_rounded_as_much_as_on_the_cpu(files: tuple[Path, Path], images: Tensor, dtype) -> None:
    exact = features(files, images, torch.float32, None)
    on_cpu, on_npu = (features(files, images, dtype, device) for device in (None, NPU))
    assert apart(on_npu, exact) <= min(HALF[dtype], 1.5 * apart(on_cpu, exact))
    assert apart(on_npu, on_cpu) <= HALF[dtype]


def other(**changes: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """The kernel, called with something else."""

    def kernel(call: dict[str, Any]) -> Any:
        return npu_kernels.fusion_attention({**call, **{name: change(call) for name, change in changes.items()}})

    return kernel


def other_result(change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Any]], Any]:
    def kernel(call: dict[str, Any]) -> Any:
        out, *rest = npu_kernels.fusion_attention(call)
        return (change(out), *rest)

    return kernel


def without_last_key(call: dict[str, Any]) -> Any:
    return npu_kernels.fusion_attention({**call, **{name: call[name][:, :, :-1] for name in ("key", "value")}})


FAULTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "scale": other(scale=lambda call: 1.0),
    "scale of 96 channels": other(scale=lambda call: 96**-0.5),
    "heads in another order": other_result(lambda out: out.flip(1)),
    "a head missing": other_result(lambda out: torch.cat((out[:, :-1], torch.zeros_like(out[:, -1:])), 1)),
    "BSND for BNSD": other_result(lambda out: out.transpose(1, 2).reshape(out.shape)),
    "a key hidden": without_last_key,
    "strides ignored": other(query=lambda call: torch.as_strided(call["query"], call["query"].shape, (0, 0, 1, 1))),
    "key and value exchanged": other(key=lambda call: call["value"], value=lambda call: call["key"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen_in_float32_and_in_float16(
    files: tuple[Path, Path], images: Tensor, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    exact = features(files, images, torch.float32, None)
    monkeypatch.setitem(npu_kernels.KERNELS, FUSED, FAULTS[fault])
    assert apart(features(files, images, torch.float32, NPU), exact) > FLOAT32
    assert apart(features(files, images, torch.float16, NPU), exact) > HALF[torch.float16]
