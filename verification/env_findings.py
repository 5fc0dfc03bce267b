"""One thing that the environment doctor found, and the facts that the checks share."""

from __future__ import annotations

from dataclasses import dataclass

from verification.env_machine import Machine
from verification.env_python import Python
from verification.env_source import Source
from verification.env_stack import Release, Stack
from verification.report import Outcome

DOCKER = (
    "docker run --device /dev/davinci0 --device /dev/davinci_manager --device /dev/devmm_svm --device /dev/hisi_hdc "
    "-v /usr/local/Ascend/driver:/usr/local/Ascend/driver:ro -v /usr/local/dcmi:/usr/local/dcmi:ro "
    "-v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi:ro …"
)


@dataclass(frozen=True)
class Finding:
    part: str  # "NPU", "CANN", "Python", "shell" or "room"
    name: str
    outcome: Outcome  # PASSED, NOTE or FAILED
    found: str
    why: str = ""
    remedy: str = ""  # a command, or what to do by hand


@dataclass(frozen=True)
class Case:
    """Everything that was read. socs: the processors that this port knows, as "Ascend910B3"."""

    source: Source
    machine: Machine
    python: Python
    stack: Stack
    socs: tuple[str, ...]

    @property
    def wanted(self) -> bool:
        """Whether this machine is meant to run on an NPU: there is one, or what only an NPU needs is installed."""
        here = self.machine
        signs = (here.npus, here.trouble, here.pci, here.driver_folder, any("davinci" in node for node in here.nodes))
        return any(map(bool, signs)) or bool(here.cann and "torch-npu" in self.python.packages)

    @property
    def visible(self) -> tuple[int, ...]:
        """The NPUs that ASCEND_RT_VISIBLE_DEVICES leaves, in its order; all where it is unset or wrong."""
        chosen = self.chosen
        return tuple(range(len(self.machine.npus))) if chosen is None else chosen

    @property
    def chosen(self) -> tuple[int, ...] | None:
        """What that variable names; None where it names what is not there."""
        known = {str(number): number for number in range(len(self.machine.npus))}
        ids = self.source.env.get("ASCEND_RT_VISIBLE_DEVICES", "").replace(" ", "").split(",")
        return tuple(known[it] for it in ids) if all(it in known for it in ids) else None

    @property
    def computes(self) -> bool:
        """torch_npu added two numbers on an NPU here: no file or variable that seems to be missing can be."""
        trial = self.python.trial
        return trial is not None and trial.step == "done" and trial.npus > 0 and not trial.wrong_sum

    @property
    def bad(self) -> Outcome:
        """What is missing for an NPU is wrong where one is wanted, and worth knowing elsewhere."""
        return Outcome.FAILED if self.wanted else Outcome.NOTE

    @property
    def row(self) -> Release | None:
        return self.stack.of_cann(self.machine.cann.version) if self.machine.cann else None
