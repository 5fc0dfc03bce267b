"""Refuse a checkpoint that leaves a part of the model at its random start.

Upstream loads with strict=False and drops the answer (minigpt4/models/base_model.py:223, minigpt4.py:193), so a
wrong file is silent and the model answers nonsense.
"""

from collections.abc import Sequence
from typing import Any


class IncompleteCheckpoint(RuntimeError):
    """A checkpoint lacks keys of the part of the model that it is there to fill."""


def require_loaded(result: Any, prefixes: Sequence[str], filename: str) -> None:
    """Raise IncompleteCheckpoint when `result` (what load_state_dict returned) misses a key under `prefixes`.

    Keys outside the prefixes belong to other files and may be missing. `position_ids` is a constant that some
    releases of transformers save and others do not.
    """
    wanted = [key for key in result.missing_keys if key.startswith(tuple(prefixes))]
    missing = [key for key in wanted if not key.endswith(".position_ids")]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise IncompleteCheckpoint(
            f"{filename} lacks {len(missing)} weights that the model needs ({shown}). "
            "It is not the file that this configuration key is for, or it is damaged."
        )
