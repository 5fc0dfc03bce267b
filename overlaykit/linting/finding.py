"""One thing that lint has to say: where, which rule, what, and how to set it right."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..errors import OverlayError


class LintRule(Enum):
    """What a finding is about."""

    FORM = "form"  # a file cannot be read as what it is
    SERIES = "series"
    STRAY = "stray file"
    NAME = "name"
    WHY = "why"
    TRAILERS = "trailers"
    HOOKS = "Hooks"
    UPSTREAM = "Upstream"
    TESTED_BY = "Tested-By"
    DRIFT = "Drift-Reviewed"
    WHITE_SPACE = "white space"
    CONTEXT = "context"
    NEEDLESS = "needless lines"
    MODE = "mode"
    CHAIN = "chain"
    OVERLAY = "overlay"
    CONFIG = "configuration"
    FITS = "fits"
    BYTES = "bytes"
    LOCK = "lock"
    TABLE = "table"


@dataclass(frozen=True)
class Finding:
    path: str  # in the project, with slashes
    line: int  # 1-based; 0: the file as a whole
    rule: LintRule
    what: str
    fix: str = ""

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        rows = [f"{where}: {self.rule.value}: {self.what}", *self.fix.split("\n")]
        return "\n    ".join(row for row in rows if row)


def finding_of(error: OverlayError, root: Path, rule: LintRule, path: str) -> Finding:
    """An error of the readers as a finding. They write `file:line: what`; `path` is for those that name no file."""
    what = error.what.replace(f"{root}/", "")
    match = re.match(r"([^\s:]+):(?:(\d+):)? (.*)", what, re.DOTALL)
    fix = "\n".join(part for part in (error.why, error.fix) if part)
    if match and (root / match[1]).exists():
        return Finding(match[1], int(match[2] or 0), rule, match[3], fix)
    return Finding(path, 0, rule, what, fix)
