"""Which Ascend processors the NPU operations of this port are for.

Codes and names: torch_npu's header NpuVariables.h (`enum class SocVersion`, torch_npu 2.13), the names as
torch.npu.get_device_name() gives them.
"""

from __future__ import annotations

from typing import Any

import torch

from .device import DeviceUnavailable

SUPPORTED = {
    **dict(zip(range(220, 226), ("910B1", "910B2", "910B2C", "910B3", "910B4", "910B4-1"))),
    **dict(zip(range(250, 257), ("910_9391", "910_9392", "910_9381", "910_9382", "910_9372", "910_9362", "910_9363"))),
}
REFUSED = {
    **dict(zip(range(100, 105), ("910PremiumA", "910ProA", "910A", "910ProB", "910B"))),
    **dict(zip(range(200, 206), ("310P1", "310P2", "310P3", "310P4", "310P5", "310P7"))),
    **dict(zip(range(240, 244), ("310B1", "310B2", "310B3", "310B4"))),
    260: "950",
}


def require_supported(torch_npu: Any, index: int) -> str:
    """-> the name of npu:index, as "Ascend910B3". Raises DeviceUnavailable for a processor that is not in the table.

    Initialises that device: before, torch_npu does not know what it runs on.
    """
    torch.npu.set_device(index)
    torch.npu.current_device()  # completes the initialisation, in every release
    code, name = _code(torch_npu), device_name(index)
    if code in SUPPORTED:
        return f"Ascend{SUPPORTED[code]}"
    if code not in REFUSED and name.removeprefix("Ascend") in SUPPORTED.values():
        return name  # newer than the list of codes in this torch_npu
    known = f"Ascend{REFUSED[code]}" if code in REFUSED else name or "an unknown processor"
    raise DeviceUnavailable(
        f"npu:{index} is {known} (code {code}): this port's operations are for the Ascend 910B (A2) and 910_93 (A3), "
        "and nobody has said yet what they allow on another one. Use --device cpu."
    )


def _code(torch_npu: Any) -> int | None:
    """torch_npu's number of the processor; None where a release keeps it elsewhere.

    `_C._npu_get_soc_version` is what get_soc_version calls; releases differ in which module offers that one.
    """
    read = getattr(getattr(torch_npu, "_C", None), "_npu_get_soc_version", None)
    return None if read is None else int(read())


def device_name(index: int) -> str:
    """As torch_npu gives it, "Ascend910B3"; "" where it cannot."""
    try:
        return str(torch.npu.get_device_name(index))
    except (AttributeError, AssertionError, RuntimeError):
        return ""
