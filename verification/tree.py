"""Is the workspace's tree the one that the lock records, and did anybody edit it since?"""

from __future__ import annotations

from pathlib import Path

from overlaykit import verbs
from overlaykit.errors import OverlayError, RefreshTheLock
from overlaykit.report import Outcome as State
from overlaykit.report import Report as Status
from verification.report import Check, Outcome

_LOCK_SHOWS = "patches and overlay as locked; not that they are right"
_EDITS_SHOWS = "files are as applied; edits run as they are, below"


def check_tree(project: Path, workspace: Path) -> tuple[Check, ...]:
    """Two lines: the tree before the local configuration against the lock, and edits since."""
    try:
        status = verbs.status(verbs.Request(project, workspace))
    except OverlayError as error:
        return (Check("tree", "lock", Outcome.NOT_RUN, "unknown", "as locked", _LOCK_SHOWS, str(error)),)
    return _against_lock(status), _edits(status)


def _against_lock(status: Status) -> Check:
    measured, allowed = status.tree[:12] or "none", status.expected[:12]
    numbers = {"tree": status.tree, "expected": status.expected, "state": status.outcome.name.lower()}
    outcome, detail = Outcome.PASSED, ""
    if not status.tree:
        outcome = Outcome.FAILED
        detail = status.outcome.value.format(workspace=status.workspace, branch=status.branch, tree="")
    elif not status.expected:
        outcome, allowed, detail = Outcome.NOT_RUN, "none yet", "No lock yet: run `python apply.py lock`."
    elif status.tree != status.expected:
        outcome = Outcome.FAILED
        detail = "The workspace was made from other patches or another overlay. Run apply.py on it again."
    elif status.outcome is not State.CURRENT:
        outcome = Outcome.NOTE
        detail = status.outcome.value.format(workspace=status.workspace, branch=status.branch, tree="")
    code = RefreshTheLock.code
    return Check("tree", "lock", outcome, measured, allowed, _LOCK_SHOWS, detail, code=code, numbers=numbers)


def _edits(status: Status) -> Check:
    edits = [row[3:] for row in status.local_edits]  # "XY path", as git status --porcelain prints
    if status.commits and status.tip != status.commits[-1].id:
        edits.append(f"commits of your own up to {status.tip[:12]}")
    measured = f"{len(edits)} edited" if edits else "none"
    outcome = Outcome.NOTE if edits else Outcome.PASSED
    return Check("tree", "local edits", outcome, measured, "", _EDITS_SHOWS, ", ".join(edits), numbers={"edits": edits})
