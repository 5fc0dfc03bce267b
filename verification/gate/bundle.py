"""A taking without anything that names the machine, its user or its files: what may be sent to others.

By a list of what is let through, not of what is kept back: a fact that nobody thought of stays out. Numbers and hashes
are let through as they are; a text only where it is one of a few, or has the form of what it should be.
"""

from __future__ import annotations

import builtins
import platform
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from verification.gate.checked import BROKEN, SHA256, TAKEN, kind_of
from verification.gate.golden import Recording
from verification.gate.limits import COARSER

if TYPE_CHECKING:
    import torch

PACKAGES = ("python", "torch", "torch_npu", "transformers", "onnxruntime", "ais_bench", "aclruntime")
RELEASE = re.compile(r"\d{1,4}(\.\d{1,8}){0,3}((a|b|rc|\.post|\.dev)\d{1,8})*")  # without the builder's own suffix
WEIGHTS = ("llama_model", "vit_weights", "ckpt", "q_former_model", "tokenizer")
ENCODERS = (".pth", ".onnx", ".om")
KINDS = ("cpu", "cuda", "npu")
CHIP = re.compile(r"(NVIDIA|AMD|Tesla|Ascend|Intel)[A-Za-z0-9 ()-]{0,40}|x86_64|aarch64|arm64")
TIMED = ("picture to embeddings", "image encoder", "Q-Former and projection", "prefill", "decode")
ERROR = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,60}): ")
KNOWN_ERRORS = ("OutOfMemoryError", "AcceleratorError", "DeviceUnavailable", "LinAlgError")  # and Python's own


def redacted(taking: Recording) -> Recording:
    """What judge() needs and a reader wants to know; its lines are those of the taking itself, but for the texts."""
    about = taking.about
    facts = {
        "kind": about["kind"],
        "format": about["format"],
        "golden": _one(about["golden"], SHA256),
        "dtype": about["dtype"] if about["dtype"] in COARSER else "",
        "encoder": about["encoder"] if about["encoder"] in ENCODERS else "",
        "encoder_dtype": about["encoder_dtype"] if about["encoder_dtype"] in COARSER else "",
        "qformer_is_reference": bool(about["qformer_is_reference"]),
        "pixels": [_pixels(row) for row in about["pixels"]],
        "broken": {stage: _error(text) for stage, text in about["broken"].items() if BROKEN.fullmatch(stage)},
        "timings": {name: _numbers(rows) for name, rows in about["timings"].items() if name in TIMED},
        "device": _device(about["device"]),
        "versions": {name: _release(text) for name, text in about["versions"].items() if name in PACKAGES},
        "weights": {key: _one(text, SHA256) for key, text in about.get("weights", {}).items() if key in WEIGHTS},
    }
    return Recording(facts, {name: array for name, array in taking.arrays.items() if kind_of(name) in TAKEN})


def device_facts(device: torch.device) -> dict[str, str]:
    """{"kind": "npu", "chip": "Ascend910B3"}"""
    import torch

    try:
        chip = platform.machine() if device.type == "cpu" else getattr(torch, device.type).get_device_name(device)
    except Exception:  # what is measured does not depend on how the driver calls the chip
        chip = ""
    return {"kind": device.type, "chip": str(chip)}


def _one(text: str, rule: re.Pattern[str]) -> str:
    return text if rule.fullmatch(text) else ""


def _pixels(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "error": float(row["error"]),
        "drift": float(row["drift"]),
        "digest": _one(row["digest"], SHA256),
    }


def _error(text: str) -> str:
    """The type alone, for a message may hold paths; of the known ones, for a class may be named after anybody."""
    named = ERROR.match(text)
    return named[1] if named and (named[1] in KNOWN_ERRORS or hasattr(builtins, named[1])) else "Exception"


def _numbers(rows: Any) -> list[list[float]]:
    return [[value if isinstance(value, int) else float(value) for value in row] for row in rows]


def _device(device: Mapping[str, str]) -> dict[str, str]:
    return {"kind": device["kind"] if device["kind"] in KINDS else "other", "chip": _one(device["chip"], CHIP)}


def _release(text: str) -> str:
    found = RELEASE.match(text)
    return found[0] if found else ""
