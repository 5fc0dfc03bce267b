"""What export did or would do, as text and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum

from ..report import how_to_call


class ExportOutcome(Enum):
    """The text is the headline."""

    NOTHING = "Nothing to export from {workspace}"
    WOULD_EXPORT = "{workspace} holds changes that are not in this project yet; without --check they are exported"
    EXPORTED = "Exported from {workspace}"
    WOULD_FINISH = "An export from {workspace} was interrupted; without --check it is finished"
    FINISHED = "Finished an interrupted export from {workspace}"


@dataclass(frozen=True)
class PatchNews:
    """One patch that is new, changed or dropped."""

    name: str
    became: str
    subject: str
    before: str  # its file name before; "" for a new one
    commits: tuple[str, ...]  # the user's commits in it


@dataclass(frozen=True)
class ExportReport:
    """The facts of one export."""

    outcome: ExportOutcome
    workspace: str
    patches: tuple[PatchNews, ...] = ()
    overlay: Mapping[str, str] = field(default_factory=dict)  # path -> add, change or delete
    files: tuple[str, ...] = ()  # of the project
    tree: str = ""
    notes: tuple[str, ...] = ()

    @property
    def code(self) -> int:
        """1 when --check found something."""
        return int(self.outcome in (ExportOutcome.WOULD_EXPORT, ExportOutcome.WOULD_FINISH))

    def as_json(self) -> str:
        facts = {**asdict(self), "outcome": self.outcome.name.lower()}
        return json.dumps({"ok": not self.code, "code": self.code, "verb": "export", **facts}, indent=2)

    def as_text(self) -> str:
        lines = [self.outcome.value.format(workspace=self.workspace)]
        for patch in self.patches:
            was = f" (was {patch.before})" if patch.before not in ("", patch.name) else ""
            lines.append(f"  {patch.became:<11}patches/{patch.name}{was}")
            lines += [f"  {'':<11}  {commit}" for commit in patch.commits]
        lines += [f"  {what:<11}overlay/{path}" for path, what in self.overlay.items()]
        if self.tree and self.files:
            lines.append(f"  {'tree':<11}{self.tree}")
        lines += [f"  {'note' if number == 0 else '':<11}{note}" for number, note in enumerate(self.notes)]
        if self.outcome is ExportOutcome.EXPORTED:
            lines.append(f"  {'next':<11}{how_to_call()} lint, then commit patches/, overlay/ and configs/ here")
        return "\n".join(lines)
