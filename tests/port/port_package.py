"""The overlay's own files run alone, without upstream: importing this makes them the package `port`.

    import port_package
    from port.models.device import resolve_device

The files import each other relatively, so the package's name does not matter to them. Inside a workspace the same
files are `minigpt4.*`, beside upstream's.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

OVERLAY = Path(__file__).resolve().parents[2] / "overlay"

package = types.ModuleType("port")
package.__path__ = [str(OVERLAY / "minigpt4")]
sys.modules["port"] = package
