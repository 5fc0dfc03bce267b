"""The overlay's model files run alone, without upstream: importing this makes them the package `port_models`.

    import port_package
    from port_models.device import resolve_device

The files import each other relatively, so the package's name does not matter to them. Inside a workspace the same
files are `minigpt4.models.*`.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

OVERLAY = Path(__file__).resolve().parents[2] / "overlay"

package = types.ModuleType("port_models")
package.__path__ = [str(OVERLAY / "minigpt4" / "models")]
sys.modules.setdefault("port_models", package)
