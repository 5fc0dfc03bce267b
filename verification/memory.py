"""Whether this host can hold the reference."""

from __future__ import annotations

from pathlib import Path


def lacking_memory(folder: Path) -> str:
    """Why the language model does not fit into memory in float32, or "" when it does; the shards are float16."""
    shards = list(folder.glob("*.safetensors")) or list(folder.glob("pytorch_model*.bin"))
    needed, available = 2 * sum(shard.stat().st_size for shard in shards), available_memory()
    if available is None or needed <= available:
        return ""
    gib = 1024**3
    return (
        f"The reference needs {needed / gib:.0f} GiB of host memory for the language model in float32, and "
        f"{available / gib:.0f} GiB are free. Run verify on a larger machine, or free some."
    )


def available_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
