"""`fixup!`, `squash!` and `amend!` commits folded into the patches they name. Trees only: no worktree, no rebase.

Such a commit comes last. It is carried down past one patch after the other, until it stands behind its target:
what it does is merged into the tree below each, while the tree above stays as it is. So the final tree cannot
change, and where it does not fit, the patch that stands in its way is known.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from shlex import quote

from ..enclosing import enclosing
from ..errors import RebaseThePatch
from ..gitrepo import Entry, Repo
from ..nearest import did_you_mean
from ..patchfile import Patch
from ..survey import changes_between
from .sides import Files, Work, merge, subject_of

_MARK = re.compile(r"(fixup|squash|amend)! +")
_TRAILERS = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9-]*:[ \t]*\S.*(?:\n[ \t]+.*)*\n?)+")


@dataclass(frozen=True)
class Step:
    """One patch to be: what it says, and upstream's files after it."""

    message: str
    author: str
    date: str
    files: Files
    patch: Patch | None  # the file that it comes from
    commits: tuple[Work, ...] = ()  # the user's commits in it

    @property
    def subject(self) -> str:
        return subject_of(self.message)

    @property
    def first_subject(self) -> str:
        """Before any `amend!`."""
        return self.patch.subject if self.patch else self.commits[0].subject if self.commits else self.subject

    @property
    def name(self) -> str:
        return self.patch.name if self.patch else f'the new patch "{self.subject}"'


def steps_of(base: Files, series: Sequence[Patch]) -> tuple[Step, ...]:
    """The series as it is; it fits on `base`."""
    files, steps = dict(base), []
    for patch in series:
        for change in patch.files:
            files.pop(change.path, None)
            if change.new_mode:
                files[change.path] = Entry(change.new_mode, change.new_blob)
        author = f"{patch.author_name} <{patch.author_email}>"
        steps.append(Step(patch.message, author, patch.author_date, dict(files), patch))
    return tuple(steps)


def fold(
    repo: Repo, base: Files, steps: Sequence[Step], works: Sequence[Work], folder: Path, scratch: Path
) -> list[Step]:
    """`steps` and behind them `works`, each where it belongs. None of `works` touches both sides.

    Raises RebaseThePatch where a target is unknown or a commit does not fit into it.
    """
    steps = list(steps)
    others = {"overlay: files", "overlay: local configuration"}  # commits that are no patch
    for work in works:
        mark, target = read_mark(work.subject)
        if mark is None and work.touched:
            steps.append(Step(work.message, work.author, work.date, work.files, None, (work,)))
        elif mark is None:
            others.add(work.subject)
        elif work.touched or mark != "fixup":
            at = _find(work, mark, target, steps, others)
            if at is not None:
                _fold_into(repo, base, steps, at, work, mark, folder, scratch)
    return steps


def read_mark(subject: str) -> tuple[str | None, str]:
    """What to do with a commit of this subject, and the subject of its target: `fixup! fixup! X` is one of X."""
    mark = None
    while found := _MARK.match(subject):
        mark = mark or found[1]
        subject = subject[found.end() :]
    return mark, subject


def _find(work: Work, mark: str, target: str, steps: Sequence[Step], others: set[str]) -> int | None:
    """The index of the target; None for a commit that changes nothing of a patch."""
    found = [at for at, step in enumerate(steps) if target in (step.subject, step.first_subject)]
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        names = ", ".join(steps[at].name for at in found)
        raise RebaseThePatch(f"{work}: more than one patch has that subject: {names}.", fix="Give them different ones.")
    if not work.touched and (work.added or target in others):
        return None
    if target in others:
        what = f'{work} changes files of upstream, but "{target}" is no patch: {", ".join(work.touched)}'
        raise RebaseThePatch(what, fix="Give it a subject of its own, or name a patch behind the mark.")
    known = {step.subject for step in steps}
    raise RebaseThePatch(f'{work}: no patch has the subject "{target}".', did_you_mean(target, known))


def _fold_into(
    repo: Repo, base: Files, steps: list[Step], at: int, work: Work, mark: str, folder: Path, scratch: Path
) -> None:
    top: Files = work.files
    for place in range(len(steps) - 1, at, -1):
        below, above = steps[place - 1].files, steps[place].files
        moved = dict(below)
        for change in changes_between(above, top):
            entry = _merge(repo, below.get(change.path), change.old, change.new, scratch)
            if entry is _CONFLICT or (entry and change.path not in below and _is_blocked(change.path, below)):
                where = change.path + _place(repo, change.path, below.get(change.path), change.old, change.new)
                raise _in_the_way(work, steps[at], steps[place], where, folder)
            moved.pop(change.path, None)
            if isinstance(entry, Entry):
                moved[change.path] = entry
        steps[place] = replace(steps[place], files=top)
        top = moved
    message = _message(mark, steps[at].message, work)
    steps[at] = replace(steps[at], files=top, message=message, commits=(*steps[at].commits, work))


def _is_blocked(path: str, files: Files) -> bool:
    """Whether a file stands where a folder would have to, or a folder where the file would."""
    above = [parent.as_posix() for parent in PurePosixPath(path).parents]
    return any(parent in files for parent in above) or any(other.startswith(f"{path}/") for other in files)


_CONFLICT = object()


def _merge(repo: Repo, mine: Entry | None, base: Entry | None, other: Entry | None, scratch: Path) -> object:
    """What `base` -> `other` makes of `mine`; None for no file."""
    if mine in (base, other):
        return other
    if not mine or not base or not other:
        return _CONFLICT
    mode = other.mode if mine.mode in (base.mode, other.mode) else mine.mode
    if other.mode not in (base.mode, mode):
        return _CONFLICT
    if mine.id in (base.id, other.id):
        return Entry(mode, other.id)
    blobs = repo.read_blobs([mine.id, base.id, other.id])
    data = merge(repo, blobs[mine.id], blobs[base.id], blobs[other.id], scratch)
    return _CONFLICT if data is None else Entry(mode, repo.write_blob(data))


def _in_the_way(work: Work, target: Step, later: Step, where: str, folder: Path) -> RebaseThePatch:
    subject = quote(f"fixup! {later.subject}")
    git = f"git -C {quote(str(folder))}"
    return RebaseThePatch(
        f"{work} does not fit into {target.name}.",
        f"{later.name}, which comes later, changes the same lines: {where}",
        f"Nothing was written. Make it part of that later patch, with the subject {subject},\n"
        "or a patch of its own, with a subject that has no mark. To change the subject of the last commit:\n"
        f"  {git} commit --amend -m {subject}\n"
        f"and of an earlier one: {git} rebase -i {work.id[:12]}~1   (put `reword` before it)",
    )


def _place(repo: Repo, path: str, below: Entry | None, above: Entry | None, top: Entry | None) -> str:
    """The first line that both changed, and its function; empty where a whole file came or went."""
    if not below or not above or not top:
        return ""
    blobs = repo.read_blobs([below.id, above.id, top.id])
    old, lines, new = (
        re.findall(r"[^\n]*\n|[^\n]+", blobs[e.id].decode("utf-8", "surrogateescape")) for e in (below, above, top)
    )
    theirs = [(start, end) for _, _, start, end in _changed(old, lines)]
    for start, end, _, _ in _changed(lines, new):
        if any(start <= last and first <= end for first, last in theirs):
            function = enclosing(path, lines, start + 1)
            return f", line {start + 1}{f' in {function}' if function else ''}"
    return ""


def _changed(old: list[str], new: list[str]) -> list[tuple[int, int, int, int]]:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [(a, b, c, d) for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal"]


def _message(mark: str, message: str, work: Work) -> str:
    """As `git rebase --autosquash`: fixup keeps the message, amend replaces it, squash adds its own."""
    own = work.message.partition("\n\n")[2].strip("\n")
    if mark == "fixup" or (mark == "squash" and not own):
        return message
    if mark == "amend":
        if not own:
            fix = "Below its first line and a blank one, the whole new message must stand: git commit --fixup=amend:…"
            raise RebaseThePatch(f"{work} holds no new message.", fix=fix)
        return own + "\n"
    # The trailers stay the last paragraph.
    subject, _, body = message.strip("\n").partition("\n\n")
    text, trailers = _without_trailers(body)
    more, more_trailers = _without_trailers(own)
    last = "\n".join(part for part in (trailers, more_trailers) if part)
    return "\n\n".join(part for part in (subject, text, more, last) if part) + "\n"


def _without_trailers(text: str) -> tuple[str, str]:
    """The text, and its last paragraph if that holds nothing but trailers."""
    head, _, last = text.rpartition("\n\n")
    return (head, last) if _TRAILERS.fullmatch(last) else (text, "")
