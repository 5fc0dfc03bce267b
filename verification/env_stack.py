"""The table of Ascend releases, configs/ascend_stack.yaml: which CANN, torch_npu, driver and Python go together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from overlaykit.errors import FixTheProjectFile
from verification.env_python import numbers, release

PLACE = "configs/ascend_stack.yaml"


@dataclass(frozen=True)
class Release:
    """One CANN and what goes with it. torch_npu: the recommended one first."""

    cann: str
    torch_npu: tuple[str, ...]
    drivers: tuple[str, ...]
    python: tuple[str, str]
    constraints: str


@dataclass(frozen=True)
class Range:
    """at_least and below: versions; "" for no limit."""

    at_least: str
    below: str

    def holds(self, version: str) -> bool:
        """Compares the numbers alone: a pre-release counts as its release."""
        found = numbers(version)
        return numbers(self.at_least) <= found and (not self.below or found < numbers(self.below))

    def __str__(self) -> str:
        return f">={self.at_least}" + (f",<{self.below}" if self.below else "")


@dataclass(frozen=True)
class Stack:
    releases: tuple[Release, ...]
    exchangeable: tuple[frozenset[str], ...]
    torch_npu: Range
    python: Range
    packages: dict[str, Range]

    def of_cann(self, version: str) -> Release | None:
        """The row of "9.1.0"; of a release without a row ("9.1.2", "8.5.1") the row of its first two numbers."""
        name = re.sub(r"[.-](?:beta|alpha).*$", "", version, flags=re.IGNORECASE).upper()
        rows = {row.cann.upper(): row for row in self.releases}
        series = ".".join(name.split(".")[:2])
        like = [row for row in self.releases if row.cann.split(".")[:2] == series.split(".")]
        return rows.get(name) or rows.get(f"{series}.X") or (like[0] if like else None)

    def made_for(self, torch_npu: str) -> tuple[str, ...]:
        """The CANN releases that a torch_npu wheel is listed with."""
        return tuple(row.cann for row in self.releases if torch_npu in row.torch_npu)

    def listed(self, row: Release, like: str) -> str:
        """Of the row, a torch_npu that this port takes: of the same torch as `like` where there is one."""
        good = [wheel for wheel in row.torch_npu if self.torch_npu.holds(wheel)]
        return next((wheel for wheel in good if release(wheel) == release(like)), good[0])

    def exchanges(self, one: str, others: tuple[str, ...]) -> bool:
        return any(one in group and group.intersection(others) for group in self.exchangeable)


def install(torch_npu: str) -> str:
    """The command for this wheel and its torch."""
    return f"pip install torch=={release(torch_npu)} torch_npu=={torch_npu}"


def read_stack(project: Path) -> Stack:
    """Raises FixTheProjectFile for a file that is missing or not of this form."""
    path = project / PLACE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Stack(
            releases=tuple(_release(row) for row in content["releases"]),
            exchangeable=tuple(frozenset(row["cann"]) for row in content["exchangeable"]),
            torch_npu=_range(content["port"]["torch_npu"]),
            python=_range(content["port"]["python"]),
            packages={name: _range(limits) for name, limits in content["packages"].items()},
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise FixTheProjectFile(
            f"{path} cannot be used: {type(error).__name__}: {error}", "Take the file of this port's release again."
        ) from error


def _release(row: dict[str, Any]) -> Release:
    low, high = row["python"]
    return Release(
        str(row["cann"]), tuple(map(str, row["torch_npu"])), tuple(map(str, row["drivers"])), (low, high),
        str(row["constraints"]),
    )  # fmt: skip


def _range(limits: dict[str, str]) -> Range:
    return Range(limits["at_least"], limits.get("below", ""))
