"""The golden: what the float32 reference (oracle.py, oracle_decoder.py) computes for pictures and questions.

With `halves` it also measures what half precision costs the reference itself, on the same inputs: of each picture and
text, over all tokens and at the worst one. A port in half precision is then held to 1.5 times that (the three-party
comparison of CANN's operator tests), which tells a port that rounds from a port that is wrong.
"""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verification import oracle
from verification.gate import sketch
from verification.gate.golden import FORMAT, GOLDEN, Recording
from verification.gate.language import margins
from verification.gate.progress import Step, silent
from verification.memory import lacking_memory
from verification.oracle_decoder import Decoder, Greedy
from verification.weights import WeightFiles

NEW_TOKENS = 64
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def record(
    files: WeightFiles,
    pictures: Sequence[Path],
    questions: Sequence[str],
    new_tokens: int = NEW_TOKENS,
    halves: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
    step: Step = silent,
) -> Recording:
    """facts: more to write into `about`: digests of weights and code, versions. Streams where memory is short."""
    pixels = [oracle.process(path) for path in pictures]
    errors: dict[str, dict[str, Any]] = {name: {} for name in halves}
    image = _image_half(files, pixels, torch.float32, step)
    for name in halves:
        errors[name].update(_image_errors(image, _image_half(files, pixels, HALVES[name], step)))
    arrays = {f"features.{p}": sketch.hidden(value) for p, value in enumerate(image["encoder"])}
    arrays.update({f"queries.{p}": sketch.to_numpy(value)[0] for p, value in enumerate(image["Q-Former"])})
    arrays.update({f"embeddings.{p}": sketch.to_numpy(value)[0] for p, value in enumerate(image["projection"])})
    about = {
        "kind": GOLDEN,
        "format": FORMAT,
        "model_type": files.model_type,
        "synthetic": files.marker,
        "qformer": bool(files.q_former_model),
        "pictures": [
            {"sha256": sha256_of_file(path), "pixels": pixels_digest(value)} for path, value in zip(pictures, pixels)
        ],
        "new_tokens": new_tokens,
        "half": errors,
        **(facts or {}),
    }
    about.update(_language(files, image["projection"], questions, new_tokens, errors, arrays, step))
    about["half"] = {name: _finite(stages) for name, stages in errors.items()}
    return Recording(about, arrays)


def _finite(stages: dict[str, Any]) -> dict[str, Any]:
    """Without those where the reference itself leaves the dtype's range: they say nothing about a port."""
    found = {stage: rows.values() if isinstance(rows, dict) else rows for stage, rows in stages.items()}
    return {
        stage: stages[stage]
        for stage, rows in found.items()
        if all(math.isfinite(value) for row in rows for value in row.values())
    }


def _image_half(
    files: WeightFiles, pixels: Sequence[Tensor], dtype: torch.dtype, step: Step
) -> dict[str, list[Tensor]]:
    """Each stage's outputs, fed by the stage before it in the same dtype."""
    what = f"image half in {str(dtype)[6:]}"
    found: dict[str, list[Tensor]] = {"encoder": [], "Q-Former": []}
    encoder = oracle.Encoder(files.vit_weights, files.q_former_model, dtype)
    for number, value in enumerate(pixels):
        step(what, number, len(pixels))
        found["encoder"].append(encoder(value[None]))
    step(what, len(pixels), len(pixels))
    del encoder
    gc.collect()  # transformers keeps the first model of a process in a cycle: 4 GB, and 27 of the language model
    if files.q_former_model and files.bert:
        qformer = oracle.QFormer(files.q_former_model, files.bert, dtype)
        found["Q-Former"] = [qformer(value) for value in found["encoder"]]
        del qformer
    projection = oracle.Projection(files.ckpt, dtype)
    found["projection"] = [projection(value) for value in found["Q-Former"] or found["encoder"]]
    return found


def _image_errors(right: dict[str, list[Tensor]], half: dict[str, list[Tensor]]) -> dict[str, list[dict[str, float]]]:
    """Of each picture: the relative error of all tokens together, and of the worst one."""

    def lost(r: Tensor, h: Tensor) -> dict[str, float]:
        away = h.float() - r
        return {"error": float(away.norm() / r.norm()), "token": float((away.norm(dim=-1) / r.norm(dim=-1)).max())}

    return {stage: list(map(lost, right[stage], half[stage])) for stage in right if right[stage]}


def _language(
    files: WeightFiles,
    embeddings: Sequence[Tensor],
    questions: Sequence[str],
    new_tokens: int,
    errors: dict[str, dict[str, Any]],
    arrays: dict[str, Any],
    step: Step,
) -> dict[str, Any]:
    """Fill `arrays` and `errors`; what `about` says of the language model. One batch a question: all are as long."""
    streamed = lacking_memory(files.llama_model)
    reference = Decoder(files.llama_model, files.model_type, streamed=streamed)
    inputs: dict[int, list[Tensor]] = {}
    for q, question in enumerate(questions):
        prompts = torch.cat([reference.prompt(question, value) for value in embeddings])
        texts = _texts(reference, prompts, new_tokens, f"text {q + 1} of {len(questions)}", step)
        inputs[q] = [prompts[p : p + 1] for p in range(len(embeddings))]
        for p, text in enumerate(texts):
            arrays[f"prompt.{p}.{q}"] = sketch.hidden(prompts[p])
            arrays[f"ids.{p}.{q}"] = _array(text.ids, "int32")
            arrays[f"margins.{p}.{q}"] = _array(text.margins, "float32")
    pieces, prompt_ids = reference.pieces, [reference.prompt_ids(question) for question in questions]
    _logits(reference, inputs, arrays, pieces, step, keep=True)
    del reference
    gc.collect()
    for name in errors:
        half = Decoder(files.llama_model, files.model_type, HALVES[name], streamed)
        found = _logits(half, inputs, arrays, pieces, step, keep=False)
        errors[name]["LLM logits"] = {key: _text_errors(arrays, key, *value) for key, value in found.items()}
        del half
    asked = [
        {"question": question, "before": before, "after": after}
        for question, (before, after) in zip(questions, prompt_ids)
    ]
    return {"prompts": asked, "pieces": pieces, "streamed": streamed}


def _text_errors(arrays: dict[str, Any], at: str, logs: Any, best: Any) -> dict[str, float]:
    """nats: divergence over all positions and at the worst, and the flip that the golden likes least."""
    kl = sketch.divergence(arrays[f"logits.{at}"], logs)
    flips = margins(arrays[f"logits.{at}"], arrays[f"top.{at}"], best)
    return {"mean": float(kl.mean()), "worst": float(kl.max()), "flip": float(flips.max())}


def _texts(reference: Decoder, prompts: Tensor, new_tokens: int, what: str, step: Step) -> list[Greedy]:
    done = 0

    def count(tokens: int) -> None:
        nonlocal done
        done += tokens
        step(what, done, new_tokens)

    texts = reference.greedy(prompts, new_tokens, count)
    step(what, new_tokens, new_tokens)
    return texts


def _logits(
    model: Decoder, inputs: dict[int, list[Tensor]], arrays: dict[str, Any], pieces: int, step: Step, keep: bool
) -> dict[str, Any]:
    """Log-probabilities and best tokens along the golden's ids, by "p.q"; keep: the former and the likeliest tokens go
    into `arrays`.

    The texts of one question are one batch, the shorter ones filled up behind their end, where nothing looks back.
    """
    found = {}
    what = f"logits in {str(model.model.dtype)[6:]}"
    for q, prompts in inputs.items():
        step(what, q, len(inputs))
        ids = [arrays[f"ids.{p}.{q}"].tolist() for p in range(len(prompts))]
        longest = max(map(len, ids))
        texts = torch.cat([model.embed([*row, *[0] * (longest - len(row))]) for row in ids])
        whole = torch.cat((torch.cat(prompts).to(texts), texts), dim=1)
        logits = model.logits(whole, keep=longest + 1)
        for p, row in enumerate(ids):
            mine = logits[p, : len(row), :pieces]
            if keep:
                arrays[f"top.{p}.{q}"] = sketch.top_ids(mine)
            logs = sketch.log_probabilities(mine, arrays[f"top.{p}.{q}"])
            found[f"{p}.{q}"] = logs, mine.argmax(-1).cpu().numpy()
    step(what, len(inputs), len(inputs))
    if keep:
        arrays.update({f"logits.{key}": logs for key, (logs, _) in found.items()})
    return found


def pixels_digest(pixels: Tensor) -> str:
    """sha256 of a (3, S, S) picture as bytes from 0 to 255: what it was before upstream's normalisation."""
    return hashlib.sha256(as_bytes(pixels).numpy().tobytes()).hexdigest()


def as_bytes(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in (oracle.MEAN, oracle.STD))
    return ((pixels.float().cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def sha256_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _array(values: Sequence[Any], dtype: str) -> Any:
    import numpy

    return numpy.array(values, dtype=dtype)
