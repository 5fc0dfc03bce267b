"""The exporter at the real size: 986 million parameters, random, in less memory than a common container has."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.full_size_export import GIB, export


@pytest.fixture
def folder() -> Iterator[Path]:
    """10 GB that must not outlive the test, as pytest's tmp_path would."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc")
def test_export_and_parity_at_full_size(folder: Path) -> None:
    done = export(folder)
    graph = onnx.load(folder / "onnx" / "eva_vit_g.onnx", load_external_data=False).graph
    assert sum(np.prod(tensor.dims) for tensor in graph.initializer) == pytest.approx(986e6, rel=1e-3)
    assert all(file.name.startswith("eva_vit_g.") for file in (folder / "onnx").iterdir())
    assert done.max_abs <= 2e-5
    assert 3.5 * GIB < done.peak < 6 * GIB
