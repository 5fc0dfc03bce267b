"""One base error; the subclasses are named after what the user has to do next, and carry the exit code.

Exit codes of apply.py and verify.py:
0 done or nothing to do; 1 does not fit; 2 usage or invalid project file; 3 refused, would lose local work;
4 the result differs from the lock; 5 could not check or reach something; 70 unexpected; 130 interrupted.
"""

from __future__ import annotations


class OverlayError(Exception):
    """What happened, why, and what to do about it; printed as three short paragraphs, never as a traceback."""

    code = 1

    def __init__(self, what: str, why: str = "", fix: str = "", restore: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.restore = restore  # commands that bring back what --force saved

    def __str__(self) -> str:
        saved = [f"What --force saved: {command}" for command in self.restore]
        return "\n".join(part for part in (self.what, self.why, self.fix, *saved) if part)


class RebaseThePatch(OverlayError):
    """A patch does not fit the upstream tree that it is applied to."""

    code = 1


class FixTheCommand(OverlayError):
    """The command line asks for something that does not exist or makes no sense."""

    code = 2


class FixTheProjectFile(OverlayError):
    """A file of this project (a patch, the series, a YAML file) is invalid; `what` names file and line."""

    code = 2


class SaveYourWork(OverlayError):
    """Going on would lose something that only exists in the user's worktree."""

    code = 3


class RefreshTheLock(OverlayError):
    """The built tree is not the one that configs/upstream.yaml records."""

    code = 4


class TryAgain(OverlayError):
    """Nothing could be checked now, but later it can."""

    code = 5


class ReachTheUpstream(OverlayError):
    """No source of the upstream repository could be read."""

    code = 5
