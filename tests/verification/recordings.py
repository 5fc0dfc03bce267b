"""A small golden and the taking of a port that agrees with it, made of drawn numbers: no model is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

from overlaykit.errors import FixTheCommand
from verification.gate.golden import GOLDEN, Recording, load

GATE = Path(__file__).parents[2] / "configs" / "gate.yaml"
WEIGHTS = {key: f"{number:064x}" for number, key in enumerate(("llama_model", "vit_weights", "ckpt", "tokenizer"))}
PICTURES, TOKENS, PIECES, WIDTH, TOP, BUCKETS = 2, 5, 300, 16, 128, 128


def small_golden(**facts: Any) -> Recording:
    draw = numpy.random.default_rng(0)
    arrays = {}
    for p in range(PICTURES):
        arrays[f"features.{p}"] = _normal(draw, 7, 64)
        arrays[f"queries.{p}"] = _normal(draw, 4, 8)
        arrays[f"embeddings.{p}"] = _normal(draw, 4, WIDTH)
        arrays[f"prompt.{p}.0"] = _normal(draw, 9, 64)
        top = numpy.argsort(draw.random((TOKENS, PIECES)), axis=1)[:, :TOP].astype(numpy.int32)
        arrays[f"top.{p}.0"], arrays[f"ids.{p}.0"] = top, top[:, 0].copy()
        arrays[f"margins.{p}.0"] = draw.random(TOKENS).astype(numpy.float32) + 0.5
        logits = numpy.sort(draw.normal(size=(TOKENS, TOP + BUCKETS)) * 3, axis=1)[:, ::-1]
        arrays[f"logits.{p}.0"] = (logits - numpy.log(numpy.exp(logits).sum(1, keepdims=True))).astype(numpy.float32)
    about = {
        "kind": "golden",
        "format": 2,
        "model_type": "pretrain_vicuna0",
        "synthetic": {"generator": 2, "seed": 0},
        "qformer": True,
        "pictures": [{"sha256": f"{p:064x}", "pixels": f"{p + 9:064x}"} for p in range(PICTURES)],
        "new_tokens": 8,
        "half": {
            "float16": {
                "encoder": [image_loss(1e-3)] * 2,
                "LLM logits": {"0.0": text_loss(1e-5), "1.0": text_loss(1e-5)},
            }
        },
        "prompts": [{"question": "Was ist das? 这是什么", "before": [1, 2, 3], "after": [4, 5]}],
        "pieces": PIECES,
        "streamed": False,
        "weights": WEIGHTS,
        "code": {"oracle.py": "0" * 64, "gate/record.py": "1" * 64},
        "versions": {"python": "3.11.7", "torch": "2.13.0+cpu"},
        "date": "2026-11-23",
        **facts,
    }
    return Recording(about, arrays)


def small_taking(golden: Recording, **facts: Any) -> Recording:
    arrays = {}
    for p in range(PICTURES):
        for kind in ("features", "queries", "embeddings"):
            arrays[f"{kind}.{p}"] = golden.arrays[f"{kind}.{p}"]
        ids, logits = golden.arrays[f"ids.{p}.0"], golden.arrays[f"logits.{p}.0"]
        arrays[f"prompt.{p}.0"] = golden.arrays[f"prompt.{p}.0"]
        arrays.update(dict.fromkeys((f"logits.{p}.0", f"decode.{p}.0"), logits))
        arrays.update(dict.fromkeys((f"best.logits.{p}.0", f"best.decode.{p}.0", f"ids.{p}.0", f"again.{p}.0"), ids))
    arrays["again.embeddings"] = arrays["embeddings.0"]
    about = {
        "kind": "taking",
        "format": 2,
        "golden": golden.digest,
        "dtype": "float32",
        "encoder": ".om",
        "encoder_dtype": "float32",
        "qformer_is_reference": False,
        "pixels": [{"error": 0.0, "drift": 0.0, "digest": row["pixels"]} for row in golden.about["pictures"]],
        "broken": {},
        "timings": {"prefill": [[9, 0.25]], "decode": [[5, 0.5]]},
        "device": {"kind": "npu", "chip": "Ascend910B3"},
        "versions": {"python": "3.10.2", "torch_npu": "2.1.0.post12"},
        "weights": WEIGHTS,
        **facts,
    }
    return Recording(about, arrays)


def image_loss(error: float) -> dict[str, float]:
    """What half precision costs the reference itself in a picture whose tokens lose all alike; the next, in a text."""
    return {"error": error, "token": error}


def text_loss(kl: float) -> dict[str, float]:
    return {"mean": kl, "worst": kl, "flip": 0.0}


def _normal(draw: Any, *shape: int) -> Any:
    return draw.normal(size=shape).astype(numpy.float32)


def changed(recording: Recording, name: str, array: Any = None, **facts: Any) -> Recording:
    arrays = {**recording.arrays, **({} if array is None else {name: array})}
    if array is None:
        arrays.pop(name, None)
    return Recording({**recording.about, **facts}, arrays)


def loaded(recording: Recording, folder: Path, kind: str) -> Recording:
    path = folder / "recording.npz"
    path.write_bytes(recording.to_bytes())
    return load(path, kind)


def refused(recording: Recording, folder: Path, kind: str = GOLDEN) -> str:
    with pytest.raises(FixTheCommand) as found:
        loaded(recording, folder, kind)
    return str(found.value)


def only(golden: Recording, pictures: int) -> Recording:
    """The golden of its first pictures, as if recorded of no others."""
    half = {
        dtype: {
            stage: {key: row[key] for key in row if int(key[0]) < pictures} if isinstance(row, dict) else row[:pictures]
            for stage, row in stages.items()
        }
        for dtype, stages in golden.about["half"].items()
    }
    about = {**golden.about, "pictures": golden.about["pictures"][:pictures], "half": half, "weights": {}}
    return Recording(about, golden.arrays)
