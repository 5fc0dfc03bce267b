"""How much memory a decoder needs, how much there is, and how much was used at most. In bytes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch


def needed_memory(meta: Any, batch: int, tokens: int) -> int:
    """Weights, and the keys and values of `batch` sequences of `tokens`, for a model on the meta device."""
    config, width = meta.config, meta.dtype.itemsize
    weights = sum(part.numel() * part.element_size() for part in (*meta.parameters(), *meta.buffers()))
    slots = config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return weights + 2 * width * slots * batch * tokens


def check_memory(needed: int, device: torch.device) -> None:
    """Raise MemoryError, with a sentence for the user, where `needed` cannot fit; loading 7B takes minutes."""
    free = free_memory(device)
    if free is not None and needed > free:
        raise MemoryError(
            f"Weights and cache need {needed / 1e9:.1f} GB and {device} has {free / 1e9:.1f} GB free: try shorter "
            "--lengths, a smaller --batch, --dtype bfloat16 or --int8, or --random-weights with --layers."
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated, or None where nobody says."""
    if device.type in ("cuda", "npu"):
        return getattr(torch, device.type).mem_get_info(device)[0]
    return _status("/proc/meminfo", "MemAvailable")


def reset_peak_memory(device: torch.device) -> None:
    """Forget the highest use of memory so far."""
    if device.type in ("cuda", "npu"):
        getattr(torch, device.type).reset_peak_memory_stats(device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Bytes: tensors on an accelerator, the whole process on the CPU (Linux); None elsewhere."""
    if device.type in ("cuda", "npu"):
        return getattr(torch, device.type).max_memory_allocated(device)
    return _status("/proc/self/status", "VmHWM")


def _status(file: str, key: str) -> int | None:
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", Path(file).read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
