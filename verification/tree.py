"""Is the workspace's tree the one that the lock records, and did anybody edit it since?"""

from __future__ import annotations

from pathlib import Path

from verification.report import Check


def check_tree(project: Path, workspace: Path) -> tuple[Check, ...]:
    return ()
