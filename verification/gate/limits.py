"""configs/gate.yaml: how far a port may be from the golden, for the dtype that it computes in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from overlaykit.errors import FixTheProjectFile

COARSER = ("float32", "float16", "bfloat16", "int8")  # each rounds more than the one before


@dataclass(frozen=True)
class Limits:
    """values: level -> name -> {"limit" or a dtype: number}."""

    values: Mapping[str, Mapping[str, Mapping[str, float]]]

    def get(self, level: str, name: str, dtype: str) -> float | None:
        """The limit, or None where this dtype has none."""
        found = self.values[level][name]
        return found.get("limit", found.get(dtype))

    def need(self, level: str, name: str, dtype: str) -> float:
        found = self.get(level, name, dtype)
        if found is None:
            raise FixTheProjectFile("configs/gate.yaml is incomplete.", f"{level}.{name} has no value for {dtype}.")
        return found


def read_limits(path: Path) -> Limits:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        values = {
            level: {
                name: {key: float(value) for key, value in row.items() if key != "why"} for name, row in rows.items()
            }
            for level, rows in content.items()
        }
        unexplained = [name for rows in content.values() for name, row in rows.items() if not row.get("why")]
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise FixTheProjectFile(f"{path} cannot be read as limits.", f"{type(error).__name__}: {error}") from error
    if unexplained:
        raise FixTheProjectFile(f"{path}: {unexplained[0]} has no `why`.", "A limit without a reason cannot be judged.")
    return Limits(values)


def coarsest(*dtypes: str) -> str:
    return max(dtypes, key=COARSER.index)


def encoder_dtype(file: Path) -> str:
    """What a compiled encoder computes in: the weights of an .onnx, the conversion's record beside an .om."""
    if file.suffix == ".om":
        return _om_dtype(file)
    if file.suffix != ".onnx":
        return "float32"  # PyTorch: the port's own dtype decides
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    half = any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer)
    return "float16" if half else "float32"


def _om_dtype(file: Path) -> str:
    """Without a record float16, which is ATC's default."""
    try:
        record = json.loads(file.with_name(f"{file.name}.json").read_text(encoding="utf-8"))
        mode, exported = record["precision_mode"], record["onnx"].get("precision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "float16"
    if mode == "origin":
        return "float32" if exported == "fp32" else "float16"
    return "bfloat16" if mode == "mixed_bfloat16" else "float16"
