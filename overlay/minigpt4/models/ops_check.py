"""The self-check: does each of a device's operations compute what plain PyTorch computes, on this very device?

Nobody who wrote this port had an NPU, so it does not trust its own table: before a decoder runs on one, every entry is
compared with REFERENCE on that device (ops_compare.py), and one that raises or differs is replaced by REFERENCE's.
`describe` gives the sentence that says so in every report. It takes seconds, once: what was found is kept
(ops_store.py) until processor, CANN, torch_npu, torch or this code changes.
An operation that ended the process is not tried again.

MINIGPT4_NPU_OPS=fused skips the check and trusts the table, =plain uses no fused operation; to find a fault with.
"""

from __future__ import annotations

import functools
import os
from typing import Callable, NamedTuple

import torch

from . import npu_soc, ops_store
from .llama_ops import REFERENCE, Ops, ops_for
from .ops_cases import CASES
from .ops_compare import (
    CRASHED,
    DIFFERS,
    ENDED,
    GRAPH,
    OK,
    PLAIN,
    RAISED,
    Finding,
    check,
    in_a_line,
    is_plain,
    repair,
    require_alive,
)

NPU_DTYPES = (torch.float16, torch.bfloat16)


class Checked(NamedTuple):
    """The table to use, and why it is that one."""

    table: Ops
    findings: tuple[Finding, ...]
    processor: str = ""
    kept: bool = False  # the findings come from an earlier run


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
    crashed = ops_store.unfinished(identity, forget=(*CASES, GRAPH) if again else ())
    findings = None if again else _from_rows(ops_store.load(identity))
    kept = findings is not None
    if findings is None:
        trying = functools.partial(ops_store.trying, identity)
        findings = check(NPU, device, NPU_DTYPES, trying, () if again else crashed)
        _keep(identity, findings)
    return Checked(repair(NPU, findings), findings, processor, kept)


def _keep(identity: dict[str, str], findings: tuple[Finding, ...]) -> None:
    """Except when memory ran out: that says nothing about the operation, and may be different next time."""
    if not any("out of memory" in finding.detail.lower() for finding in findings if finding.bad):
        ops_store.save(identity, [list(finding) for finding in findings])
        ops_store.unfinished(identity, forget=[finding.op for finding in findings])


def _from_rows(rows: list | None) -> tuple[Finding, ...] | None:
    """Findings from a file, None unless they are exactly what this code would have written."""
    try:
        findings = tuple(Finding(*row) for row in rows or ())
    except TypeError:
        return None
    complete = [finding.op for finding in findings if finding.op != GRAPH] == list(CASES)
    outcomes = all(finding.outcome in (OK, DIFFERS, RAISED, CRASHED, PLAIN) for finding in findings)
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
    import torch_npu

    identity = ops_store.identity(torch_npu, checked.processor)
    found = _try_graph(identity, device, check_graph)
    _CHECKED[device] = checked._replace(findings=(*checked.findings, found))
    _keep(identity, _CHECKED[device].findings)
    return found.detail if found.bad else None


def _try_graph(identity: dict[str, str], device: torch.device, check_graph: Callable) -> Finding:
    if GRAPH in ops_store.unfinished(identity):
        return Finding(GRAPH, CRASHED, ENDED)
    with ops_store.trying(identity, GRAPH):
        try:
            wrong = check_graph(device)
        except Exception as error:
            require_alive(device, "a recorded step", error)
            wrong = f"recording or replaying it raised {in_a_line(error)}"
    return Finding(GRAPH, OK) if wrong is None else Finding(GRAPH, DIFFERS, wrong)


def describe(device: torch.device) -> str:
    """One sentence for reports: which operations of this device are fused, which had to be replaced, and why."""
    if device.type != "npu":
        return _sentence(str(device), ops_for(device), ())
    checked = npu_checked(device)
    return _sentence(f"{device} ({checked.processor or 'NPU'})", checked.table, checked.findings)


def _sentence(name: str, table: Ops, findings: tuple[Finding, ...]) -> str:
    bad = {finding.op: finding for finding in findings if finding.bad}
    fused = [op for op in CASES if op not in bad and not is_plain(op, table)]
    if "attention" in fused and "attention with padding" in fused:
        fused.remove("attention with padding")
    text = f"{name}: fused ops: {', '.join(fused) or 'none'}"
    graph = bad.pop(GRAPH, None)
    if bad:
        text += f"; plain PyTorch instead of: {', '.join(f'{op} ({found.reason})' for op, found in bad.items())}"
    return text if graph is None else f"{text}; steps are not recorded as a graph: {graph.detail}"
