"""Compares a table of operations with REFERENCE on one device, and replaces in it what differs.

What is tried is in ops_cases.py, when and where this happens in ops_check.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container
from contextlib import AbstractContextManager
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .device import DeviceUnavailable, own_dtype, synchronize
from .llama_ops import REFERENCE, Ops
from .ops_cases import CASES, Draw, Pair

OK, DIFFERS, RAISED, CRASHED, PLAIN = "ok", "differs", "raised", "crashed", "plain PyTorch"
GRAPH = "graph"
ENDED = "an earlier run ended, or lost its device, while this was tried"
# Four neighbouring numbers of the dtype: results of this size pass through up to four roundings of half a step each
# (a norm, its weight; probabilities, their sum with the values), here and there, and kernels may add one or two.
STEPS = 4
# Relative, on top: float32 sums over thousands of products, added up in another order, and another exponential.
SUMS = 2e-5


class Finding(NamedTuple):
    """What the check found out about one operation. worst: largest difference; allowed: at that place."""

    op: str  # a field of Ops, "attention with padding", or GRAPH
    outcome: str  # OK, DIFFERS, RAISED, CRASHED: it ended an earlier run, or PLAIN: there is none of the table's own
    detail: str = ""
    worst: float = 0.0
    allowed: float = 0.0

    @property
    def bad(self) -> bool:
        return self.outcome in (DIFFERS, RAISED, CRASHED)

    @property
    def share(self) -> float:
        """How much of what is allowed was used up."""
        return self.worst / self.allowed if self.allowed else 0.0

    @property
    def reason(self) -> str:
        """In a few words."""
        if self.outcome == CRASHED:
            return "ended an earlier run"
        return f"differs by {self.worst:.2g}" if self.outcome == DIFFERS else f"raised {self.detail}"


class DeviceLost(DeviceUnavailable):
    """The device answers nothing any more in this process."""


@torch.no_grad()
def check(
    table: Ops,
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    trying: Callable[[str], AbstractContextManager] = contextlib.nullcontext,
    crashed: Container[str] = (),
) -> tuple[Finding, ...]:
    """Compare every entry of `table` with REFERENCE on `device`. Raises nothing that an operation raises, but
    DeviceLost when the device is unusable after it.

    trying(op): entered around the trial of each. crashed: those that are not tried, but reported as CRASHED.
    """
    findings = []
    with own_dtype(device):
        for op in CASES:
            if op in crashed or (op.startswith("attention") and "attention" in crashed):
                findings.append(Finding(op, CRASHED, ENDED))
                continue
            with trying(op):
                findings.append(_check_op(op, table, device, dtypes))
    return tuple(findings)


def _check_op(op: str, table: Ops, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> Finding:
    if is_plain(op, table):
        return Finding(op, PLAIN)
    worst = Finding(op, OK)
    for dtype in dtypes:
        try:
            for pair in CASES[op](table, Draw(device, dtype)):
                found = _compare(op, pair, dtype)
                if found.bad:
                    return found
                worst = max(worst, found, key=lambda finding: finding.share)
            synchronize(device)  # an NPU reports what went wrong in a kernel only now
        except Exception as error:  # whatever a kernel raises, plain PyTorch takes over
            require_alive(device, op, error)
            return Finding(op, RAISED, in_a_line(error))
    return worst


def require_alive(device: torch.device, op: str, error: Exception) -> None:
    """Raise DeviceLost where `error`, which `op` raised, left a device that computes nothing any more.

    After a fault inside a kernel every later call fails, plain operations too: whatever the check said about the
    next operations would be wrong.
    """
    try:
        usable = float(torch.ones(8, device=device).sum()) == 8
        synchronize(device)
    except Exception:
        usable = False
    if not usable:
        raise DeviceLost(
            f"{device} stopped working in this process when the self-check tried {op} ({in_a_line(error)}). Start "
            f"again: the next run leaves {op} out. If it ends in the same way, set MINIGPT4_NPU_OPS=plain."
        ) from error


def in_a_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def is_plain(op: str, table: Ops) -> bool:
    if op.startswith("attention"):
        return (table.attention, table.mask) == (REFERENCE.attention, REFERENCE.mask)
    return getattr(table, op) == getattr(REFERENCE, op)


def _compare(op: str, pair: Pair, dtype: torch.dtype) -> Finding:
    """NaN and infinity differ from everything: no comparison with them may come out as small."""
    got, want = pair.got, pair.want
    where = f"{str(dtype).replace('torch.', '')}, {pair.name}"
    if got.shape != want.shape or got.dtype != dtype:
        was = f"{tuple(got.shape)} {got.dtype}, not {tuple(want.shape)} {dtype}"
        return Finding(op, DIFFERS, f"{where}: the result is {was}", float("inf"))
    allowed = 0.0 if pair.exact else (STEPS * torch.finfo(dtype).eps + SUMS) * _largest(want)
    worst = _largest(got.float() - want.float())
    if not worst <= allowed:
        return Finding(op, DIFFERS, f"{where}: {worst:.2g} apart, {allowed:.2g} allowed", worst, allowed)
    return Finding(op, OK, where, worst, allowed)


def _largest(x: Tensor) -> float:
    """The largest magnitude; infinity where one is not a number, as JSON and a reader can tell."""
    value = float(x.abs().max())
    return value if value == value else float("inf")


def repair(table: Ops, findings: tuple[Finding, ...]) -> Ops:
    """The table with REFERENCE's operation wherever a finding is bad; a mask goes with the attention that reads it."""
    bad = {finding.op for finding in findings if finding.bad}
    table = table._replace(**{op: getattr(REFERENCE, op) for op in bad if op in Ops._fields})
    if "attention" in bad:
        return table._replace(mask=REFERENCE.mask)
    return _plain_where_padded(table) if "attention with padding" in bad else table


class _PlainMask(NamedTuple):
    mask: Tensor | None


def _plain_where_padded(table: Ops) -> Ops:
    """REFERENCE's attention in passes with padding, the table's own in all others."""

    def mask(padding: Tensor | None, slots: Tensor, length: int, capacity: int) -> Any:
        if padding is None:
            return table.mask(None, slots, length, capacity)
        return _PlainMask(REFERENCE.mask(padding, slots, length, capacity))

    def attention(q: Tensor, k: Tensor, v: Tensor, length: int, mask: Any) -> Tensor:
        if isinstance(mask, _PlainMask):
            return REFERENCE.attention(q, k, v, length, mask.mask)
        return table.attention(q, k, v, length, mask)

    return table._replace(mask=mask, attention=attention)
