"""L3 and L4: the prompt, the logits along the golden's text, and the text that the port chooses itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy

from verification.gate import sketch
from verification.gate.line import Line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from verification.gate.judge import Context

FLOAT32 = "float32"
FEW = 55  # positions; of fewer the chance is larger than what the limits leave to it
ENOUGH = 30  # tokens that a standard error can be told from
NOTHING = 1e-7  # nats; the divergence of two float32 runs is up to this


def judge_language(context: Context) -> Iterator[Line]:
    yield _prompt(context)
    yield _logits(context, "LLM logits", "logits", "error")
    yield _logits(context, "decode", "decode", "decode_error")
    yield _greedy(context)
    yield _repeat(context)


def _prompt(context: Context) -> Line:
    dtype = context.dtype if context.dtype != "int8" else context.image_dtype
    limit, token = context.limits.need("L3", "prompt", dtype), context.limits.need("L2", "token", dtype)
    line = Line("prompt", "L3", f"error <= {limit:g}", context.broken("prompt"))
    for label, at in context.pairs():
        line.compare(
            label,
            context.golden.arrays[f"prompt.{at}"],
            context.taking.arrays.get(f"prompt.{at}"),
            limit,
            token * limit,
        )
    return line


def _logits(context: Context, stage: str, kind: str, error: str) -> Line:
    """float32 by the error of the log-probabilities; other dtypes by what the error does to the distributions."""
    found = {at: context.taking.arrays.get(f"{kind}.{at}") for _, at in context.pairs()}
    if context.dtype == FLOAT32:
        limit, token = context.limits.need("L3", error, FLOAT32), context.limits.need("L2", "token", FLOAT32)
        line = Line(stage, "L3", f"error <= {limit:g}", context.broken(stage))
        for label, at in context.pairs():
            line.compare(label, *_finite(context.golden.arrays[f"logits.{at}"], found[at]), limit, token * limit)
    else:
        line = _distributions(context, stage, kind, found)
    curves = [
        sketch.divergence(context.golden.arrays[f"logits.{at}"], value)
        for at, value in found.items()
        if value is not None and value.shape == context.golden.arrays[f"logits.{at}"].shape
    ]
    if curves:
        line.numbers["kl_positions"] = _curve(curves)
    return line


def _finite(golden: NDArray[Any], found: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Without the buckets that are empty on both sides, whose logarithm is no number."""
    if found is None or found.shape != golden.shape:
        return golden, found
    empty = numpy.isneginf(golden) & numpy.isneginf(found)
    return numpy.where(empty, 0.0, golden), numpy.where(empty, 0.0, found)


def _distributions(context: Context, stage: str, kind: str, found: dict[str, Any]) -> Line:
    limits = {name: context.limits.need("L3", name, context.dtype) for name in ("mean_kl", "top1", "tie", "perplexity")}
    worst = context.limits.get("L3", "worst_kl", context.dtype)
    limits["worst_kl"] = math.inf if worst is None else worst
    half = _lost(context)
    positions = sum(context.golden.arrays[f"ids.{at}"].size for _, at in context.pairs())
    ratio = context.limits.need("L3", "ratio", context.dtype) * chance(positions)
    widest = {name: max(_own(context, at)[name] for _, at in context.pairs()) for name in ("mean", "worst", "flip")}
    allowed = f"KL {max(limits['mean_kl'], widest['mean']):.2g}, "
    allowed += "" if worst is None else f"worst {max(worst, widest['worst']):.2g}, "
    allowed += f"flip {max(limits['tie'], widest['flip']):.2g}"
    line = Line(stage, "L3", allowed + (f", {ratio:.3g} x" if half else ""), context.broken(stage))
    same, means, shifts = [], [], []
    for label, at in context.pairs():
        golden, value = context.golden.arrays[f"logits.{at}"], found[at]
        if value is None:
            line.missing.append(label)
        elif value.shape != golden.shape:
            line.add(label, math.inf, False, f"shape {value.shape}")
        else:
            kl = sketch.divergence(golden, value)
            gaps = margins(golden, context.golden.arrays[f"top.{at}"], context.taking.arrays[f"best.{kind}.{at}"])
            _one_text(line, label, kl, gaps, limits, _own(context, at))
            means.append(float(kl.mean()))
            same += (gaps == 0).tolist()
            shifts.append(text_logs(context, at, golden) - text_logs(context, at, value))
    if same:
        line.over += _same_best(line, same, limits["top1"])
        line.over += _perplexity(line, numpy.concatenate(shifts), limits["perplexity"])
    if half and means:
        own = sum(lost["mean"] for lost in half.values()) / len(half)
        quotient = (sum(means) / len(means) + NOTHING) / (own + NOTHING)
        line.three_party(math.sqrt(quotient), ratio)
    return line


def _one_text(
    line: Line, label: str, kl: NDArray[Any], gaps: NDArray[Any], limits: dict[str, float], own: dict[str, float]
) -> None:
    """kl, gaps: divergence and distance to the golden's best token at each position, nats. own: no limit is below."""
    mean, few = float(kl.mean()), chance(len(kl))
    line.numbers.setdefault("p99_kl", {})[label] = _number(float(numpy.quantile(kl, 0.99)))
    good = mean <= max(limits["mean_kl"] * few, own["mean"])
    good &= bool(kl.max() <= max(limits["worst_kl"], own["worst"]) and gaps.max() <= max(limits["tie"], own["flip"]))
    text = f"KL {mean:.1e}, worst {kl.max():.0e}, flip {gaps.max():.2g}"
    line.add(label, mean, good, text + (f", {len(kl)} tokens" if few > 1 else ""))


def _own(context: Context, at: str) -> dict[str, float]:
    """`ratio` times what the dtype costs the reference itself in one text, nats; zeros where that was not measured. A
    divergence grows with the square of the error, a flip with the error; of few positions a mean is chance."""
    lost = _lost(context).get(at, {"mean": 0.0, "worst": 0.0, "flip": 0.0})
    ratio, few = context.limits.need("L3", "ratio", context.dtype), chance(context.golden.arrays[f"ids.{at}"].size)
    return {"mean": (ratio * few) ** 2 * lost["mean"], "worst": ratio**2 * lost["worst"], "flip": ratio * lost["flip"]}


def _lost(context: Context) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = context.golden.about["half"].get(context.dtype, {}).get("LLM logits", {})
    return found


def chance(positions: int) -> float:
    """How much wider a limit on a mean must be over few positions: exp(3 / sqrt(n)), three standard errors of the
    quotient of two such means, over what it is for FEW."""
    return max(1.0, math.exp(3 / positions**0.5 - 3 / FEW**0.5))


def margins(golden: NDArray[Any], top: NDArray[Any], best: NDArray[Any]) -> NDArray[numpy.float64]:
    """By how much the golden prefers its own best token to the port's `best`, nats; of a token that is not among the
    golden's likeliest at least the distance to the last of those."""
    held = golden[:, : top.shape[1]].astype(numpy.float64)
    where = top == best[:, None]
    gaps = held[:, :1] - numpy.where(where, held, -numpy.inf).max(-1, keepdims=True)
    return numpy.where(where.any(-1), gaps[:, 0], held[:, 0] - held[:, -1])


def text_logs(context: Context, at: str, logs: NDArray[Any]) -> NDArray[numpy.float64]:
    """(n,) log-probabilities of the golden's own text, of log-probabilities as sketch.py keeps them."""
    top, ids = context.golden.arrays[f"top.{at}"], context.golden.arrays[f"ids.{at}"]
    return numpy.where(top == ids[:, None], logs[:, : top.shape[1]].astype(numpy.float64), -numpy.inf).max(-1)


def _same_best(line: Line, same: list[bool], limit: float) -> str:
    """The share of positions with the same best token. Of few positions it says little (each flip has a limit of its
    own), so only what is three standard errors of such a share below the limit is a change."""
    share, spread = sum(same) / len(same), math.sqrt(limit * (1 - limit) / len(same))
    line.numbers["top1"] = share
    if share >= limit - 3 * spread:
        return ""
    return (
        f"The best token is the same at {share:.1%} of {len(same)} positions; at least {limit:.0%} is asked, less "
        "three standard errors. "
    )


def _perplexity(line: Line, shifts: NDArray[numpy.float64], limit: float) -> str:
    """shifts: what each token of all texts lost, nats. Their mean is the relative change of the perplexity; rounding
    moves single tokens both ways, so only what is three standard errors above the limit is a change, and nothing is
    where there are too few tokens to tell those. A NaN is always one."""
    change, spread = float(shifts.mean()), float(shifts.std() / len(shifts) ** 0.5)
    line.numbers["perplexity"] = {"change": _number(change), "standard_error": _number(spread)}
    few = len(shifts) < ENOUGH and math.isfinite(change)
    if few or abs(change) - 3 * spread <= limit:  # a NaN is not
        return ""
    return f"The perplexity changes by {change:+.2%}; {limit:.1%} is allowed. "


def _curve(curves: list[NDArray[Any]]) -> dict[str, list[float | None]]:
    """Mean and largest KL at each position, over the texts that are long enough."""
    longest = max(map(len, curves))
    padded = numpy.full((len(curves), longest), -1.0)
    for row, curve in zip(padded, curves):
        row[: len(curve)] = curve
    there = [column[~(column < 0)] for column in padded.T]
    return {
        "mean": [_number(float(column.mean())) for column in there],
        "max": [_number(float(column.max())) for column in there],
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _greedy(context: Context) -> Line:
    """float32: the same ids. Else apart first at a near-tie that the port's own logits put the other way round."""
    exact = context.dtype == FLOAT32
    line = Line("greedy ids", "L4", "identical" if exact else "near-ties only", context.broken("greedy ids"))
    chosen = {}
    for label, at in context.pairs():
        found = context.taking.arrays.get(f"ids.{at}")
        if found is None:
            line.missing.append(label)
            continue
        right = context.golden.arrays[f"ids.{at}"]
        chosen[label] = found.tolist()
        shorter = min(len(right), len(found))
        apart = numpy.nonzero(right[:shorter] != found[:shorter])[0]
        same, total = int(apart[0]) if len(apart) else shorter, max(len(right), len(found))
        if same == total:
            line.add(label, 0.0, True, f"{total} of {total}")
            continue
        good, text = False, f"{same} of {total}"
        if not exact and same < shorter:
            good, margin = _near_tie(context, at, same, int(found[same]))
            text += f", margin {margin:.1e}"
        line.add(label, 1 - same / total, good, text)
    line.numbers["ids"] = chosen
    return line


def _near_tie(context: Context, at: str, position: int, other: int) -> tuple[bool, float]:
    """Whether the port's logits along the golden's text prefer `other` there, and the golden hardly its own token."""
    golden, top = context.golden.arrays[f"logits.{at}"], context.golden.arrays[f"top.{at}"]
    margin = float(margins(golden, top, numpy.full(len(top), other))[position])
    best = context.taking.arrays.get(f"best.decode.{at}")
    agrees = best is not None and int(best[position]) == other
    limit = max(context.limits.need("L4", "tie", context.dtype), _own(context, at)["flip"])
    return agrees and margin <= limit, margin


def _repeat(context: Context) -> Line:
    """The same text again; and the first picture, encoded again after the others, within the limit of its stage."""
    line = Line("repeat", "L4", "identical", context.broken("repeat"))
    first, again = (context.taking.arrays.get(name) for name in ("embeddings.0", "again.embeddings"))
    if first is None or again is None:
        line.missing.append(f"{context.labels[0]} encoded again")
    else:
        error = sketch.relative_errors(first, again)[0] if first.shape == again.shape else math.inf
        good = error <= context.limits.need("L2", "error", context.image_dtype)
        line.add(f"{context.labels[0]} encoded again", error, good, f"error {error:.1e}" if error else "identical")
    for label, at in context.pairs():
        first, again = (context.taking.arrays.get(f"{kind}.{at}") for kind in ("ids", "again"))
        if first is None or again is None:
            line.missing.append(label)
            continue
        same = first.shape == again.shape and bool((first == again).all())
        line.add(label, 0.0 if same else 1.0, same, f"{len(first)} of {len(first)}" if same else "another text")
    return line
