"""`verify.py env`: can this machine run the port, on what, and if not, why and what to do about it?

Looks at NPUs, driver, firmware, CANN and its kernels, at whether torch, torch_npu and CANN belong together, at Python's
packages, the shell's variables, memory and disk. Reads files and asks npu-smi and nvidia-smi; torch is imported in a
child process with a time limit, because it can hang in a driver. Works on a machine that has none of all this.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from overlaykit.errors import FixTheCommand
from verification.env_findings import Case, Finding
from verification.env_machine import read_machine
from verification.env_npu import check_npu
from verification.env_packages import check_python
from verification.env_python import read_python
from verification.env_shell import check_room, check_shell
from verification.env_source import Source
from verification.env_stack import read_stack
from verification.env_trial import check_trial
from verification.options import add_project
from verification.overlay_modules import import_overlay
from verification.report import NOTHING_RAN, Outcome

WIDTH = 120


@dataclass(frozen=True)
class EnvReport:
    """machine: what kind it is. can: what can be done on it, now or once everything is mended."""

    machine: str
    can: tuple[str, ...]
    npu: bool  # there is one that this port knows
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.outcome is Outcome.FAILED)

    @property
    def exit_code(self) -> int:
        return 1 if self.wrong else 0 if self.npu else NOTHING_RAN

    @property
    def verdict(self) -> str:
        if self.wrong:
            names = ", ".join(finding.name for finding in self.wrong)
            return (
                f"{len(self.wrong)} wrong: {names}. Mend them from the top: later ones often follow from earlier ones."
            )
        if self.npu:
            return "All good for the NPU. Next: python verify.py ops --device npu:0"
        return "Nothing is wrong, and no NPU can be seen; the port runs here on what is named above."


def main(argv: list[str], environ: Mapping[str, str] | None = None) -> int:
    """environ: the variables of the user's shell, where the process has changed its own since."""
    options = parse(argv)
    root = Path(options.root).resolve()
    if not root.is_dir():
        raise FixTheCommand(f"--root {options.root} is not a folder.", "It stands for / of the machine to look at.")
    report = examine(Path(options.project), Source(root, _shell_of(root, os.environ if environ is None else environ)))
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal without UTF-8
    print(to_json(report) if options.json else to_table(report))
    return report.exit_code


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="verify.py env",
        description=__doc__,
        epilog="Exit codes: 0 all good for the NPU; 1 something is wrong; 2 usage; 5 no NPU, nothing else wrong.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the same facts as JSON")
    parser.add_argument(
        "--root",
        metavar="DIR",
        default="/",
        help="look at the machine whose files lie below DIR: its npu-smi and nvidia-smi are run, no package of it is "
        "imported, and this shell's variables count only where they name a folder below DIR",
    )
    add_project(parser)
    return parser.parse_args(argv)


def _shell_of(root: Path, env: Mapping[str, str]) -> Mapping[str, str]:
    """The variables, or none where they name nothing below `root`: then this shell is not that machine's."""
    names = ("HOME", "LD_LIBRARY_PATH", "PYTHONPATH", "ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "ASCEND_OPP_PATH")
    return env if root == Path("/") or any(f"{root}/" in env.get(name, "") for name in names) else {}


def examine(project: Path, source: Source) -> EnvReport:
    """Raises FixTheProjectFile for a table that cannot be read."""
    parts, stack = import_overlay(project / "overlay"), read_stack(project)
    machine = read_machine(source, parts, _weights(project))
    python = read_python(source, stack.packages)
    case = Case(source, machine, python, stack, tuple(parts("export.cann").SOC_VERSIONS))
    checks = (check_npu, check_python, check_trial, check_shell, check_room)
    findings = tuple(finding for check in checks for finding in check(case))
    return EnvReport(_kind(case), tuple(_can(case)), _usable(case), findings)


def _weights(project: Path) -> Path:
    """The folder that configs/paths.yaml names."""
    try:
        variables = yaml.safe_load((project / "configs" / "paths.yaml").read_text(encoding="utf-8"))["variables"]
        return Path(variables["model_path"]).absolute()
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return project.absolute()


def _usable(case: Case) -> bool:
    """An A3 whose board does not say its name counts too, and what a trial found where npu-smi is missing."""
    here, trial = case.machine, case.python.trial
    unseen = not here.npus and not here.trouble and trial is not None and trial.npus > 0
    return unseen or any(npu.soc_version in (*case.socs, "") for npu in here.npus)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _kind(case: Case) -> str:
    here = case.machine
    if here.npus:
        kinds = ", ".join(dict.fromkeys(npu.soc_version or npu.name for npu in here.npus))
        first = f"{_count(len(here.npus), 'NPU')} ({kinds})"
    elif case.wanted:
        first = "meant for an NPU, and none can be used"
    elif here.cards:
        first = f"{_count(len(here.cards), 'CUDA card')} ({here.cards[0].name}, driver {here.cards[0].driver})"
    else:
        first = "a CPU machine"
    place = "in a container" if here.container else ""
    glibc = f"glibc {here.glibc}" if here.glibc else "no glibc"
    return ", ".join(filter(None, (first, here.system, here.arch, glibc, place)))


def _can(case: Case) -> Iterator[str]:
    here, python = case.machine, case.python
    if _usable(case):
        count = len(case.visible)
        yield f"run on npu:0 to npu:{count - 1}" if count > 1 else "run on npu:0"
    if here.cann and here.cann.atc:
        yield "make an OM (om_model_convert.py)"
    if here.cards and not case.wanted:
        yield "run on CUDA (--device cuda:0)" if python.torch_cuda else "run on CUDA with a torch built for it"
    if "torch" in python.packages:
        yield "run on the CPU (--device cpu, an .onnx or .pth encoder)"
    else:
        yield "run on the CPU after pip install '.[cpu]'"


def to_json(report: EnvReport) -> str:
    content = {
        "machine": report.machine,
        "can": report.can,
        "exit_code": report.exit_code,
        "verdict": report.verdict,
        "findings": [{**asdict(finding), "outcome": finding.outcome.value} for finding in report.findings],
    }
    return json.dumps(content, indent=2)


def to_table(report: EnvReport) -> str:
    wide = max(len(finding.name) for finding in report.findings)
    then = "once it is mended: " if report.wrong else ""
    lines = [*_wrapped("machine  ", report.machine), *_wrapped("can      ", f"{then}{'; '.join(report.can)}")]
    part = ""
    for finding in report.findings:
        if finding.part != part:
            part = finding.part
            lines += ["", part]
        lines += _wrapped(f"  {finding.name.ljust(wide)}  {finding.outcome.value.ljust(6)}  ", finding.found)
        if finding.why:
            lines += _wrapped("      ", finding.why)
        if finding.remedy:
            lines.append(f"      -> {_printable(finding.remedy)}")  # in one line, to be copied
    return "\n".join([*lines, "", *_wrapped("", report.verdict)])


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(
        _printable(text), WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]  # fmt: skip


def _printable(text: str) -> str:
    """A terminal obeys control characters, and a program's output or a variable may hold some."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
