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
    """One CANN and what goes with it. torch_npu: wheel -> first and last Python; the recommended one comes first."""

    cann: str
    torch_npu: dict[str, tuple[str, str]]
    drivers: tuple[str, ...]

    def wheels_for(self, python: str) -> tuple[str, ...]:
        """Of its torch_npu wheels those that exist for this Python ("3.11.13")."""
        here = numbers(python)[:2]
        return tuple(it for it, (low, high) in self.torch_npu.items() if numbers(low) <= here <= numbers(high))

    @property
    def pythons(self) -> tuple[str, str]:
        """The first and the last that one of its wheels exists for."""
        lows, highs = zip(*self.torch_npu.values())
        return min(lows, key=numbers), max(highs, key=numbers)


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
    exchangeable: tuple[tuple[frozenset[str], frozenset[str]], ...]  # wheels made for these CANNs run on those
    torch_npu: Range
    python: Range
    packages: dict[str, Range]

    def of_cann(self, version: str) -> Release | None:
        """The row of "9.1.0"; of a patch ("9.1.2", "8.0.RC2.2") its row, else that of its first two numbers."""
        name = re.sub(r"[.-](?:beta|alpha).*$", "", version, flags=re.IGNORECASE).upper()
        rows = {row.cann.upper(): row for row in self.releases}
        patched = (row for cann, row in rows.items() if name.startswith(f"{cann}."))
        like = (row for row in self.releases if _series(row.cann) == _series(name))
        return rows.get(name) or rows.get(f"{_series(name)}.X") or next(patched, None) or next(like, None)

    def made_for(self, torch_npu: str) -> tuple[str, ...]:
        """The CANN releases that a torch_npu wheel is listed with."""
        return tuple(row.cann for row in self.releases if torch_npu in row.torch_npu)

    def listed(self, row: Release, like: str, python: str) -> str:
        """Of the row, a torch_npu that this port takes: for this Python and of the same torch as `like` if there is."""
        good = [wheel for wheel in row.torch_npu if self.torch_npu.holds(wheel)]
        here = [wheel for wheel in row.wheels_for(python) if wheel in good] or good
        return next((wheel for wheel in here if release(wheel) == release(like)), here[0])

    def supported(self, cann: str, made_for: tuple[str, ...]) -> bool:
        """Whether wheels made for those CANN releases are said to run on this one too."""
        return any(wheels_of.intersection(made_for) and cann in run_on for wheels_of, run_on in self.exchangeable)

    def related(self, cann: str, made_for: tuple[str, ...]) -> bool:
        """Whether one of them is of the same series: 9.1.0 and 9.1.X, 7.0.RC1 and 7.0.0."""
        return _series(cann) in map(_series, made_for)


def _series(cann: str) -> str:
    return ".".join(cann.split(".")[:2])


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
            exchangeable=tuple(
                (frozenset(row["wheels_of"]), frozenset(row["run_on"])) for row in content["exchangeable"]
            ),
            torch_npu=_range(content["port"]["torch_npu"]),
            python=_range(content["port"]["python"]),
            packages={name: _range(limits) for name, limits in content["packages"].items()},
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FixTheProjectFile(
            f"{path} cannot be used: {type(error).__name__}: {error}", "Take the file of this port's release again."
        ) from error


def _release(row: dict[str, Any]) -> Release:
    wheels = {str(wheel): (str(low), str(high)) for wheel, (low, high) in row["torch_npu"].items()}
    return Release(str(row["cann"]), wheels, tuple(map(str, row["drivers"])))


def _range(limits: dict[str, str]) -> Range:
    return Range(limits["at_least"], limits.get("below", ""))
