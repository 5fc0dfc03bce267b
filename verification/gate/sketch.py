"""Large tensors as small ones that keep what the gate measures: distances, and the divergence of distributions.

Hidden states are multiplied by 64 fixed random directions. By Johnson and Lindenstrauss (1984; with signs, Achlioptas,
doi:10.1016/S0022-0000(03)00025-4) that keeps the norm of a difference: over the thousands of numbers of a stage the
relative error measured on sketches is the real one within a few percent, and no fault can hide from random directions.

Logits become the log-probabilities of the 128 tokens that the golden likes best, and those of 128 buckets into which
all other tokens are counted. The divergence of such coarser distributions is never larger than the real one (the
data-processing inequality), and a fault that lifts one far token still shows in its bucket.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

DIRECTIONS = 64
TOP = 128
BUCKETS = 128


@functools.lru_cache(maxsize=8)
def directions(width: int) -> NDArray[numpy.float64]:
    """(width, 64) signs over sqrt(64); RandomState, because NumPy promises never to change its stream."""
    signs = numpy.random.RandomState(width).randint(0, 2, size=(width, DIRECTIONS)) * 2.0 - 1.0
    return signs / DIRECTIONS**0.5


def hidden(states: Tensor) -> NDArray[numpy.float32]:
    """(1, T, width) or (T, width) -> (T, 64)."""
    values = to_numpy(states).astype(numpy.float64)
    values = values.reshape(-1, values.shape[-1])
    return (values @ directions(values.shape[-1])).astype(numpy.float32)


def top_ids(logits: Tensor) -> NDArray[numpy.int32]:
    """(n, vocabulary) -> (n, up to 128) ids, the likeliest first."""
    best = logits.float().topk(min(TOP, logits.shape[-1]), dim=-1).indices
    return best.cpu().numpy().astype(numpy.int32)


def log_probabilities(logits: Tensor, top: NDArray[numpy.int32]) -> NDArray[numpy.float32]:
    """(n, vocabulary) -> (n, K + 128): of the tokens `top`, then of the buckets (id modulo 128) of all others.

    An empty bucket is -inf. A NaN in the logits makes its whole row NaN.
    """
    import torch

    logs = logits.detach().double().cpu().log_softmax(-1)
    chosen = torch.from_numpy(top.astype(numpy.int64))
    rest = logs.exp().scatter(-1, chosen, 0.0)
    padding = -rest.shape[-1] % BUCKETS
    buckets = torch.nn.functional.pad(rest, (0, padding)).unflatten(-1, (-1, BUCKETS)).sum(-2)
    return torch.cat((logs.gather(-1, chosen), buckets.log()), dim=-1).float().numpy()


def divergence(golden: NDArray[Any], found: NDArray[Any]) -> NDArray[numpy.float64]:
    """KL(golden || found) in nats at each position, from two results of log_probabilities."""
    p, q = golden.astype(numpy.float64), found.astype(numpy.float64)
    with numpy.errstate(invalid="ignore", over="ignore"):
        terms = numpy.where(numpy.isneginf(p), 0.0, numpy.exp(p) * (p - q))
        sums = numpy.exp(q).sum(-1)
    terms[~(abs(sums - 1) <= 1e-3)] = numpy.nan  # no distribution, or a NaN also where p has no mass: never good
    return numpy.maximum(terms.sum(-1), 0.0)  # the maximum keeps a NaN


def relative_errors(golden: NDArray[Any], found: NDArray[Any]) -> tuple[float, NDArray[numpy.float64]]:
    """Of two (T, width) arrays: |difference| / |golden| over all, and for every row alone."""
    a, b = golden.astype(numpy.float64), found.astype(numpy.float64)
    rows = numpy.maximum(numpy.linalg.norm(a, axis=-1), 1e-30)
    with numpy.errstate(invalid="ignore"):  # of infinite values, which are bad already
        error = float(numpy.linalg.norm(b - a) / numpy.linalg.norm(a))
        return error, numpy.linalg.norm(b - a, axis=-1) / rows


def to_numpy(tensor: Tensor) -> NDArray[numpy.float32]:
    return tensor.detach().float().cpu().numpy()
