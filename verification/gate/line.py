"""One stage over all pictures, collected into one line of the report; the worst picture counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy

from verification.gate import sketch
from verification.report import Check, Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    "repeat": ("a second run gives the same again", "not on other devices"),
}
EXPONENTS = tuple(range(-9, 2))  # edges of the histograms, as powers of ten


@dataclass
class Line:
    stage: str
    level: str
    limit: str
    broken: str = ""  # the exception of a faulty port
    of: str = ""  # the file that was under test
    note: str = ""  # said instead of what the stage usually shows
    skipped: str = ""  # why the stage could not be judged
    values: list[tuple[str, float, bool, str]] = field(default_factory=list)  # picture, value, good, text
    tokens: list[NDArray[Any]] = field(default_factory=list)  # relative error of each token, for the histogram
    numbers: dict[str, Any] = field(default_factory=dict)
    over: str = ""  # what is wrong with all pictures together
    missing: list[str] = field(default_factory=list)  # pictures of which there is nothing to judge

    @property
    def bad(self) -> bool:
        wrong = self.broken or self.over or self.missing or not self.values
        return bool(wrong or not all(good for _, _, good, _ in self.values))

    def add(self, picture: str, value: float, good: bool, text: str) -> None:
        """A NaN must come here with good=False."""
        self.values.append((picture, math.inf if math.isnan(value) else value, good, text))

    def compare(
        self, picture: str, golden: NDArray[Any], found: NDArray[Any] | None, error: float, token: float
    ) -> float:
        """Two (T, width) arrays; returns the error. error, token: the limits for all rows together and for one."""
        if found is None:
            self.missing.append(picture)
            return math.inf
        if found.shape != golden.shape:
            self.add(picture, math.inf, False, f"shape {found.shape}")
            return math.inf
        measured, rows = sketch.relative_errors(golden, found)
        self.tokens.append(rows)
        text = f"error {measured:.1e}" if measured else "identical"
        text += f", of a token {rows.max():.1e}" if measured <= error and rows.max() > token else ""
        self.add(picture, measured, bool(measured <= error and rows.max() <= token), text)  # a NaN is not good
        return measured

    def three_party(self, ratio: float, limit: float) -> None:
        """ratio: the port's error over the reference's own in that dtype."""
        self.numbers["ratio"] = ratio
        if not ratio <= limit:
            self.over += f"The error is {ratio:.2f} times that of the reference in this dtype; {limit:.3g} is allowed."

    def check(self, synthetic: bool) -> Check:
        always, never = SHOWS[self.stage]
        shows = self.note or (f"{always}; {never}" if synthetic else always)
        shows = f"{self.of}: {shows}" if self.of else shows

        def line(outcome: Outcome, measured: str, detail: str) -> Check:
            return Check(
                "stages", self.stage, outcome, measured, self.limit, shows, detail, 1, self._numbers(), self.level
            )

        if self.skipped:
            return line(Outcome.NOT_RUN, "", self.skipped)
        if self.broken:
            return line(Outcome.FAILED, "error", self.broken)
        if not self.values:
            return line(Outcome.NOT_RUN, "", "An earlier stage gave nothing to compare.")
        wrong = [value for value in self.values if not value[2]]
        picture, _, good, text = max(wrong or self.values, key=lambda value: value[1])
        details = [] if good else [f"Worst on {picture}; {len(wrong)} of {len(self.values)} are over the limit."]
        if "ratio" in self.numbers:
            text += f", {self.numbers['ratio']:.2f} x"
        details += [self.over] if self.over else []
        details += [f"Nothing to judge of {', '.join(self.missing)}."] if self.missing else []
        outcome = Outcome.FAILED if wrong or self.over else Outcome.NOT_RUN if self.missing else Outcome.PASSED
        return line(outcome, text, " ".join(details))

    def _numbers(self) -> dict[str, Any]:
        values = {name: value if math.isfinite(value) else None for name, value, _, _ in self.values}
        numbers: dict[str, Any] = {"values": values, **self.numbers}
        if self.tokens:
            errors = numpy.concatenate([rows.ravel() for rows in self.tokens])
            exponents = numpy.log10(numpy.clip(numpy.nan_to_num(errors, nan=9.9, posinf=9.9), 1e-9, 9.9))
            counts, _ = numpy.histogram(exponents, bins=EXPONENTS)
            numbers["histogram"] = {"exponents": list(EXPONENTS), "counts": counts.tolist()}
        return numbers
