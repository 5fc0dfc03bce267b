"""Whether an OM computes on the NPU what the ONNX model that it was made of computes: measured, never assumed."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models.device import DeviceUnavailable
from ..models.image_encoder import IMAGE_ENCODER_OM
from ..models.om_session import NotTaken
from .parity import compare, run_onnx

BOUNDS = {"mixed_bfloat16": 2e-2}  # on rel-L2, by precision mode
BOUND = 1e-2
WORST_TOKEN = 5  # times the bound: one token far off cannot hide among 257

# ACL's return codes (CANN's documentation, aclError): no such device, and 2xxxxx for memory and what else runs out.
NOT_THE_OM = re.compile(r"\[(?:107001|2\d{5})\]")

Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Gate:
    """status: passed | failed | not run. Errors are the largest over all pictures, batch sizes and both runs.

    repeat: rel-L2 between two runs on the same pictures; 0 is bit for bit.
    """

    status: str
    reason: str = ""
    device: str = ""
    bound: float | None = None
    rel_l2: float | None = None
    worst_token: float | None = None
    repeat: float | None = None

    def asdict(self) -> dict[str, Any]:
        """For the record; without what was not measured, and nothing that JSON cannot hold."""
        entries = {"status": self.status, "reason": self.reason, "device": self.device}
        numbers = {key: getattr(self, key) for key in ("bound", "rel_l2", "worst_token", "repeat")}
        shown = {key: it if math.isfinite(it) else str(it) for key, it in numbers.items() if it is not None}
        return {**{key: it for key, it in entries.items() if it}, **shown}


def gate(
    om: Path, onnx_model: Path, number: int, images: Mapping[str, torch.Tensor], batches: Sequence[int],
    precision_mode: str, ln_vision: str | None, say: Callable[[str], Any] = print,
) -> Gate:  # fmt: skip
    """Run `om` on NPU `number` and `onnx_model` in onnxruntime on the CPU.

    images: name -> (1, 3, S, S), normalised. batches: every batch size of the OM. ln_vision: blip2 | default | None.
    """
    bound = BOUNDS.get(precision_mode, BOUND)
    # ais_bench needs no torch_npu, which may be missing or broken; "cpu" means NPU 0 to an .om.
    device = f"npu:{number}" if number else "cpu"
    if number and importlib.util.find_spec("torch_npu") is None:
        choice = f"set ASCEND_RT_VISIBLE_DEVICES={number} and pass --device 0."
        return Gate("not run", f"without torch_npu only NPU 0 can be chosen: {choice}")
    # Of an .om only the kind of ln_vision is looked at, not the file.
    weights = None if ln_vision == "default" else "blip2"
    say(f"onnxruntime on {len(images)} pictures ...")
    expected = run_onnx(onnx_model, images.values())  # first: its memory is free again before the OM is loaded
    try:
        with IMAGE_ENCODER_OM(om, device, weights) as encoder:
            return measure(encoder.encode, images, expected, batches, bound, f"npu:{number}", say)
    except (DeviceUnavailable, NotTaken) as error:
        return Gate("not run", str(error))
    except (ValueError, RuntimeError) as error:  # it cannot be loaded, the device failed, or gave back NaN
        status = "not run" if NOT_THE_OM.search(str(error)) else "failed"
        return Gate(status, str(error), f"npu:{number}", bound)


@np.errstate(invalid="ignore", over="ignore")  # infinite values are counted, not warned about
def measure(
    encode: Encode, images: Mapping[str, torch.Tensor], expected: Sequence[np.ndarray], batches: Sequence[int],
    bound: float, device: str, say: Callable[[str], Any] = print,
) -> Gate:  # fmt: skip
    """Every picture in every batch size, twice. expected: (1, tokens, width) each, in the order of `images`."""
    names, pictures = list(images), list(images.values())
    rel_l2 = worst_token = repeat = 0.0
    for batch in batches:
        for start in range(0, len(pictures), batch):
            picks = [(start + i) % len(pictures) for i in range(batch)]  # more than there are: from the front again
            stack = torch.cat([pictures[i] for i in picks])
            runs = [encode(stack).cpu().numpy() for _ in range(2)]
            repeat = _larger(repeat, compare(runs[1], runs[0]).rel_l2)
            for row, i in enumerate(picks):
                found = [compare(run[row : row + 1], expected[i]) for run in runs]
                error, token = (_larger(*(getattr(it, key) for it in found)) for key in ("rel_l2", "worst_token"))
                rel_l2, worst_token = _larger(rel_l2, error), _larger(worst_token, token)
                if row < len(pictures):
                    say(f"  {names[i]}, batch {batch}: rel-L2 {error:.2e}, worst token {token:.2e} (bound {bound:.0e})")
    good = rel_l2 <= bound and worst_token <= WORST_TOKEN * bound and repeat <= bound  # all false for NaN
    say(f"  two runs differ by {repeat:.2e}" if repeat else "  two runs agree bit for bit")
    return Gate("passed" if good else "failed", "", device, bound, rel_l2, worst_token, repeat)


def _larger(a: float, b: float) -> float:
    """NaN counts as the largest: max() would lose it."""
    return a if math.isnan(a) or a > b else b
