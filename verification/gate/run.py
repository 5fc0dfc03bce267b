"""The gate in one call: golden, taking, judgement, and the bundle where one is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from verification.gate.bundle import device_facts
from verification.gate.digests import check_digests, weight_digests
from verification.gate.golden import Recording
from verification.gate.judge import judge
from verification.gate.limits import coarsest, encoder_dtype, read_limits
from verification.gate.pictures import labels_of
from verification.gate.progress import Progress
from verification.gate.record import HALVES, NEW_TOKENS, record
from verification.gate.take import Taker
from verification.report import Check
from verification.weights import WeightFiles


@dataclass(frozen=True)
class Gated:
    """embeddings: what the port made of each picture, for the answers. taking: what it computed."""

    checks: tuple[Check, ...]
    embeddings: Mapping[Path, Tensor]
    taking: Recording


def run_gate(
    port: Any,
    files: WeightFiles,
    pictures: Sequence[Path],
    questions: Sequence[str],
    limits: Path,
    golden: Recording | None = None,
    versions: Mapping[str, str] | None = None,
    new_tokens: int = NEW_TOKENS,
) -> Gated:
    """Without a golden one is recorded now; with one, `pictures` are in its order (in_order). limits: gate.yaml."""
    step = Progress()
    try:
        checks: tuple[Check, ...] = ()
        facts: dict[str, Any] = {"versions": dict(versions or {}), "encoder": files.encoder_file.suffix}
        facts["encoder_dtype"] = coarsest(encoder_dtype(files.encoder_file), str(port.dtype)[6:])
        facts["device"] = device_facts(port.device)
        if golden is None:
            halves = [name for name in HALVES if str(port.dtype) == f"torch.{name}"]
            golden = record(files, pictures, questions, new_tokens, halves, step=step)
        else:
            facts["weights"] = weight_digests(files, step)
            checks = check_digests(golden.about["weights"], facts["weights"])
        taker = Taker(port, golden, pictures, step)
        taken = taker.run()
    finally:
        step.close()
    taking = Recording({**taken.about, **facts}, taken.arrays)
    checks += judge(golden, taking, read_limits(limits), labels_of(pictures), of=files.encoder_file.name)
    embeddings = {path: found.embeddings for path, found in zip(pictures, taker.encoded)}
    return Gated(checks, embeddings, taking)
