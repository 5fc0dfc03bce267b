"""The overlay's own files run alone, without upstream: importing this makes them the package `port`.

    import port_package
    from port.models.device import resolve_device

The files import each other relatively, so the package's name does not matter to them. Inside a workspace the same
files are `minigpt4.*`, beside upstream's. overlay_command, which the scripts import from beside them, is made
importable too, without overlay/ on sys.path: `minigpt4` there would hide upstream's.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

OVERLAY = Path(__file__).resolve().parents[2] / "overlay"

package = types.ModuleType("port")
package.__path__ = [str(OVERLAY / "minigpt4")]
sys.modules["port"] = package

spec = importlib.util.spec_from_file_location("overlay_command", OVERLAY / "overlay_command.py")
assert spec is not None
assert spec.loader is not None
sys.modules["overlay_command"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["overlay_command"])
