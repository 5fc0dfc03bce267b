"""Export the encoder at its real size: time, peak memory and the error against PyTorch, on random weights.

    python benchmarks/full_size_export.py

986 million parameters; about 10 GB of disk for a few minutes, and under 6 GiB of memory. Whole process, from outside.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "port")]

from benchmarks.results import machine, write  # noqa: E402

EXPORTER = PROJECT / "overlay" / "onnx_model_export.py"
GIB = 1024**3


@dataclass(frozen=True)
class Export:
    """Wall time in seconds, peak resident memory in bytes, and the largest absolute error onnxruntime made."""

    seconds: float
    peak: int
    max_abs: float


def export(folder: Path) -> Export:
    """Write random weights of the real shape into `folder`, export them, and watch the exporter (Linux only)."""
    from vit_files import write_files

    vit, blip2 = write_files(folder, width=1408, hidden=6144, blocks=40, image_size=224)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    command = [sys.executable, str(EXPORTER), "--onnx-model-dir", str(folder / "onnx")]
    command += ["--vit-weights", str(vit), "--ln-vision", str(blip2), "--image-path", str(folder / "noise.png")]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:  # the kernel keeps the peak: looking now and then is enough
        seen = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(seen[1]) * 1024 if seen else 0)
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    said = process.stdout.read() if process.stdout else ""
    found = re.search(r"max abs (\S+),", said)
    if process.returncode or not found:
        raise SystemExit(f"the exporter exited with {process.returncode}:\n{said}")
    return Export(seconds, peak, float(found[1]))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = export(Path(folder))
    rows = [
        {"what": "full-size export and proof", "unit": "s", "goal": "none", "values": [done.seconds]},
        {"what": "its peak memory", "unit": "GiB", "goal": "< 6", "values": [done.peak / GIB]},
        {
            "what": "its max abs error, onnxruntime against PyTorch",
            "unit": "",
            "goal": "<= 2e-5",
            "values": [done.max_abs],
        },
    ]
    write("full_size_export", rows, {**machine(), "torch": torch.__version__})


if __name__ == "__main__":
    main()
