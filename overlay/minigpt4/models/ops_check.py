"""The self-check: does each of a device's operations compute what plain PyTorch computes, on this very device?

Nobody who wrote this port had an NPU, so it does not trust its own table: before a decoder runs on one, every entry is
compared with REFERENCE on that device (ops_cases.py), and one that raises or differs is replaced by REFERENCE's.
`describe` gives the sentence that says so in every report. It takes seconds, once: what was found is kept
(ops_store.py) until processor, CANN, torch_npu, torch or this code changes.

MINIGPT4_NPU_OPS=fused skips the check and trusts the table, =plain uses no fused operation; to find a fault with.
"""

from __future__ import annotations

import os
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from . import npu_soc, ops_store
from .device import own_dtype, synchronize
from .llama_ops import REFERENCE, Ops, ops_for
from .ops_cases import CASES, Draw, Pair

NPU_DTYPES = (torch.float16, torch.bfloat16)
OK, DIFFERS, RAISED, PLAIN = "ok", "differs", "raised", "plain PyTorch"
GRAPH = "graph"
# Four neighbouring numbers of the dtype: results of this size pass through up to four roundings of half a step each
# (a norm, its weight; probabilities, their sum with the values), here and there, and kernels may add one or two.
STEPS = 4
# Relative, on top: float32 sums over thousands of products, added up in another order, and another exponential.
SUMS = 2e-5


class Finding(NamedTuple):
    """What the check found out about one operation. worst: largest difference; allowed: at that place."""

    op: str  # a field of Ops, "attention with padding", or GRAPH
    outcome: str  # OK, DIFFERS, RAISED, or PLAIN: the table has no operation of its own here
    detail: str = ""
    worst: float = 0.0
    allowed: float = 0.0

    @property
    def bad(self) -> bool:
        return self.outcome in (DIFFERS, RAISED)

    @property
    def share(self) -> float:
        """How much of what is allowed was used up."""
        return self.worst / self.allowed if self.allowed else 0.0

    @property
    def reason(self) -> str:
        """In a few words."""
        return f"differs by {self.worst:.2g}" if self.outcome == DIFFERS else f"raised {self.detail}"


class Checked(NamedTuple):
    """The table to use, and why it is that one."""

    table: Ops
    findings: tuple[Finding, ...]
    processor: str = ""
    kept: bool = False  # the findings come from an earlier run


@torch.no_grad()
def check(table: Ops, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> tuple[Finding, ...]:
    """Compare every entry of `table` with REFERENCE on `device`. Raises nothing that an operation raises."""
    with own_dtype(device):
        return tuple(_check_op(op, table, device, dtypes) for op in CASES)


def _check_op(op: str, table: Ops, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> Finding:
    if _is_plain(op, table):
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
            return Finding(op, RAISED, _in_a_line(error))
    return worst


def _in_a_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _is_plain(op: str, table: Ops) -> bool:
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


_CHECKED: dict[torch.device, Checked] = {}


def npu_ops(device: torch.device) -> Ops:
    """The table for an NPU, checked at the first call."""
    return npu_checked(device).table


def npu_checked(device: torch.device, again: bool = False) -> Checked:
    """What is known about this NPU's operations; again: check now, whatever earlier runs found."""
    if again or device not in _CHECKED:
        _CHECKED[device] = _find_out(device, again)
    return _CHECKED[device]


def _find_out(device: torch.device, again: bool) -> Checked:
    import torch_npu

    from .llama_ops_npu import NPU

    processor = npu_soc.device_name(device.index or 0)
    wish = os.environ.get("MINIGPT4_NPU_OPS", "checked")
    if wish not in ("checked", "fused", "plain"):
        raise ValueError(f"MINIGPT4_NPU_OPS is {wish!r}: write checked, fused or plain.")
    if wish != "checked" and not again:
        return Checked(NPU if wish == "fused" else REFERENCE, (), processor)
    identity = ops_store.identity(torch_npu, processor)
    findings = None if again else _from_rows(ops_store.load(identity))
    kept = findings is not None
    if findings is None:
        findings = check(NPU, device, NPU_DTYPES)
        _keep(identity, findings)
    return Checked(repair(NPU, findings), findings, processor, kept)


def _keep(identity: dict[str, str], findings: tuple[Finding, ...]) -> None:
    """Except when memory ran out: that says nothing about the operation, and may be different next time."""
    if not any("out of memory" in finding.detail.lower() for finding in findings if finding.bad):
        ops_store.save(identity, [list(finding) for finding in findings])


def _from_rows(rows: list | None) -> tuple[Finding, ...] | None:
    """Findings from a file, None unless they are exactly what this code would have written."""
    try:
        findings = tuple(Finding(*row) for row in rows or ())
    except TypeError:
        return None
    complete = [finding.op for finding in findings if finding.op != GRAPH] == list(CASES)
    outcomes = all(finding.outcome in (OK, DIFFERS, RAISED, PLAIN) for finding in findings)
    kinds = all(isinstance(f.detail, str) and isinstance(f.worst, (int, float)) for f in findings)
    return findings if complete and outcomes and kinds else None


def graph_failure(device: torch.device, check_graph: Callable[[torch.device], str | None]) -> str | None:
    """Why an NPU's recorded decode step must not be used; None: it may.

    check_graph: computes the recorded step beside the eager one and returns what is wrong, or None. It runs once, like
    the check of the operations; what it raises counts as wrong. A recording needs the fused attention: its key lengths
    are the ones that a replay can update.
    """
    checked = npu_checked(device)
    if checked.table.attention is REFERENCE.attention and not checked.findings:
        return "plain operations were asked for (MINIGPT4_NPU_OPS)"
    for finding in checked.findings:
        if finding.bad and finding.op.startswith("attention"):
            return f"the fused {finding.op} is not used: it {finding.reason}"
        if finding.op == GRAPH:
            return finding.detail if finding.bad else None
    if not checked.findings:
        return None  # the check was switched off
    try:
        wrong = check_graph(device)
    except Exception as error:
        wrong = f"recording or replaying it raised {_in_a_line(error)}"
    found = Finding(GRAPH, OK) if wrong is None else Finding(GRAPH, DIFFERS, wrong)
    _CHECKED[device] = checked._replace(findings=(*checked.findings, found))
    import torch_npu

    _keep(ops_store.identity(torch_npu, checked.processor), _CHECKED[device].findings)
    return wrong


def describe(device: torch.device) -> str:
    """One sentence for reports: which operations of this device are fused, which had to be replaced, and why."""
    if device.type != "npu":
        return _sentence(str(device), ops_for(device), ())
    checked = npu_checked(device)
    return _sentence(f"{device} ({checked.processor or 'NPU'})", checked.table, checked.findings)


def _sentence(name: str, table: Ops, findings: tuple[Finding, ...]) -> str:
    bad = {finding.op: finding for finding in findings if finding.bad}
    fused = [op for op in CASES if op not in bad and not _is_plain(op, table)]
    if "attention" in fused and "attention with padding" in fused:
        fused.remove("attention with padding")
    text = f"{name}: fused ops: {', '.join(fused) or 'none'}"
    graph = bad.pop(GRAPH, None)
    if bad:
        text += f"; plain PyTorch instead of: {', '.join(f'{op} ({found.reason})' for op, found in bad.items())}"
    return text if graph is None else f"{text}; steps are not recorded as a graph: {graph.detail}"
