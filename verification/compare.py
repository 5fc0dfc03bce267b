"""How far the port may be from the reference, and one stage's comparisons collected into one line of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from verification.oracle import Greedy
from verification.report import Check, Outcome


@dataclass(frozen=True)
class Limits:
    """What a stage may differ by; half precision alone uses the fields from worst_kl to tie.

    error: |a - b| / |b| over the whole tensor. worst_kl, mean_kl: nats, over positions. tie (shown as flip): at a
    position where the port prefers another token, how far the reference's logit for it may be below its best one.
    """

    error: float
    cosine: float
    worst_kl: float = 0.0
    mean_kl: float = 0.0
    tie: float = 0.0
    exact: bool = True  # tokens must be the same, and logits are held to `error`

    @property
    def logits(self) -> str:
        if self.exact:
            return f"error <= {self.error:g}"
        return f"KL {self.worst_kl:g}, mean {self.mean_kl:g}, flip {self.tie:g}"


# float32 differs by rounding only (1e-6 measured). Half precision rounds every matrix product (cosine 0.99999 measured
# on the full-size encoder). The KL limits are four to five times what float16 gives on the synthetic decoder (worst
# 1.9e-3, mean 8e-5); a cache that loses one token gives 2e-2 and 3e-3, noise of 0.05 on the logits a mean of 1.2e-3.
FP32 = Limits(error=1e-5, cosine=0.999999)
FP32_DECODE = Limits(error=5e-5, cosine=0.999999)  # 6e-6 measured: a cached step adds up in another order
HALF = Limits(error=1e-2, cosine=0.9999, worst_kl=1e-2, mean_kl=3.5e-4, tie=0.2, exact=False)

# stage -> (what a line shows with any weights, what synthetic weights cannot show)
SHOWS = {
    "processor": ("the model sees these pixels", "real weights add nothing"),
    "encoder": ("same features from ViT-g and ln_vision", "not that the real file is intact"),
    "Q-Former": ("same queries from the same features", "not that the real file is intact"),
    "projection": ("llama_proj is loaded and applied", "not that the real file is intact"),
    "prompt": ("template, BOS, the picture's place", "not the real tokenizer"),
    "LLM logits": ("the decoder's numbers, all positions at once", "not precision at full depth"),
    "decode": ("generate's numbers, token by token over its cache", "not precision at full depth"),
    "greedy ids": ("generate picks the same tokens", "not that they make sense"),
}


@dataclass
class Measured:
    """One stage over all pictures; the worst picture counts."""

    stage: str
    limit: str
    values: list[tuple[str, float, bool, str]] = field(default_factory=list)  # picture, value, good, text
    ids: dict[str, tuple[int, ...]] = field(default_factory=dict)  # picture -> the port's tokens, greedy stage only
    broken: str = ""  # the exception of a faulty port
    skipped: str = ""  # why the stage could not run

    def add(self, picture: str, value: float, good: bool, text: str) -> None:
        """A NaN must come here with good=False."""
        self.values.append((picture, math.inf if math.isnan(value) else value, good, text))

    def check(self, synthetic: bool, note: str = "", of: str = "") -> Check:
        """note: said instead of what the stage usually shows. of: the file that was under test."""
        always, never = SHOWS[self.stage]
        shows = note or (f"{always}; {never}" if synthetic else always)
        shows = f"{of}: {shows}" if of else shows
        if self.broken:
            return Check("stages", self.stage, Outcome.FAILED, "error", self.limit, shows, self.broken)
        if not self.values:
            detail = self.skipped or "An earlier stage gave nothing to compare."
            return Check("stages", self.stage, Outcome.NOT_RUN, "", self.limit, shows, detail)
        bad = [value for value in self.values if not value[2]]
        picture, _, good, text = max(bad or self.values, key=lambda value: value[1])
        detail = "" if good else f"Worst on {picture}; {len(bad)} of {len(self.values)} pictures are over the limit."
        numbers: dict[str, Any] = {name: value if math.isfinite(value) else None for name, value, _, _ in self.values}
        if self.ids:
            numbers["ids"] = self.ids
        outcome = Outcome.PASSED if good else Outcome.FAILED
        return Check("stages", self.stage, outcome, text, self.limit, shows, detail, numbers=numbers)

    def compare(self, picture: str, found: Tensor, expected: Tensor, limits: Limits) -> None:
        found, expected = found.detach().float().cpu(), expected.float()
        if found.shape != expected.shape:
            self.add(picture, math.inf, False, f"shape {tuple(found.shape)}")
            return
        error = float((found - expected).norm() / expected.norm())
        cosine = float(torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0))
        good = error <= limits.error and cosine >= limits.cosine  # a NaN is not good
        self.add(picture, error, good, f"error {error:.1e}" if error else "identical")

    def compare_logits(self, picture: str, found: Tensor, expected: Tensor, limits: Limits) -> None:
        """(1, T, vocabulary). In half precision every position is held to its own limit, and their mean to a lower."""
        found = found.detach().float().cpu()
        if limits.exact or found.shape != expected.shape:
            self.compare(picture, found, expected, limits)
            return
        kl = positions_kl(expected, found)
        worst, mean = float(kl.max()), float(kl.mean())
        preferred = expected.gather(-1, found.argmax(-1, keepdim=True))[..., 0]
        flip = float((expected.amax(-1) - preferred).max())
        good = worst <= limits.worst_kl and mean <= limits.mean_kl and flip <= limits.tie
        self.add(picture, worst, good, f"KL {worst:.1e}, mean {mean:.0e}, flip {flip:.2g}")

    def compare_ids(
        self, picture: str, truth: Greedy, ids: tuple[int, ...], expected: Tensor, found: Tensor | None
    ) -> None:
        """Identical; or, where `found` is given, apart first at a place where the two tokens changed places in it.

        expected, found: the (1, T, vocabulary) logits of reference and port along the reference's tokens. They say by
        how much the two tokens moved; a flip that they do not account for comes from somewhere else.
        """
        total = max(len(truth.ids), len(ids))
        same = next((i for i, (a, b) in enumerate(zip(truth.ids, ids)) if a != b), min(len(truth.ids), len(ids)))
        if same == total:
            self.add(picture, 0.0, True, f"{total} of {total}")
            return
        if found is None or same >= min(len(truth.ids), len(ids), found.shape[1]):
            self.add(picture, 1 - same / total, False, f"{same} of {total}")
            return
        right, other = truth.ids[same], ids[same]
        margin = float(expected[0, same, right] - expected[0, same, other])
        moved = margin + float(found[0, same, other] - found[0, same, right])
        text = f"{same} of {total}, margin {margin:.1e}, moved {moved:.1e}"
        self.add(picture, 1 - same / total, margin <= moved, text)


def positions_kl(expected: Tensor, found: Tensor) -> Tensor:
    """KL(reference || port) in nats at each position; logits are (1, T, vocabulary)."""
    p, q = expected.log_softmax(-1), found.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)[0]
