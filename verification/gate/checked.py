"""Is a recording what record.py or take.py makes? It may come from anybody, and judge and take rely on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from verification.gate.limits import COARSER
from verification.gate.rules import Absent, Each, Maybe, Unusable, match

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from verification.gate.golden import Recording

    Arrays = Mapping[str, NDArray[Any]]


SHA256, NAME, TEXT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[\w./ -]{1,60}"), re.compile(r"(?s).{0,4096}")
TEXT_AT = re.compile(r"\d+\.\d+")
COUNT, ID, POSITIVE, TIMED = (1, 1 << 24), (0, 1 << 24), (0.0, 1e30), (0.0, 1e9)
IMAGE_STAGES = ("encoder", "Q-Former", "projection")
BROKEN = re.compile("processor|encoder|Q-Former|prompt|LLM logits|decode|greedy ids|repeat")  # what take.py guards
SUMS, VERSIONS = Each(NAME, SHA256), Each(NAME, TEXT)

GOLDEN_FACTS = {
    "kind": ("golden",),
    "format": int,
    "model_type": ("pretrain_vicuna0", "pretrain_llama2"),
    "synthetic": Maybe(Each(NAME, int)),
    "qformer": bool,
    "pictures": [{"sha256": SHA256, "pixels": SHA256}],
    "new_tokens": COUNT,
    "prompts": [{"question": TEXT, "before": [ID], "after": [ID]}],
    "pieces": COUNT,
    "streamed": bool,
    "half": Each(
        re.compile("float16|bfloat16"),
        {
            **{stage: Absent([{"error": POSITIVE, "token": POSITIVE}]) for stage in IMAGE_STAGES},
            "LLM logits": Absent(Each(TEXT_AT, {"mean": POSITIVE, "worst": POSITIVE, "flip": POSITIVE})),
        },
    ),
    "weights": SUMS,
    "code": SUMS,
    "versions": VERSIONS,
    "date": re.compile(r"\d{4}-\d\d-\d\d"),
}
TAKING_FACTS = {
    "kind": ("taking",),
    "format": int,
    "golden": SHA256,
    "dtype": COARSER,
    "encoder": TEXT,
    "encoder_dtype": COARSER,
    "qformer_is_reference": bool,
    "pixels": [{"error": float, "drift": float, "digest": SHA256}],
    "broken": Each(BROKEN, re.compile(r"(?s).{1,4096}")),  # an empty one would be none
    "timings": Each(NAME, [[TIMED]]),
    "device": {"kind": NAME, "chip": TEXT},
    "versions": VERSIONS,
    "weights": SUMS,
}
# kind of array -> (dtype, dimensions, the stages of take.py that it is missing behind)
TAKEN: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "features": ("float32", 2, ("encoder",)),
    "queries": ("float32", 2, ("encoder", "Q-Former")),
    "embeddings": ("float32", 2, ("encoder",)),
    "prompt": ("float32", 2, ("prompt",)),
    "logits": ("float32", 2, ("LLM logits",)),
    "best.logits": ("int32", 1, ("LLM logits",)),
    "decode": ("float32", 2, ("decode",)),
    "best.decode": ("int32", 1, ("decode",)),
    "ids": ("int32", 1, ("greedy ids",)),
    "again": ("int32", 1, ("repeat",)),
    "again.embeddings": ("float32", 2, ("encoder",)),
}
OF_PICTURES = ("features", "queries", "embeddings")
NUMBERS = {**dict.fromkeys(OF_PICTURES, 1), "again.embeddings": 0}  # in a name; the others: picture and question


def check_recording(about: Mapping[str, Any], arrays: Arrays) -> None:
    """Raises Unusable that says what is wrong."""
    golden = about["kind"] == "golden"
    match(about, GOLDEN_FACTS if golden else TAKING_FACTS, "the facts")
    if golden:
        _check_golden(about, arrays)
        return
    if any(len(call) != 2 for calls in about["timings"].values() for call in calls):
        raise Unusable("A timing is no pair of units and seconds.")
    for name, array in arrays.items():
        dtype, dimensions, _ = TAKEN.get(kind_of(name), ("", 0, ()))
        if (str(array.dtype), array.ndim) != (dtype, dimensions):
            raise Unusable(f"{name:.60} is {array.dtype} {array.shape}, which no taking has.")


def kind_of(name: str) -> str:
    """ "best.logits.3.0" -> "best.logits"; "" for a name without the numbers that its kind has."""
    kind = re.sub(r"(\.(0|[1-9]\d{0,5}))+$", "", name)
    return kind if name.count(".") - kind.count(".") == NUMBERS.get(kind, 2) else ""


def names_of(kind: str, golden: Mapping[str, Any]) -> list[str]:
    """The arrays of one kind that go with a golden's facts."""
    if kind == "queries" and not golden["qformer"]:
        return []
    if not NUMBERS.get(kind, 2):
        return [kind]
    pictures, questions = range(len(golden["pictures"])), range(len(golden["prompts"]))
    if kind in OF_PICTURES:
        return [f"{kind}.{p}" for p in pictures]
    return [f"{kind}.{p}.{q}" for q in questions for p in pictures]


def _check_golden(about: Mapping[str, Any], arrays: Arrays) -> None:
    if not about["pictures"] or not about["prompts"]:
        raise Unusable("It has no pictures or no questions.")
    if any(max(row["before"] + row["after"], default=0) >= about["pieces"] for row in about["prompts"]):
        raise Unusable("A prompt has a token that the tokenizer does not know.")
    of_half = [values for half in about["half"].values() for stage, values in half.items() if stage in IMAGE_STAGES]
    if any(len(values) != len(about["pictures"]) for values in of_half if values is not None):
        raise Unusable("The errors of half precision are not those of its pictures.")
    kinds = (*OF_PICTURES, "prompt", "ids", "margins", "top", "logits")
    expected = {name for kind in kinds for name in names_of(kind, about)}
    odd = sorted(expected ^ set(arrays))
    if odd:
        raise Unusable(f"It {'lacks' if odd[0] in expected else 'also holds'} {odd[0]:.60} and {len(odd) - 1} more.")
    shapes = _golden_shapes(about, arrays)
    for name, array in arrays.items():
        dtype = "int32" if kind_of(name) in ("ids", "top") else "float32"
        wanted = shapes[name]
        fits = array.ndim == len(wanted) and all(w in (None, d) and d for w, d in zip(wanted, array.shape))
        if str(array.dtype) != dtype or not fits:
            raise Unusable(f"{name} is {array.dtype} {array.shape}, not {dtype} {wanted}.")
        _check_values(name, array, about)


def _golden_shapes(about: Mapping[str, Any], arrays: Arrays) -> dict[str, tuple[int | None, ...]]:
    """Array -> its shape; None for a size that may be any."""
    from verification.gate.sketch import BUCKETS, DIRECTIONS, TOP

    picture = arrays["embeddings.0"].shape if arrays["embeddings.0"].ndim == 2 else (0, 0)
    likely = min(TOP, about["pieces"])
    shapes: dict[str, tuple[int | None, ...]] = {}
    for p in range(len(about["pictures"])):
        shapes.update({f"features.{p}": (None, DIRECTIONS), f"queries.{p}": (None, None), f"embeddings.{p}": picture})
        for q, prompt in enumerate(about["prompts"]):
            length, tokens = len(prompt["before"]) + picture[0] + len(prompt["after"]), arrays[f"ids.{p}.{q}"].size
            rows = {"prompt": (length, DIRECTIONS), "top": (tokens, likely), "logits": (tokens, likely + BUCKETS)}
            shapes.update({f"{kind}.{p}.{q}": shape for kind, shape in rows.items()})
            shapes.update({f"ids.{p}.{q}": (tokens,), f"margins.{p}.{q}": (tokens,)})
    return shapes


def _check_values(name: str, array: NDArray[Any], about: Mapping[str, Any]) -> None:
    import numpy

    from verification.gate.sketch import BUCKETS

    kind = kind_of(name)
    if kind in ("ids", "top"):
        known = array.min() >= 0 and array.max() < about["pieces"]
        good = known and (kind == "top" or len(array) <= about["new_tokens"])
    elif kind == "logits":  # logarithms of probabilities; that of an empty bucket is -inf
        with numpy.errstate(over="ignore"):
            sums = numpy.exp(array.astype(numpy.float64)).sum(-1)
        good = (abs(sums - 1) <= 1e-3).all() and numpy.isfinite(array[:, :-BUCKETS]).all()
    else:
        good = numpy.isfinite(array).all() and (kind == "margins" or array.any())
    if not good:
        raise Unusable(f"{name} holds values that no reference computes.")


def check_taking(golden: Recording, taking: Recording) -> None:
    """That a taking has everything that its golden asks for, but for what raised an error. Raises Unusable."""
    about, broken = golden.about, taking.about["broken"]
    expected = {name: stages for kind, (_, _, stages) in TAKEN.items() for name in names_of(kind, about)}
    for name, stages in expected.items():
        if name not in taking.arrays and not any(stage in broken for stage in stages):
            raise Unusable(f"It lacks {name}.")
    for name, array in taking.arrays.items():
        if name not in expected:
            raise Unusable(f"It also holds {name}, of which the golden knows nothing.")
        kind = kind_of(name)
        if kind.startswith("best.") and array.shape != golden.arrays[name.replace(kind, "ids")].shape:
            raise Unusable(f"{name} is as long as no text of the golden.")
        if kind in ("logits", "decode") and f"best.{name}" not in taking.arrays:
            raise Unusable(f"It lacks best.{name}.")
    if len(taking.about["pixels"]) != len(about["pictures"]) and "processor" not in broken:
        raise Unusable("It lacks pixels.")
