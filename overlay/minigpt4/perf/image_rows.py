"""What a row about the image half says: the work behind a timing, and whether the timing is possible.

Only arithmetic, without torch. ViT-g at 224 pixels computes 520.7 GFLOP for a picture.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from .rows import MARGIN

# The original guide's last sentence on performance. It says neither what is timed nor on which GPU.
PUBLISHED = (
    ("picture, OM on an Ascend 910B3", 0.018),
    ("picture, GPU", 1.185),
)
SOURCE = "the original port's guide; not measured here"


def transformer_flop(tokens: int, matrices: int, blocks: int, width: int) -> float:
    """Operations of one picture. matrices: weights (numbers, not bytes) of all matrices; attention sees all tokens."""
    return 2.0 * tokens * matrices + 4.0 * blocks * tokens**2 * width


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """Repetitions of one part, in seconds of a whole batch.

    flop: operations of the batch, None where nobody knows them. matmul: operations per second of the best large
    product on the same device, None where it was not measured.
    """

    what: str
    batch: int
    seconds: Sequence[float]
    flop: float | None
    matmul: float | None
    facts: dict[str, Any]  # device, dtype, encoder, …

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def share(self) -> float | None:
        """Of the matmul peak, in percent."""
        if self.flop is None or self.matmul is None:
            return None
        return 100 * self.flop / self.median / self.matmul

    def impossible(self) -> str:
        """Why this row cannot be true; empty when it can. The fastest repetition counts."""
        fastest = min(self.seconds)
        if fastest <= 0:
            return "the clock did not move: was the device waited for?"
        if self.flop is None or self.matmul is None or self.flop / fastest <= self.matmul * MARGIN:
            return ""
        rate = self.flop / fastest / 1e12
        return f"it would take {rate:.4g} TFLOP/s; {self.matmul / 1e12:.4g} were measured on this device"

    def cells(self) -> dict[str, Any]:
        rate = None if self.flop is None else self.flop / self.median / 1e12
        return {
            "what": self.what,
            "batch_size": self.batch,
            "median(ms)": self.median * 1e3,
            "min(ms)": min(self.seconds) * 1e3,
            "max(ms)": max(self.seconds) * 1e3,
            "pictures/s": self.batch / self.median,
            "repetitions": len(self.seconds),
            "GFLOP": None if self.flop is None else self.flop / 1e9,
            "TFLOP/s": rate,
            "matmul(TFLOP/s)": None if self.matmul is None else self.matmul / 1e12,
            "% of matmul": self.share,
            **self.facts,
            "impossible": self.impossible(),
            "seconds": list(self.seconds),
        }

    def line(self) -> str:
        """For a person."""
        text = f"batch {self.batch}, {self.what}: {self.median * 1e3:.2f} ms"
        text += f" ({min(self.seconds) * 1e3:.2f} to {max(self.seconds) * 1e3:.2f}, {len(self.seconds)} times)"
        if self.flop is not None:
            text += f", {self.flop / self.median / 1e12:.3g} TFLOP/s"
        if self.share is not None:
            text += f" ({self.share:.0f} % of matmul peak)"
        reason = self.impossible()
        return text + (f"\n  IMPOSSIBLE: {reason}" if reason else "")


def published_rows() -> list[dict[str, Any]]:
    return [{"what": what, "median(ms)": seconds * 1e3, "source": SOURCE} for what, seconds in PUBLISHED]


def published_line() -> str:
    return f"beside, {SOURCE}: " + "; ".join(f"{what}, {seconds * 1e3:g} ms" for what, seconds in PUBLISHED)
