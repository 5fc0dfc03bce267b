"""`verify.py ops`: does a device compute what plain PyTorch computes, operation by operation? No weights needed.

On an NPU this is the self-check that the decoder makes there by itself (overlay/minigpt4/models/ops_check.py); an
operation that fails is replaced by plain PyTorch in every run, and 1 is returned all the same. On a GPU or the CPU it
compares that device's own table, which says nothing about an NPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlaykit.errors import FixTheCommand
from verification.options import add_project
from verification.overlay_modules import import_overlay
from verification.report import NOTHING_RAN
from verification.run import DEVICE, versions


@dataclass(frozen=True)
class OpsReport:
    """What was found on one device. findings: ops_check.Finding, one for each operation."""

    device: str
    shows: str
    graph: str  # whether decode steps are recorded and replayed there
    sentence: str  # what every other report says about this device
    findings: tuple[Any, ...]

    @property
    def exit_code(self) -> int:
        return 1 if any(finding.bad for finding in self.findings) else 0


class NoDevice(Exception):
    """Nothing could be checked: the device, or the software for it, is not there."""


def main(argv: list[str]) -> int:
    options = parse(argv)
    try:
        report = check_ops(Path(options.project), options.device, options.again)
    except NoDevice as missing:
        print(f"verify: {missing}", file=sys.stderr)
        return NOTHING_RAN
    print(to_json(report) if options.json else to_table(report))
    return report.exit_code


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="verify.py ops",
        description=__doc__,
        epilog="Exit codes: 0 every fused operation agrees; 1 one does not; 2 usage; 5 no such device here.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:N or npu:N (%(default)s)")
    parser.add_argument("--again", action="store_true", help="check an NPU now, not what an earlier run found")
    parser.add_argument("--json", action="store_true", help="print the same facts as JSON")
    add_project(parser)
    return parser.parse_args(argv)


def check_ops(project: Path, device: str, again: bool = False) -> OpsReport:
    """Check the table of the overlay in `project` on `device`. Raises FixTheCommand, NoDevice."""
    if not DEVICE.fullmatch(device.strip().lower()):
        raise FixTheCommand(f"--device {device} is not a device.", "It takes auto, cpu, cuda:N or npu:N.")
    try:
        import torch  # noqa: F401  what the overlay's table needs, too
    except ModuleNotFoundError as error:
        raise NoDevice(f"{error}. Install what inference needs: pip install '.[cpu]'") from error
    parts = import_overlay(project / "overlay")
    try:
        return _check(parts, device, again)
    except parts("models.device").DeviceUnavailable as error:
        raise NoDevice(str(error)) from error


def _check(parts: Any, device: str, again: bool) -> OpsReport:
    found = parts("models.device").resolve_device(device)
    checker, graphs = parts("models.ops_check"), parts("models.llama_graph")
    if found.type == "npu":
        kept = checker.npu_checked(found, again).kept
        wrong = graphs.trouble(found)
        findings = checker.npu_checked(found).findings
        shows = "its fused operations against plain PyTorch, on this NPU"
        if kept:
            shows += "; found by an earlier run with the same software (--again checks now)"
    else:
        findings = checker.check(parts("models.llama_ops").ops_for(found), found, _dtypes(found))
        shows = f"the operations that this port uses on {found.type} against plain PyTorch; nothing about an NPU"
        wrong = graphs.why_not(found)
        if wrong is None:
            wrong = parts("models.graph_check").check_graph(found, parts("models.device").compute_dtype(found))
            found_out = (checker.OK, "") if wrong is None else (checker.DIFFERS, wrong)
            findings += (checker.Finding(checker.GRAPH, *found_out),)
    graph = "steps are recorded and replayed" if wrong is None else f"steps are computed one by one: {wrong}"
    return OpsReport(str(found), shows, graph, checker.describe(found), findings)


def _dtypes(device: Any) -> tuple[Any, ...]:
    """Those that a decoder may run in there."""
    import torch

    if device.type == "cpu":
        return torch.float32, torch.bfloat16
    return (torch.float16, torch.bfloat16) if torch.cuda.is_bf16_supported() else (torch.float16,)


def to_json(report: OpsReport) -> str:
    content = {
        "device": report.device,
        "shows": report.shows,
        "graph": report.graph,
        "sentence": report.sentence,
        "versions": versions(),
        "exit_code": report.exit_code,
        "ops": [_row(finding) for finding in report.findings],
    }
    return json.dumps(content, indent=2, allow_nan=False)


def _row(finding: Any) -> dict[str, Any]:
    """JSON has no infinity: null where the result was NaN, infinite, or of another shape."""
    return {name: None if value == float("inf") else value for name, value in finding._asdict().items()}


def to_table(report: OpsReport) -> str:
    head = ("operation", "result", "differs by", "allowed", "where it differs most")
    rows = [head]
    for found in report.findings:
        compared = found.outcome == "ok" or found.worst
        numbers = (f"{found.worst:.2g}", f"{found.allowed:.2g}") if compared else ("", "")
        outcome = found.outcome.upper() if found.bad else found.outcome
        rows.append((found.op, outcome, *numbers, "" if found.bad else found.detail))
    sizes = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row, found in zip(rows, (None, *report.findings)):
        lines.append("  ".join([*(cell.ljust(size) for cell, size in zip(row, sizes)), row[4]]).rstrip())
        if found is not None and found.bad:
            lines += textwrap.wrap(found.detail, 120, initial_indent="    ", subsequent_indent="    ")
    software = "  ".join(f"{name} {version}" for name, version in versions().items())
    above = [f"device  {report.device}   {software}", f"shows   {report.shows}", f"graph   {report.graph}"]
    verdict = "Every operation agrees."
    if report.exit_code:
        verdict = "NOT every operation agrees."
        if report.device.startswith("npu"):
            verdict += " Every run on this NPU uses plain PyTorch instead of those; --again checks anew."
    return "\n".join([*above, "", *lines, "", verdict])
