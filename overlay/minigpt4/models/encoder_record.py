"""The JSON file beside an exported image encoder: what it was made of, how, and what was measured.

`eva_vit_g.onnx` has `eva_vit_g.onnx.json` and `eva_vit_g.om` has `eva_vit_g.om.json`. The commands that make the files
write it; image_encoder reads of it what the file itself cannot say. Keys: see onnx_model_export.py and
om_model_convert.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FORMAT = 1


def record_path(model: Path) -> Path:
    return model.with_name(model.name + ".json")


def write_record(model: Path, record: dict[str, Any]) -> Path:
    """Write `record` beside `model`, with the model's size in bytes; whole or not at all."""
    path = record_path(model)
    text = json.dumps({"format": FORMAT, "file": model.name, "bytes": model.stat().st_size, **record}, indent=2)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    return path


def read_record(model: Path) -> dict[str, Any]:
    """What stands beside `model`; {} where nothing does, or where it belongs to a file of another size or format.

    Raises ValueError where it is damaged.
    """
    path = record_path(model)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: remove it, or export {model.name} again. ({error})") from error
    fits = isinstance(record, dict) and record.get("format") == FORMAT and record.get("bytes") == model.stat().st_size
    return record if fits else {}
