"""What a user may have done in the rebase's worktree, and must not be lost or misread: asked before it goes on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from shlex import quote

from ..errors import SaveYourWork
from ..gitrepo import decode
from ..plan import is_ancestor
from ..report import how_to_call
from .replay import Replay

_UNFINISHED = ("rebase-apply", "CHERRY_PICK_HEAD", "MERGE_HEAD", "REVERT_HEAD")


def was_given_up(replay: Replay) -> bool:
    """True after a `git rebase --abort` in the worktree: it stands where the replay began."""
    return not replay.at_work and replay.repo.resolve("HEAD") == [replay.course.tip]


def refuse_strange(replay: Replay) -> None:
    """Raise SaveYourWork in the middle of something of the user's own, or where HEAD is not on the new base."""
    git, again = _git(replay), f"Or start again: {how_to_call()} rebase --abort, and then rebase."
    if replay.at_work:
        if replay.stopped_at not in replay.course.commits:
            what = f"A rebase of your own in {replay.repo.worktree} is not finished."
            raise SaveYourWork(what, fix=f"Finish it: {git} rebase --continue\nor undo it: {git} rebase --abort")
        return
    if replay.unmerged or any((replay.repo.git_dir / name).exists() for name in _UNFINISHED):
        what = f"Something in {replay.repo.worktree} is half done, and no rebase is going on there."
        raise SaveYourWork(what, "Patches that had to follow may be missing.", f"See: {git} status\n{again}")
    if not is_ancestor(replay.repo, replay.course.onto, "HEAD"):
        what = f"What is checked out in {replay.repo.worktree} is not on the new base."
        raise SaveYourWork(what, "So it is no result of this rebase.", f"See: {git} reflog\n{again}")


def refuse_unstaged(replay: Replay) -> None:
    """Raise SaveYourWork for edits not staged (in a conflict) or not committed (at the end), and for markers."""
    git = _git(replay)
    edited = _edited(replay)
    if edited:
        staged = f"Stage them: {git} add -A -- {_words(edited)}"
        committed = f"Make them part of a patch: {git} commit -a --fixup, then rebase -i --autosquash"
        undone = f"or undo them: {git} restore --staged --worktree -- {_words(edited)}"
        state = "staged" if replay.at_work else "committed"
        fix = staged if replay.at_work else f"{committed}\n{undone}"
        raise SaveYourWork(f"Edited, but not {state}: {', '.join(edited[:5])}", f"In {replay.repo.worktree}.", fix)
    if replay.at_work:
        _refuse_markers(replay)
        return
    unknown = _paths(replay.repo.git("ls-files", "--others", "--exclude-standard", "-z"))
    if unknown:
        what = f"Not in any commit: {', '.join(unknown[:5])}"
        why = f"The worktree {replay.repo.worktree} is removed at the end, and new files with it."
        raise SaveYourWork(what, why, f"Add them to a patch, or remove them: {git} clean -f -- {_words(unknown)}")


def _edited(replay: Replay) -> list[str]:
    """Not files that the user's git, by a command typed there, wrote with the line ends that it was told to write."""
    repo = replay.repo
    edited = _paths(repo.git("diff", "--name-only", "-z", "--no-ext-diff", *([] if replay.at_work else ["HEAD"])))
    if not edited or not repo.line_ends_of_the_user():
        return edited
    return [path for path in edited if not _same_lines(replay, path)]


def _same_lines(replay: Replay, path: str) -> bool:
    blob = replay.repo.resolve(f":{path}" if replay.at_work else f"HEAD:{path}")[0]
    file = (replay.repo.worktree or Path()) / path
    if blob is None or file.is_symlink() or not file.is_file():
        return False
    return file.read_bytes().replace(b"\r\n", b"\n") == replay.repo.read_blobs([blob])[blob].replace(b"\r\n", b"\n")


def _refuse_markers(replay: Replay) -> None:
    """Markers that neither upstream nor the patch has itself."""
    for path in _paths(replay.repo.git("diff", "--cached", "--name-only", "-z", "--diff-filter=d", "HEAD")):
        versions = replay.repo.resolve(f":{path}", f"HEAD:{path}", f"{replay.stopped_at}:{path}")
        blobs = replay.repo.read_blobs(version for version in versions if version)
        staged, *known = (set(blobs.get(version or "", b"").split(b"\n")) for version in versions)
        signs = {line[:8] for line in staged.difference(*known)} & {b"<<<<<<< ", b">>>>>>> "}
        if len(signs) == 2:
            what = f"{path} was staged with conflict markers in it."
            raise SaveYourWork(what, fix=f"Edit it in {replay.repo.worktree}, then: {_git(replay)} add {quote(path)}")


def _git(replay: Replay) -> str:
    return f"git -C {quote(str(replay.repo.worktree))}"


def _paths(listing: bytes) -> list[str]:
    return [decode(path) for path in listing.split(b"\0")[:-1]]


def _words(paths: Iterable[str]) -> str:
    return " ".join(quote(path) for path in paths)
