"""What this machine can do towards an OM: convert (CANN), and compare it (an NPU of the right kind)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .cann import Cann, CannError, Npu, find_cann, find_npus, soc_version


@dataclass(frozen=True)
class Machine:
    """soc_version: what to convert for, "" where nobody said it; `trouble` has the reason then."""

    cann: Cann | None
    npus: tuple[Npu, ...]
    soc_version: str
    trouble: str

    @classmethod
    def find(cls, explicit: str | None) -> Machine:
        """explicit: --soc-version. Raises CannError for a name that is none; all else is asked for when needed."""
        npus: tuple[Npu, ...] = ()
        trouble = soc = ""
        try:
            npus = tuple(find_npus())
        except CannError as error:  # there is a driver, and it does not work
            trouble = str(error)
        try:
            soc = soc_version(explicit, npus)
        except CannError as error:
            if explicit:
                raise
            trouble = trouble or str(error)
        return cls(find_cann(), npus, soc, trouble)

    @property
    def atc(self) -> str:
        """The program; "" where there is none."""
        return str(self.cann.atc) if self.cann and self.cann.atc else ""

    def environment(self, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
        """For ATC. Raises CannError where the processor is not known."""
        assert self.cann is not None
        if not self.soc_version:
            raise CannError(self.trouble)
        env = dict(os.environ if inherited is None else inherited)
        if not self.npus and self.cann.devlib:
            # last: where there is a driver after all, its libraries are found first
            env["LD_LIBRARY_PATH"] = f"{env.get('LD_LIBRARY_PATH', '')}:{self.cann.devlib}".lstrip(":")
        return env

    def check_starts(self, options: str) -> None:
        """options: what `atc --help` printed. Raises CannError where that is nothing, and set_env.sh was not run."""
        assert self.cann is not None
        if not options and not self.cann.sourced:
            raise CannError(
                f"ATC does not start: CANN is in {self.cann.toolkit}, and this shell does not have its environment "
                f"({', '.join(self.cann.missing)}). Run `{self.cann.to_source()}`, and this command again."
            )

    def remarks(self) -> list[str]:
        """What may stop ATC. May: folders differ between releases, and `atc` sets part of its environment itself."""
        assert self.cann is not None
        found = []
        if not self.cann.sourced:
            found.append(
                f"{', '.join(self.cann.missing)} of this shell do not name {self.cann.toolkit}: if ATC fails, run "
                f"`{self.cann.to_source()}`, and this command again"
            )
        if not self.npus and self.cann.devlib:
            found.append(f"no NPU was found: ATC gets {self.cann.devlib} for the libraries of a driver")
        if self.cann.socs and self.soc_version not in self.cann.socs:
            found.append(f"CANN {self.cann.version} has no description of {self.soc_version}")
        if not self.cann.has_kernels(self.soc_version):
            found.append(f"no kernels package for {self.soc_version} was found in {self.cann.toolkit}/opp")
        return found

    def check_device(self, number: int) -> None:
        """Raises CannError for an NPU that is not there. ASCEND_RT_VISIBLE_DEVICES hides some, and renumbers."""
        visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "")
        count = len(visible.split(",")) if visible else len(self.npus)
        if number < 0 or (self.npus and number >= count):
            raise CannError(f"--device {number}: this machine has {count} NPUs that can be used, from 0.", 2)

    def cannot_compare(self, soc: str) -> str:
        """Why an OM for `soc` cannot run here; "" where it can."""
        here = sorted({npu.soc_version or npu.name for npu in self.npus})
        if here:
            fits = soc in here or ("Ascend910" in here and soc.startswith("Ascend910_"))  # an A3 that says no more
            return "" if fits else f"this machine has {', '.join(here)}, and the OM is for {soc}."
        if any(Path("/dev").glob("davinci[0-9]*")):  # a container with an NPU, and without npu-smi
            return ""
        return self.trouble or "there is no NPU here."
