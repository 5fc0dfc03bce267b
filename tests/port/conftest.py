from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a model hub

import port_package  # noqa: F401  the overlay's files become `port`
from ais_bench_stand_in import ais_bench  # noqa: F401  a fixture
from atc_files import atc_env, staged  # noqa: F401  fixtures
from npu_stand_in import npu_table, plant, torch_npu  # noqa: F401  fixtures
from om_conversions import agreeing, cann_machine, convert, converter, in_process, onnx_model  # noqa: F401  fixtures
from onnx_exports import exporter, part, picture, run, vit_files  # noqa: F401  fixtures
from performance_runs import perf, script  # noqa: F401  fixtures
from predict_runs import elsewhere, options  # noqa: F401  fixtures
