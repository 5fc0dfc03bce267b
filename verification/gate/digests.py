"""sha256 of what the weight files hold: equal for the same tensors in another format, shard size or order."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from overlaykit.errors import FixTheCommand
from verification.download.sums import sha256_of
from verification.gate.progress import Step, silent
from verification.report import Check, Outcome
from verification.shards import Shards
from verification.weights import WeightFiles, pth_tensors

if TYPE_CHECKING:
    from torch import Tensor

SHOWS = "the tensors that the golden was recorded with; not that they are loaded rightly"


def weight_digests(files: WeightFiles, step: Step = silent) -> dict[str, str]:
    """YAML key -> sha256 over name, dtype, shape and bytes of every tensor; `tokenizer` -> sha256 of the file."""
    sources = {"llama_model": Shards(files.llama_model).each(), "vit_weights": pth_tensors(files.vit_weights, ("",))}
    sources["ckpt"] = pth_tensors(files.ckpt, ("llama_proj.",))
    if files.q_former_model:
        sources["q_former_model"] = pth_tensors(files.q_former_model, ("Qformer.bert.", "query_tokens", "ln_vision."))
    found = {}
    for number, (key, tensors) in enumerate(sources.items()):
        step("sha256 of the weights", number, len(sources))
        try:
            found[key] = _digest(tensors)
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:  # what torch.load raises
            raise FixTheCommand(
                f"{files.items[key]} cannot be read.",
                f"It is cut off or damaged ({type(error).__name__}: {str(error).splitlines()[0][:120]}).",
                "`python verify.py weights` tells which files are wrong.",
            ) from error
    step("sha256 of the weights", len(sources), len(sources))
    tokenizer = files.llama_model / "tokenizer.model"
    return {**found, "tokenizer": sha256_of(tokenizer)}


def _digest(tensors: Iterator[tuple[str, Tensor]]) -> str:
    """Of each tensor its own sum, so that the order in the file does not count and only one is in memory."""
    rows = []
    for name, tensor in tensors:
        import torch

        content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        rows.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(content.data).hexdigest()}")
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def check_digests(golden: Mapping[str, str], found: Mapping[str, str]) -> tuple[Check, ...]:
    """One line: with other weights every other number of the gate means nothing."""
    other = [key for key in golden if found.get(key) != golden[key]]
    detail = (
        f"{', '.join(other)}: not what the golden was recorded with. "
        "`python verify.py weights` tells which files are the wrong ones; or record a golden of these."
    )
    return (
        Check(
            "weights",
            "golden's weights",
            Outcome.FAILED if other or not golden else Outcome.PASSED,
            f"{len(golden) - len(other)} of {len(golden)} equal",
            "all equal",
            SHOWS,
            detail if other else "",
            numbers={"golden": dict(golden), "found": dict(found)},
            level="L0",
        ),
    )


def code_digests(project: Path) -> dict[str, str]:
    """Of the reference's own source, so that a golden tells which code made it."""
    names = ("oracle.py", "oracle_decoder.py", "gate/record.py", "gate/sketch.py")
    return {name: sha256_of(project / "verification" / name) for name in names}
