"""The overlay's model files run alone, without upstream: here they are importable as the package `port_models`.

    from port_models.device import resolve_device

The files import each other relatively, so the package's name does not matter to them. Inside a workspace the same
files are `minigpt4.models.*`.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a model hub

OVERLAY = Path(__file__).resolve().parents[2] / "overlay"
MODELS = OVERLAY / "minigpt4" / "models"


def _make_importable() -> None:
    package = types.ModuleType("port_models")
    package.__path__ = [str(MODELS)]
    sys.modules.setdefault("port_models", package)


_make_importable()
