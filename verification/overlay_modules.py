"""Imports the overlay's files without upstream around them, and without torch where the file itself needs none."""

from __future__ import annotations

import importlib
import sys
import types
import zlib
from pathlib import Path
from typing import Any


def import_overlay(overlay: Path) -> Any:
    """A function that imports `models.x`, `processors.x` or `export.x` of the overlay."""
    root = f"overlay_alone_{zlib.crc32(str(overlay).encode())}"
    for name in ("", ".models", ".processors"):
        package = types.ModuleType(root + name)
        package.__path__ = [str(overlay / "minigpt4" / name[1:])]
        sys.modules.setdefault(root + name, package)
    return lambda name: importlib.import_module(f"{root}.{name}")
