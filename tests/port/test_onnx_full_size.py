"""The exporter at the real size: 986 million parameters, random, in little more memory than the file has."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from port.export.graph_lint import lint_file

from benchmarks.full_size_export import export, make_weights


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[Path, Path, Path]]:
    """10 GB that must not outlive the test, as pytest's tmp_path would."""
    with tempfile.TemporaryDirectory() as name:
        yield make_weights(Path(name))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc")
@pytest.mark.parametrize(("precision", "itemsize"), [("fp32", 4), ("mixed", 2)])
def test_export_and_parity_at_full_size(precision: str, itemsize: int, files: tuple[Path, Path, Path]) -> None:
    with tempfile.TemporaryDirectory(dir=files[0].parent) as folder:
        done, record = export(files, Path(folder), precision)
        path = Path(folder) / "eva_vit_g.onnx"
        graph = onnx.load(path, load_external_data=False).graph
        assert sum(np.prod(tensor.dims) for tensor in graph.initializer) == pytest.approx(986e6, rel=1e-3)
        assert lint_file(path) == []
        assert record["weights_bytes"] == pytest.approx(986e6 * itemsize, rel=1e-2)
        assert 1.0 < done.peak / record["weights_bytes"] <= 1.6
    errors = [error for name, error in record["errors"].items() if name != "bound"]
    if precision == "fp32":
        assert max(error["max_abs"] for error in errors) <= 2e-5
    else:
        assert 1e-6 < max(error["rel_l2"] for error in errors) <= 1e-2
