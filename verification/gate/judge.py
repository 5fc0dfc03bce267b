"""Golden against taking, level by level: one line of the report for each stage.

The first stage that is over its limit has the fault; what it feeds cannot be judged and says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from verification.gate.golden import Recording
from verification.gate.language import judge_language
from verification.gate.limits import Limits
from verification.gate.line import Line
from verification.report import Check

MOST = 0.5  # what the reference loses makes no limit wider: an output of zeros has an error of 1
IMAGE = (("encoder", "features"), ("Q-Former", "queries"), ("projection", "embeddings"))


def judge(
    golden: Recording, taking: Recording, limits: Limits, labels: Sequence[str], of: str = ""
) -> tuple[Check, ...]:
    """labels: how the report calls the pictures, all of the golden's. of: the encoder's file that was under test."""
    if len(labels) != len(golden.about["pictures"]):
        raise ValueError(f"{len(labels)} labels for the {len(golden.about['pictures'])} pictures of the golden")
    context = Context(golden, taking, limits, tuple(labels))
    lines = [_pixels(context), *_image(context, of), *judge_language(context)]
    return tuple(line.check(bool(golden.about["synthetic"])) for line in lines)


@dataclass(frozen=True)
class Context:
    golden: Recording
    taking: Recording
    limits: Limits
    labels: tuple[str, ...]

    @property
    def dtype(self) -> str:
        """Of the language model: float32, float16, bfloat16 or int8."""
        return str(self.taking.about["dtype"])

    @property
    def image_dtype(self) -> str:
        """Of the coarsest part of the image half; with an int8 language model also of the prompt."""
        return str(self.taking.about["encoder_dtype"])

    def broken(self, stage: str) -> str:
        return str(self.taking.about["broken"].get(stage, ""))

    def pairs(self) -> Iterator[tuple[str, str]]:
        """(label, "p.q") of every picture and question."""
        for q in range(len(self.golden.about["prompts"])):
            for p, label in enumerate(self.labels):
                yield (label if len(self.golden.about["prompts"]) == 1 else f"{label} ({q + 1})"), f"{p}.{q}"


def _pixels(context: Context) -> Line:
    limit = context.limits.need("L1", "pixels", "float32")
    line = Line("processor", "L1", f"max <= {limit:g}", context.broken("processor"))
    line.missing += context.labels[len(context.taking.about["pixels"]) :]
    for label, known, found in zip(context.labels, context.golden.about["pictures"], context.taking.about["pixels"]):
        error = max(found["error"], found["drift"])
        same = found["digest"] == known["pixels"]
        text = f"max {error:.1e}" if error else "identical"
        good = found["error"] <= limit and found["drift"] <= limit  # a NaN is not
        line.add(label, error, same and good, text if same or error > limit else "not the golden's pixels")
    return line


def _image(context: Context, of: str) -> Iterator[Line]:
    """The stages feed each other, so behind one that is over its limit nothing can be said."""
    dtype, failed = context.image_dtype, ""
    error = context.limits.need("L2", "error", dtype)
    half = context.golden.about["half"].get(dtype, {})
    for stage, name in IMAGE:
        chain = "" if stage == "encoder" else "chain_"
        token, ratio = (context.limits.need("L2", chain + limit, dtype) for limit in ("token", "ratio"))
        if name == "queries" and not context.golden.about["qformer"]:
            continue
        own, found = half.get(stage, []), []
        limits = [max(error, min(MOST, ratio * lost["error"])) for lost in own] or [error] * len(context.labels)
        tokens = [max(token * error, min(MOST, ratio * lost["token"])) for lost in own] or [token * error] * len(limits)
        allowed = f"error <= {max(limits):.2g}" + (f", {ratio:g} x" if own else "")
        line = Line(stage, "L2", allowed, context.broken(stage), of=of if stage == "encoder" else "")
        if stage == "Q-Former" and context.taking.about["qformer_is_reference"]:
            line.note = "none: without upstream both sides are Hugging Face's"
        if failed:
            line.skipped = f"It is fed by the {failed}, which is not right."
            yield line
            continue
        for p, label in enumerate(context.labels):
            arrays = context.golden.arrays[f"{name}.{p}"], context.taking.arrays.get(f"{name}.{p}")
            found.append(line.compare(label, *arrays, limits[p], tokens[p]))
        if own and all(map(math.isfinite, found)):
            right = [max(lost["error"], 1e-30) for lost in own]
            line.three_party(max(_rms(found) / _rms(right), max(found) / max(right)), ratio)
        if line.bad:
            failed = stage
        yield line


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / max(len(values), 1))
