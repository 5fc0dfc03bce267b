"""torch_npu's fused operations on CPU tensors, as strict as their documentation, without the torch_npu wheel.

The rules and kernels are those of the simulated NPU (tests/npu_sim/simulator), the signatures the schemas that
snapshot_schemas.py read from the wheel. tests/npu_sim runs the same calls through the wheel itself.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any, Callable

import torch

SIMULATION = Path(__file__).resolve().parents[1] / "npu_sim"
if str(SIMULATION) not in sys.path:
    sys.path.append(str(SIMULATION))

from simulator.npu_kernels import KERNELS
from simulator.rules import RULES, check

RELEASE = "2.13.0"


def _schemas() -> dict[str, Any]:
    """{operation: its schema in RELEASE}, with the name that the live schema gives the first tensor."""
    snapshot = json.loads((SIMULATION / "op_schemas.json").read_text(encoding="utf-8"))
    found = {}
    for name in RULES:
        for entry in snapshot["ops"].get(name, ()):
            if RELEASE in entry["releases"]:
                text = next(text for text in entry["text"] if text.startswith(f"{name}("))
                found[name] = torch._C.parse_schema("npu::" + text.replace(" self,", " input,"))
    return found


def _operation(name: str, schema: Any) -> Callable[..., Any]:
    by_position = sum(not argument.kwarg_only for argument in schema.arguments)
    names = {argument.name for argument in schema.arguments}
    required = {argument.name for argument in schema.arguments if not argument.has_default_value()}

    def operation(*args: Any, **kwargs: Any) -> Any:
        given = {argument.name for argument in schema.arguments[: len(args)]}
        if len(args) > by_position or given & set(kwargs) or set(kwargs) - names or required - given - set(kwargs):
            raise TypeError(f"{name}: {len(args)} arguments by position and {sorted(kwargs)} do not fit {schema}")
        return KERNELS[name](check(schema, args, kwargs))

    return operation


OPERATIONS = {name: _operation(name, schema) for name, schema in _schemas().items() if name in KERNELS}


def module(version: str = RELEASE, cann: str = "9.2.0") -> types.ModuleType:
    """A stand-in to put into sys.modules as torch_npu."""
    fake = types.ModuleType("torch_npu")
    fake.__version__ = version
    fake.utils = types.SimpleNamespace(get_cann_version=lambda: cann)
    for name, function in OPERATIONS.items():
        setattr(fake, name, function)
    return fake
