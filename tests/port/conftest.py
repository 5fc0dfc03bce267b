from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a model hub

import port_package  # noqa: F401  the overlay's files become `port`
from npu_stand_in import npu_table, plant, torch_npu  # noqa: F401  fixtures
