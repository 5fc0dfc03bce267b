"""The exporter at the real size: 986 million parameters, random, in less memory than a common container has."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from vit_files import write_files

EXPORTER = Path(__file__).resolve().parents[2] / "overlay" / "onnx_model_export.py"
GIB = 1024**3


@pytest.fixture
def folder() -> Iterator[Path]:
    """10 GB that must not outlive the test, as pytest's tmp_path would."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def run_and_watch(command: list[str]) -> tuple[str, int]:
    """(standard output, peak resident memory in bytes). The kernel keeps the peak: looking now and then is enough."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        seen = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        peak = max(peak, int(seen[1]) * 1024 if seen else 0)
        time.sleep(0.1)
    assert process.returncode == 0
    return process.stdout.read(), peak


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc")
def test_export_and_parity_at_full_size(folder: Path) -> None:
    vit, blip2 = write_files(folder, width=1408, hidden=6144, blocks=40, image_size=224)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    flags = ["--vit-weights", str(vit), "--ln-vision", str(blip2), "--image-path", str(folder / "noise.png")]
    start = time.perf_counter()
    said, peak = run_and_watch([sys.executable, str(EXPORTER), "--onnx-model-dir", str(folder / "onnx"), *flags])
    print(f"{said}\n{time.perf_counter() - start:.0f} s, peak memory {peak / GIB:.2f} GiB")

    graph = onnx.load(folder / "onnx" / "eva_vit_g.onnx", load_external_data=False).graph
    assert sum(np.prod(tensor.dims) for tensor in graph.initializer) == pytest.approx(986e6, rel=1e-3)
    assert all(file.name.startswith("eva_vit_g.") for file in (folder / "onnx").iterdir())
    assert float(re.search(r"max abs (\S+),", said)[1]) <= 2e-5
    assert 3.5 * GIB < peak < 6 * GIB
