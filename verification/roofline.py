"""What the stages of a run must compute and read, and what the device can do: the yardstick beside their times.

The arithmetic is the overlay's own (minigpt4/perf), as run_performance.py uses it. A roofline is the least time that
a stage can take: all its operations at the device's best rate, or all its bytes at the best bandwidth, whichever is
longer. It counts weights, keys and values; what else is read makes the truth slower, never faster.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

PICTURES, PREFILL, DECODE = "picture to embeddings", "prefill", "decode"  # the stages that gate/take.py times
_ORDER = {name: place for place, name in enumerate((PICTURES, PREFILL, DECODE))}
PATCH = 14  # side of one of ViT-g's patches, pixels

Calls = Mapping[str, Sequence[Sequence[float]]]  # stage -> [units, seconds] of each call


def report_timings(taken: Calls, port: Any = None) -> dict[str, Any]:
    """Report.timings. taken: what gate/take.py timed; units are pictures or tokens, of a prefill all that it saw.

    Of each stage the calls of one size are kept, the commonest; among equals the later, when the device is warm.
    port: the one that was timed; with it work and peaks are added, which takes a second or two. None: only times.
    """
    stages: list[dict[str, Any]] = []
    for name, calls in sorted(
        taken.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER))
    ):  # a bundle's are by name
        if not calls:
            continue
        counts = Counter(int(units) for units, _ in reversed(calls))
        units = counts.most_common(1)[0][0]
        seconds = [float(value) for size, value in calls if size == units]
        stages.append({"name": name, "seconds": seconds, "units": [units] * len(seconds), "flop": None, "bytes": None})
    if port is None or not stages:
        return {"stages": stages, "peaks": {}}
    overlay = _Overlay(port)
    sizes = {stage["name"]: stage["units"][0] for stage in stages}
    for stage in stages:
        stage["flop"], stage["bytes"] = overlay.work(stage["name"], sizes)
    return {"stages": stages, "peaks": overlay.peaks()}


class _Overlay:
    """The overlay's performance code, of the workspace or imported alone, asked about one port."""

    def __init__(self, port: Any) -> None:
        parts = getattr(port, "parts", None) or (lambda name: importlib.import_module(f"minigpt4.{name}"))
        self.port = port
        self.image, self.measure, self.run = parts("perf.image"), parts("perf.measure"), parts("perf.run")
        model = getattr(port, "model", None)  # upstream's MiniGPT-4; the overlay alone has its parts one by one
        self.half = model
        self.encoder = model.visual_encoder if model else port.encoder
        self.decoder = self.measure.work_of(model.llama_model if model else port.decoder)

    def work(self, name: str, sizes: Mapping[str, int]) -> tuple[float | None, float | None]:
        """Operations and bytes of one call; None where nobody can say, as of an .om's graph."""
        size = sizes[name]
        if name == PICTURES:
            return self._pictures(size)
        weights = self.decoder.matrices + self.decoder.head
        if name == PREFILL:  # the gate wants the logits of every position, not only of the last
            return float(2 * size * weights + 2 * size**2 * self.decoder.attention), float(self.decoder.weights)
        if name == DECODE and sizes.get(PREFILL, 0) > size:
            prompt = sizes[PREFILL] - size  # the prefill saw the prompt and the same tokens behind it
            flop = self.decoder.prefill_flop(1, prompt) + 2 * (size - 1) * weights
            steps = (size - 1) * self.decoder.step_bytes(1, prompt + size / 2)
            return float(flop), float(self.decoder.weights + steps)
        return None, None

    def _pictures(self, count: int) -> tuple[float | None, float | None]:
        """Of encoder, Q-Former and projection; without upstream the latter two are the reference's and not counted."""
        import torch

        if self.image.facts(self.encoder, self.port.device)["encoder_runs_on"] != self.port.device.type:
            return None, None  # an .onnx on the host, beside an NPU: its peaks are not those of the device
        runner = self.encoder._runner
        side = runner.image_shape[-1]
        flop = self.image.encoder_flop(self.encoder.path, side)
        if flop is not None and self.half is not None:
            flop += self.image.rest_flop(self.half, (side // PATCH) ** 2 + 1)
        model = getattr(runner, "model", None)
        held = [*model.parameters(), *model.buffers()] if isinstance(model, torch.nn.Module) else []
        read = sum(part.numel() * part.element_size() for part in held)
        return (None if flop is None else float(count * flop)), float(read) or None

    def peaks(self) -> dict[str, Any]:
        device, dtype = self.port.device, self.port.dtype
        found = self.measure.measure_peaks(device, dtype, self.decoder.weights)
        name = self.run.device_name(device)
        how = f"copies and matrix products in plain PyTorch, {str(dtype)[6:]}, on {name}, in the same run"
        return {"flops": found.matmul, "bandwidth": found.ceiling, "measured": how}
