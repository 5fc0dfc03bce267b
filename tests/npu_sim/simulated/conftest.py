"""Tests on the simulated NPU. `make test-npu` runs them, in an environment of their own; anywhere else they are left
out, because with torch_npu installed and no CANN, `import torch` itself fails."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if os.environ.get("NPU_SIM") != "1" or importlib.util.find_spec("torch_npu") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    for folder in (HERE.parents[1] / "port", HERE.parent, HERE):
        sys.path.insert(0, str(folder))
    from simulator.start import start

    start()
    import port_package  # noqa: F401  the overlay's files become `port`
    from answers import ask, weights  # noqa: F401  fixtures
