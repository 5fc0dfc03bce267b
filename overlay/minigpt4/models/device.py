"""Which device a run uses, and in which dtype: the one place that knows npu, cuda and cpu apart.

Imports torch only. torch_npu is imported when an NPU is asked for, or for "auto" where it is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Union

import torch

DeviceSpec = Union[str, int, torch.device]

MINIMUM_TORCH_NPU = (2, 1)
DTYPES = ("auto", "float32", "float16", "bfloat16")
_CHOSEN: dict[str, torch.dtype] = {}  # device type -> what choose_dtype set
_SPEC = re.compile(r"(?P<type>cpu|cuda|npu)(?::(?P<index>\d+))?")


class DeviceUnavailable(RuntimeError):
    """The device that was asked for is not on this machine, or its software is missing or too old."""


def resolve_device(spec: DeviceSpec = "auto") -> torch.device:
    """Turn what a user or a config wrote into a torch.device that is really there.

    spec: "auto" | "cpu" | "cuda" | "cuda:N" | "npu" | "npu:N" | torch.device, or an int N, the index of the
    accelerator (upstream's `device_8bit`). "auto" and N take the NPU where torch_npu is installed, else CUDA,
    else the CPU. An accelerator always comes back with its index.

    Raises ValueError for a spec of another form, DeviceUnavailable when the device cannot be used.
    """
    if isinstance(spec, torch.device):
        spec = str(spec)
    text = str(spec).strip().lower()
    if text == "auto" or text.isdigit():
        return _any_accelerator(0 if text == "auto" else int(text))
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ValueError(f"{spec!r} is not a device: write auto, cpu, cuda:N, npu:N, or the accelerator's index N")
    if match["type"] == "cpu":
        return torch.device("cpu")
    index = int(match["index"] or 0)
    return _npu(index) if match["type"] == "npu" else _cuda(index)


def compute_dtype(device: torch.device) -> torch.dtype:
    """The dtype that the models run in: what `choose_dtype` set, else float16 on an accelerator, float32 on the CPU."""
    kind = torch.device(device).type
    return _CHOSEN.get(kind) or (torch.float32 if kind == "cpu" else torch.float16)


def choose_dtype(device: torch.device, name: str) -> torch.dtype:
    """Let `compute_dtype` give another dtype from now on, in this process: float32, float16, bfloat16, or "auto".

    "auto" is bfloat16 on a CPU that computes in it (half the bytes to read per token), and the device's default
    elsewhere. Raises ValueError for another name, and for float32 on an NPU, whose fused attention does not take it.
    """
    if name not in DTYPES:
        raise ValueError(f"{name!r} is not a dtype for the language model: write {', '.join(DTYPES)}")
    if name == "float32" and device.type == "npu":
        raise ValueError("the NPU's attention takes float16 and bfloat16, not float32: use one, or --device cpu")
    _CHOSEN.pop(device.type, None)  # what an earlier call set
    if name == "auto" and device.type == "cpu" and cpu_has_bfloat16():
        name = "bfloat16"
    if name != "auto":
        _CHOSEN[device.type] = getattr(torch, name)
    return compute_dtype(device)


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (x86: AVX512_BF16 or AMX, ARM: BF16); False where unknown."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def select_device(device: torch.device) -> None:
    """Make an accelerator the current one: what is allocated without naming a device goes there, not to card 0."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type == "npu":
        torch.npu.set_device(device)


def hide_torch_npu() -> None:
    """For a run without NPU: transformers imports torch_npu wherever it is installed, and fails without CANN."""
    if _torch_npu_installed():
        sys.modules.setdefault("torch_npu", None)  # find_spec and import then find nothing


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished what was sent to it; nothing to do on the CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "npu":
        torch.npu.synchronize(device)


def own_dtype(device: torch.device) -> torch.autocast:
    """Switch autocast off inside a `with`: a model runs in the dtype of its weights, whatever is wrapped around it."""
    return torch.autocast(device_type=torch.device(device).type, enabled=False)


def _any_accelerator(index: int) -> torch.device:
    if _torch_npu_installed():
        return _npu(index)
    if torch.cuda.is_available():
        return _cuda(index)
    return torch.device("cpu")


def _cuda(index: int) -> torch.device:
    if not torch.cuda.is_available():
        raise DeviceUnavailable(
            f"cuda:{index} was asked for, but this PyTorch ({torch.__version__}) sees no CUDA device. "
            "Use --device cpu, or install a CUDA build of PyTorch and its driver."
        )
    _check_index("cuda", index, torch.cuda.device_count(), "CUDA_VISIBLE_DEVICES")
    return torch.device("cuda", index)


def _npu(index: int) -> torch.device:
    if not _torch_npu_installed():
        raise DeviceUnavailable(
            f"npu:{index} was asked for, but torch_npu is not installed. Install the torch_npu release that "
            "belongs to your CANN and PyTorch (see constraints/), or use --device cpu."
        )
    try:
        torch_npu = importlib.import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceUnavailable(
            f"torch_npu is installed but cannot be loaded: {error}. CANN's libraries are usually not on the "
            "path: run `source /usr/local/Ascend/ascend-toolkit/set_env.sh` and try again, or use --device cpu."
        ) from error
    _check_version(torch_npu.__version__)
    if not torch.npu.is_available():
        raise DeviceUnavailable(
            f"npu:{index} was asked for, but no NPU can be used. Check that `npu-smi info` lists a card and, in "
            "a container, that /dev/davinci* and the driver folder are mounted."
        )
    _check_index("npu", index, torch.npu.device_count(), "ASCEND_RT_VISIBLE_DEVICES")
    from .npu_soc import require_supported  # which needs DeviceUnavailable from here

    require_supported(torch_npu, index)
    return torch.device("npu", index)


def _torch_npu_installed() -> bool:
    return sys.modules.get("torch_npu") is not None or importlib.util.find_spec("torch_npu") is not None


def _check_version(installed: str) -> None:
    minimum = ".".join(str(part) for part in MINIMUM_TORCH_NPU)
    parts = re.match(r"(\d+)\.(\d+)", installed)
    if parts is None or (int(parts[1]), int(parts[2])) < MINIMUM_TORCH_NPU:
        raise DeviceUnavailable(
            f"torch_npu {installed} is too old: the minimum is {minimum}. "
            "Install a newer release together with the PyTorch and CANN that it names."
        )


def _check_index(kind: str, index: int, count: int, variable: str) -> None:
    """Both runtimes count only the devices that their variable leaves visible, from 0."""
    if index < count:
        return
    visible = os.environ.get(variable, "").strip()
    last = f"{kind}:0 to {kind}:{count - 1}" if count > 1 else f"{kind}:0"
    if not visible:
        raise DeviceUnavailable(f"{kind}:{index} does not exist: this machine has {count} ({last}).")
    cards = [card.strip() for card in visible.split(",")]
    names = ", ".join(f"{kind}:{i} is card {card}" for i, card in enumerate(cards[:count]))
    raise DeviceUnavailable(
        f"{kind}:{index} does not exist: {variable}={visible} leaves {count} visible, and they are renumbered "
        f"from 0 ({names}). Use {last}, or change {variable}."
    )
