"""Whether this host can hold the reference."""

from __future__ import annotations

from pathlib import Path

WORKING = 1.1  # of the weights: room for what a few texts at once need to run, 1 MB a token of 7B and their logits


def lacking_memory(folder: Path) -> bool:
    """Whether the language model does not fit into memory in float32; the shards are float16."""
    shards = list(folder.glob("*.safetensors")) or list(folder.glob("pytorch_model*.bin"))
    needed, available = 2 * WORKING * sum(shard.stat().st_size for shard in shards), available_memory()
    return available is not None and needed > available


def available_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
