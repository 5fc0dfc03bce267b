"""Stage parity: the port against the independent reference, one stage at a time.

Every stage of the reference is fed with the port's output of the stage before it. So a fault shows in the stage that
has it and nowhere else, and errors do not add up along the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Union

import torch
from torch import Tensor

from verification import oracle
from verification.compare import FP32, FP32_DECODE, HALF, Limits, Measured
from verification.memory import lacking_memory
from verification.port import Encoded, OverlayAlone, PatchedUpstream
from verification.report import Check
from verification.weights import WeightFiles

Port = Union[PatchedUpstream, OverlayAlone]
NEW_TOKENS = 24

PIXELS = 1e-6  # both sides do the same float32 arithmetic; upstream's transform is bit-equal to Pillow and NumPy


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
        encoder.compare(path.name, found.features, reference(pixels[path]), vision)
    del reference
    if files.q_former_model and files.bert:
        reference = oracle.QFormer(files.q_former_model, files.bert)
        for path, found in encoded.items():
            assert found.queries is not None
            qformer.compare(path.name, found.queries, reference(found.features), limits)
    reference = oracle.Projection(files.ckpt)
    for path, found in encoded.items():
        projection.compare(path.name, found.embeddings, reference(_projected(found)), limits)
    del reference

    stages = [processor.check(synthetic), encoder.check(synthetic, of=files.encoder_file.name)]
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
    """Prompt, logits along the reference's own greedy text, in one pass and token by token, and the port's own text."""
    prompt = Measured("prompt", f"error <= {limits.error:g}")
    stepwise = FP32_DECODE if limits.exact else limits
    logits, decode = Measured("LLM logits", limits.logits), Measured("decode", stepwise.logits)
    greedy = Measured("greedy ids", "identical" if limits.exact else "near-ties only")
    every = (prompt, logits, decode, greedy)
    lacking = lacking_memory(files.llama_model)
    if lacking:
        for stage in every:
            stage.skipped = lacking
        return [stage.check(synthetic) for stage in every]
    reference = oracle.Decoder(files.llama_model, files.model_type)

    prompts = _each(embeddings, lambda path: port.prompt(question, embeddings[path]), prompt)
    for path, value in prompts.items():
        prompt.compare(path.name, value, reference.prompt(question, embeddings[path]), limits)

    truth = {path: reference.greedy(value, new_tokens) for path, value in prompts.items()}
    whole = _each(prompts, lambda path: port.logits(prompts[path], truth[path].ids), logits)
    steps = _each(prompts, lambda path: port.decode(prompts[path], truth[path].ids), decode)
    chosen = _each(prompts, lambda path: port.greedy(prompts[path], new_tokens), greedy)
    for path, value in prompts.items():
        inputs = torch.cat((value.float().cpu(), reference.embed(list(truth[path].ids))), dim=1)
        expected = reference.logits(inputs)
        along = expected[:, value.shape[1] - 1 : -1]  # where each of the tokens is chosen
        if path in whole:
            logits.compare_logits(path.name, whole[path], expected, limits)
        if path in steps:
            texts = reference.pieces  # generate never chooses a token without text: its score is -inf, rightly
            decode.compare_logits(path.name, steps[path][..., :texts], along[..., :texts], stepwise)
        if path in chosen:
            greedy.ids[path.name] = chosen[path]
            moved = None if limits.exact else steps.get(path)
            greedy.compare_ids(path.name, truth[path], chosen[path], along, moved)
    return [stage.check(synthetic) for stage in every]


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


def _projected(found: Encoded) -> Tensor:
    return found.features if found.queries is None else found.queries


def runs_half(encoder: Path) -> bool:
    """Whether the compiled encoder computes in half precision: ATC's default for an .om, the weights of an .onnx."""
    if encoder.suffix != ".onnx":
        return encoder.suffix == ".om"
    import onnx

    graph = onnx.load(str(encoder), load_external_data=False).graph
    return any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer)
