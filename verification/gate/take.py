"""The taking: what the port computes for a golden's pictures and questions, in the same arrays.

The picture half runs as a user runs it, each stage on what the stage before it gave. The language model is fed with the
golden's own embeddings and text, so that its lines do not depend on the picture half. The first picture is encoded
alone and the others in batches, because a fault in batching shows in no single picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from verification import oracle
from verification.gate import sketch
from verification.gate.golden import FORMAT, TAKING, Recording
from verification.gate.progress import Step, silent
from verification.gate.record import as_bytes, pixels_digest
from verification.port import Encoded

BATCH = 8  # pictures at once
ENCODE, PREFILL, DECODE = "picture to embeddings", "prefill", "decode"


class Taker:
    """Collects arrays and facts; an exception of a faulty port belongs to the stage that raised it."""

    def __init__(self, port: Any, golden: Recording, pictures: Sequence[Path], step: Step = silent) -> None:
        """pictures: in the golden's order."""
        self.port, self.golden, self.pictures, self.step = port, golden, pictures, step
        self.arrays: dict[str, Any] = {}
        self.broken: dict[str, str] = {}
        self.timings: dict[str, list[list[float]]] = {ENCODE: [], PREFILL: [], DECODE: []}
        self.pixels: list[dict[str, Any]] = []
        self.encoded: list[Encoded] = []

    def run(self) -> Recording:
        steps: list[tuple[str, Callable[[], None]]] = [("processor", self._pixels), ("encoder", self._encode)]
        for name, work in steps:
            self._guard(name, work)
        for q in range(len(self.golden.about["prompts"])):
            for p in range(len(self.pictures)):
                self.step("language model", q * len(self.pictures) + p, self._pairs)
                self._language(p, q)
        self.step("language model", self._pairs, self._pairs)
        about = {
            "kind": TAKING,
            "format": FORMAT,
            "golden": self.golden.digest,
            "dtype": "int8" if self.port.int8 else str(self.port.dtype)[6:],
            "qformer_is_reference": self.port.qformer_is_reference,
            "pixels": self.pixels,
            "broken": self.broken,
            "timings": self.timings,
        }
        return Recording(about, self.arrays)

    @property
    def _pairs(self) -> int:
        return len(self.golden.about["prompts"]) * len(self.pictures)

    def _guard(self, stage: str, work: Callable[[], None]) -> None:
        if stage in self.broken:
            return
        try:
            work()
        except Exception as error:  # whatever a faulty port raises is a finding
            self.broken[stage] = f"{type(error).__name__}: {error}"

    def _pixels(self) -> None:
        for path in self.pictures:
            found = self.port.pixels(path)[0].float().cpu()
            expected = oracle.process(path, found.shape[-1])
            error = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
            again = (as_bytes(found).float() / 255 - mean()) / std()  # what these bytes mean when normalised rightly
            drift = float((again - found).abs().max())
            self.pixels.append({"error": error, "drift": drift, "digest": pixels_digest(found)})

    def _encode(self) -> None:
        """On the reference's pixels, so that a wrong processor does not look like a wrong encoder."""
        pixels = torch.stack([oracle.process(path) for path in self.pictures]).to(self.port.device)
        for batch in (pixels[:1], *filter(len, pixels[1:].split(BATCH))):
            self.step("image half", len(self.encoded), len(pixels))
            found = self._timed(ENCODE, len(batch), lambda batch=batch: self.port.encode(batch))  # type: ignore[misc]
            for index in range(len(batch)):
                self._keep(_one(found, index))
        self.step("image half", len(pixels), len(pixels))
        self.port.encode(pixels[-1:])  # what the encoder keeps of its last picture is now of another one
        again = self.port.encode(pixels[:1])
        self.arrays["again.embeddings"] = sketch.to_numpy(again.embeddings)[0]

    def _keep(self, found: Encoded) -> None:
        p = len(self.encoded)
        self.encoded.append(found)
        self.arrays[f"features.{p}"] = sketch.hidden(found.features)
        self.arrays[f"embeddings.{p}"] = sketch.to_numpy(found.embeddings)[0]
        if found.queries is not None:
            self.arrays[f"queries.{p}"] = sketch.to_numpy(found.queries)[0]
        elif self.golden.about["qformer"]:
            self.broken["Q-Former"] = "Its queries never reached llama_proj."

    def _language(self, p: int, q: int) -> None:
        about, at = self.golden.about, f"{p}.{q}"
        asked = about["prompts"][q]
        picture = torch.from_numpy(self.golden.arrays[f"embeddings.{p}"])[None].to(self.port.device, self.port.dtype)
        ids = tuple(self.golden.arrays[f"ids.{at}"].tolist())

        def prompt() -> None:
            self.arrays[f"prompt.{at}"] = sketch.hidden(self.port.prompt(asked["question"], picture))

        def rightly() -> Tensor:  # from the golden's ids, so that a wrong template is no wrong language model
            before, after = self.port.embed(asked["before"]), self.port.embed(asked["after"])
            return torch.cat((before, picture.to(before), after), dim=1)

        def logits() -> None:
            inputs = rightly()
            length = inputs.shape[1]
            found = self._timed(PREFILL, length + len(ids), lambda: self.port.logits(inputs, ids))
            self._logits("logits", at, found[0, length - 1 : -1])

        def decode() -> None:
            inputs = rightly()
            found = self._timed(DECODE, len(ids), lambda: self.port.decode(inputs, ids))
            self._logits("decode", at, found[0])

        def greedy() -> None:
            self.arrays[f"ids.{at}"] = numpy.array(self.port.greedy(rightly(), about["new_tokens"]), dtype="int32")

        def repeat() -> None:
            self.arrays[f"again.{at}"] = numpy.array(self.port.greedy(rightly(), about["new_tokens"]), dtype="int32")

        for name, work in (
            ("prompt", prompt),
            ("LLM logits", logits),
            ("decode", decode),
            ("greedy ids", greedy),
            ("repeat", repeat),
        ):
            self._guard(name, work)

    def _logits(self, kind: str, at: str, found: Tensor) -> None:
        """found: (n, vocabulary). generate never chooses a token without text, so those are left out on both sides."""
        found = found[:, : self.golden.about["pieces"]].float().cpu()
        self.arrays[f"{kind}.{at}"] = sketch.log_probabilities(found, self.golden.arrays[f"top.{at}"])
        self.arrays[f"best.{kind}.{at}"] = found.argmax(-1).numpy().astype("int32")

    def _timed(self, name: str, units: int, call: Callable[[], Any]) -> Any:
        synchronise(self.port.device)  # with what was asked for before
        start = time.perf_counter()
        result = call()
        synchronise(self.port.device)
        self.timings[name].append([units, time.perf_counter() - start])
        return result


def _one(found: Encoded, index: int) -> Encoded:
    """Of a batch the picture `index`."""
    at = slice(index, index + 1)
    return Encoded(found.features[at], None if found.queries is None else found.queries[at], found.embeddings[at])


def synchronise(device: torch.device) -> None:
    """Wait for the device: its calls return before the work is done."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def mean() -> Tensor:
    return torch.tensor(oracle.MEAN).view(3, 1, 1)


def std() -> Tensor:
    return torch.tensor(oracle.STD).view(3, 1, 1)
