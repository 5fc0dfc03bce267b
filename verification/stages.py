"""Stage parity: the port against the independent reference, one stage at a time.

Every stage of the reference is fed with the port's output of the stage before it. So a fault shows in the stage that
has it and nowhere else, and errors do not add up along the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import torch
from torch import Tensor

from verification import oracle
from verification.memory import lacking_memory
from verification.port import Encoded, OverlayAlone, PatchedUpstream
from verification.report import Check, Outcome
from verification.weights import WeightFiles

Port = Union[PatchedUpstream, OverlayAlone]
NEW_TOKENS = 24

PIXELS = 1e-6  # both sides do the same float32 arithmetic; upstream's transform is bit-equal to Pillow and NumPy


@dataclass(frozen=True)
class Limits:
    """What a stage may differ by. error: |a - b| / |b| over the whole tensor; kl: nats, mean over positions."""

    error: float
    cosine: float
    kl: float
    exact_ids: bool


# float32 differs by rounding only (1e-6 measured); half precision rounds every matrix product (cosine 0.99999 measured
# on the full-size encoder), and a flipped token is right only where the reference itself hesitated.
FP32 = Limits(error=1e-5, cosine=0.999999, kl=1e-6, exact_ids=True)
HALF = Limits(error=1e-2, cosine=0.9999, kl=1e-3, exact_ids=False)

# stage -> (what a line shows with any weights, what synthetic weights cannot show)
SHOWS = {
    "processor": ("the model sees these pixels", "real weights add nothing"),
    "encoder": ("same features from ViT-g and ln_vision", "not that the real file is intact"),
    "Q-Former": ("same queries from the same features", "not that the real file is intact"),
    "projection": ("llama_proj is loaded and applied", "not that the real file is intact"),
    "prompt": ("template, BOS, the picture's place", "not the real tokenizer"),
    "LLM logits": ("the decoder's numbers", "not precision at full depth"),
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
        self.values.append((picture, value, good, text))

    def check(self, synthetic: bool, note: str = "") -> Check:
        always, never = SHOWS[self.stage]
        shows = note or (f"{always}; {never}" if synthetic else always)
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


def run_stages(
    port: Port, files: WeightFiles, pictures: Sequence[Path], question: str, new_tokens: int = NEW_TOKENS
) -> tuple[tuple[Check, ...], dict[Path, Tensor]]:
    """All stages on all pictures. Returns the lines, and the port's picture embeddings for the answers."""
    limits = FP32 if port.dtype == torch.float32 else HALF
    vision = FP32 if limits is FP32 and not runs_half(files.encoder_file) else HALF
    rel, seen = f"error <= {limits.error:g}", f"error <= {vision.error:g}"
    processor, encoder = Measured("processor", f"max <= {PIXELS:g}"), Measured("encoder", seen)
    qformer, projection = Measured("Q-Former", rel), Measured("projection", rel)
    synthetic = bool(files.marker)

    pixels = _each(pictures, port.pixels, processor)
    for path, value in pixels.items():
        difference = float((value.float().cpu() - oracle.process(path)[None]).abs().max())
        processor.add(
            path.name, difference, difference <= PIXELS, f"max {difference:.1e}" if difference else "identical"
        )
    encoded = _each(pixels, lambda path: port.encode(pixels[path]), encoder)

    reference: Any = oracle.Encoder(files.vit_weights, files.q_former_model)
    for path, found in encoded.items():
        _compare(encoder, path, found.features, reference(pixels[path]), vision)
    del reference
    if files.q_former_model and files.bert:
        reference = oracle.QFormer(files.q_former_model, files.bert)
        for path, found in encoded.items():
            assert found.queries is not None
            _compare(qformer, path, found.queries, reference(found.features), limits)
    reference = oracle.Projection(files.ckpt)
    for path, found in encoded.items():
        _compare(projection, path, found.embeddings, reference(_projected(found)), limits)
    del reference

    stages = [processor.check(synthetic), encoder.check(synthetic)]
    if files.q_former_model:
        same = "none: without upstream both sides are Hugging Face's" if port.qformer_is_reference else ""
        stages.append(qformer.check(synthetic, same))
    stages.append(projection.check(synthetic))
    embeddings = {path: found.embeddings for path, found in encoded.items()}
    stages += _language(port, files, embeddings, question, new_tokens, limits, synthetic)
    return tuple(stages), embeddings


def _language(
    port: Port,
    files: WeightFiles,
    embeddings: dict[Path, Tensor],
    question: str,
    new_tokens: int,
    limits: Limits,
    synthetic: bool,
) -> list[Check]:
    """Prompt, logits along the reference's own greedy text, and the port's greedy text."""
    prompt = Measured("prompt", f"error <= {limits.error:g}")
    logits = Measured("LLM logits", f"error <= {limits.error:g}" if limits.exact_ids else f"KL <= {limits.kl:g}")
    greedy = Measured("greedy ids", "identical" if limits.exact_ids else "near-ties only")
    lacking = lacking_memory(files.llama_model)
    if lacking:
        for stage in (prompt, logits, greedy):
            stage.skipped = lacking
        return [stage.check(synthetic) for stage in (prompt, logits, greedy)]
    reference = oracle.Decoder(files.llama_model, files.model_type)

    prompts = _each(embeddings, lambda path: port.prompt(question, embeddings[path]), prompt)
    for path, value in prompts.items():
        _compare(prompt, path, value, reference.prompt(question, embeddings[path]), limits)

    truth = {path: reference.greedy(value, new_tokens) for path, value in prompts.items()}
    found = _each(prompts, lambda path: port.logits(prompts[path], truth[path].ids), logits)
    band = 0.0
    for path, value in found.items():
        inputs = torch.cat((prompts[path].float().cpu(), reference.embed(list(truth[path].ids))), dim=1)
        expected = reference.logits(inputs)
        band = max(band, 2 * float((value.float().cpu() - expected).abs().max()))
        if limits.exact_ids:
            _compare(logits, path, value, expected, limits)
        else:
            kl = mean_kl(expected, value.float().cpu())
            logits.add(path.name, kl, kl <= limits.kl, f"KL {kl:.1e}")

    chosen = _each(prompts, lambda path: port.greedy(prompts[path], new_tokens), greedy)
    for path, ids in chosen.items():
        greedy.ids[path.name] = ids
        _compare_ids(greedy, path.name, truth[path], ids, 0.0 if limits.exact_ids else band)
    return [stage.check(synthetic) for stage in (prompt, logits, greedy)]


def _each(pictures: Any, compute: Callable[[Path], Any], stage: Measured) -> dict[Path, Any]:
    """compute(picture) for each; an exception belongs to the stage and is reported, not raised."""
    results = {}
    for path in pictures:
        try:
            results[path] = compute(path)
        except Exception as error:  # whatever a faulty port raises is a finding
            stage.broken = f"{path.name}: {type(error).__name__}: {error}"
            return {}
    return results


def _compare(stage: Measured, path: Path, found: Tensor, expected: Tensor, limits: Limits) -> None:
    found, expected = found.detach().float().cpu(), expected.float()
    if found.shape != expected.shape:
        text = f"shape {tuple(found.shape)}"
        stage.add(path.name, float("inf"), False, text)
        return
    error = float((found - expected).norm() / expected.norm())
    cosine = float(torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0))
    good = error <= limits.error and cosine >= limits.cosine  # a NaN is not good
    text = f"error {error:.1e}" if error else "identical"
    stage.add(path.name, error if error == error else float("inf"), good, text)


def _compare_ids(stage: Measured, picture: str, truth: oracle.Greedy, ids: tuple[int, ...], band: float) -> None:
    """Identical, or apart first at a place where the reference's two best logits were within `band`."""
    total = max(len(truth.ids), len(ids))
    same = next((i for i, (a, b) in enumerate(zip(truth.ids, ids)) if a != b), min(len(truth.ids), len(ids)))
    if same == total:
        stage.add(picture, 0.0, True, f"{total} of {total}")
        return
    margin = truth.margins[same] if same < len(truth.margins) else float("inf")
    stage.add(picture, 1 - same / total, margin <= band, f"{same} of {total}, margin {margin:.1e}")


def mean_kl(expected: Tensor, found: Tensor) -> float:
    """Mean over positions of KL(reference || port) in nats; logits are (1, T, vocabulary)."""
    p, q = expected.log_softmax(-1), found.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def _projected(found: Encoded) -> Tensor:
    return found.features if found.queries is None else found.queries


def runs_half(encoder: Path) -> bool:
    """Whether the compiled encoder computes in half precision: ATC's default for an .om, the weights of an .onnx."""
    if encoder.suffix != ".onnx":
        return encoder.suffix == ".om"
    import onnx

    graph = onnx.load(str(encoder), load_external_data=False).graph
    return any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer)
