"""Start the simulated NPU in this process, and run a script on it.

    python -m simulator.start SCRIPT [ARGUMENT …]

Needs the real torch_npu, and the folder that build.py made on LD_LIBRARY_PATH. NPU_SIM_REPORT names a file that gets,
as JSON, how often each fused operation ran. What runs shows arguments and control flow, never numerics or speed.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import sys
import warnings
from pathlib import Path


def start() -> None:
    warnings.filterwarnings("ignore", message="[\\s\\S]*overriding a previously registered kernel")
    import torch_npu  # noqa: F401  registers the device

    from . import aten_kernels, graphs, npu_kernels

    aten_kernels.install()
    npu_kernels.install()
    graphs.install()


def _report() -> None:
    from .npu_kernels import CALLED

    Path(os.environ["NPU_SIM_REPORT"]).write_text(json.dumps(CALLED))


if __name__ == "__main__":
    from simulator.start import start as start_once  # not __main__'s copy of the modules' state

    start_once()
    if os.environ.get("NPU_SIM_REPORT"):
        atexit.register(_report)
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
