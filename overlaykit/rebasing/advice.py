"""Exactly what to type next, for every stop of a rebase."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from ..explaining.conflict import Conflict, Kind
from ..report import how_to_call
from .replay import Replay


def what_to_type(replay: Replay, workspace: Path) -> tuple[str, ...]:
    """After a conflict."""
    folder, go_on = quote(str(replay.repo.worktree)), how_to("rebase --continue", workspace)
    paths = " ".join(quote(path) for path in replay.unmerged)
    return (
        f"cd {folder}",
        *([f"$EDITOR {paths}", f"git add -A -- {paths}"] if paths else ["# everything is staged"]),
        "cd -",
        go_on,
        f"# or give this patch up:   {how_to('rebase --skip', workspace)}",
        f"# or the whole rebase:     {how_to_abort(workspace)}",
    )


def after_reading(replay: Replay, workspace: Path) -> tuple[str, ...]:
    """After drift. One command only is none of the comments: people paste blocks."""
    return (
        "# When it is all still right (the decision is recorded in the patches):",
        how_to("rebase --continue --accept-drift", workspace),
        "# Or first change overlay/ here, or a patch there (git commit --fixup, git rebase -i --autosquash):",
        f"#   cd {quote(str(replay.repo.worktree))}",
        f"#   {how_to('rebase --continue', workspace)}",
        f"# Or give up: {how_to_abort(workspace)}",
    )


def after_changes(workspace: Path) -> tuple[str, ...]:
    """After something that overlay/ or configs/ need is gone."""
    return (
        "# Change overlay/ or configs/paths.yaml in this project as said above, and then:",
        how_to("rebase --continue", workspace),
        f"# Or give up: {how_to_abort(workspace)}",
    )


def about_line_ends(conflicts: Sequence[Conflict]) -> tuple[str, ...]:
    """What the hints of a merge cannot know."""
    names = dict.fromkeys(conflict.patch for conflict in conflicts if conflict.kind is Kind.LINE_ENDS)
    why = (
        "patches are mails, which hold no CRLF: a patch for such lines cannot be written. Ask upstream to convert back,"
    )
    return tuple(f"{name}: {why} or give the patch up and do its work from overlay/" for name in names)


def how_to_abort(workspace: Path) -> str:
    return how_to("rebase --abort", workspace)


def how_to(verb: str, workspace: Path) -> str:
    """The command, with --workspace where the default would be another folder."""
    default = workspace == Path("MiniGPT-4").resolve()
    return f"{how_to_call()} {verb}" + ("" if default else f" --workspace {quote(str(workspace))}")
