"""What a replay made of each patch, and the patch files that follow from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import FixTheProjectFile, RebaseThePatch
from ..explaining.culprits import Culprit, renamed_to, who_touched
from ..explaining.drift import Drift, accepted, find_drift, record
from ..explaining.fate import Fate, fate
from ..fit import find_lines
from ..gitrepo import Repo
from ..lines import split_lines
from ..patchfile import Patch, parse_patch
from ..patchwrite import file_name, write_patch
from ..sterile import sterile
from .replay import Course


@dataclass(frozen=True)
class Move:
    """One patch before and after. `before` is None for a commit that was added on the way."""

    before: Patch | None
    after: Patch | None  # None: nothing is left of it
    commit: str | None  # that `after` was written from
    fate: Fate
    by_hand: bool = False  # a conflict was resolved, or the patch was given up
    drift: tuple[Drift, ...] = ()
    upstream: tuple[Culprit, ...] = ()  # commits that made a landed patch needless

    @property
    def lost(self) -> bool:
        """Nothing is left of it, and neither the user's decision nor upstream's commits say why."""
        return self.after is None and not self.by_hand and not self.upstream

    @property
    def name(self) -> str:
        patch = self.before or self.after
        return patch.name if patch else ""

    @property
    def subject(self) -> str:
        patch = self.after or self.before
        return patch.subject if patch else ""


def compare_moves(
    repo: Repo,
    course: Course,
    series: Sequence[Patch],
    result: Sequence[str],
    stopped: Sequence[str],
    scratch: Path,
    git: str,
) -> tuple[Move, ...]:
    """Match the replayed commits with the patches, by subject and then by place. `scratch` is an empty folder.

    `git`: how a command has to start that looks at `course` after this run. Raises RebaseThePatch for a commit of
    the user's that no patch can hold.
    """
    clean = sterile(repo, scratch)
    written = [_written(clean, commit) for commit in result]
    renames = renamed_to(repo, course.old, course.new)
    pairs = _pair(series, written)
    names = _names([series[old].name if old is not None else None for old, new in pairs if new is not None], written)
    moves = []
    for old, new in pairs:
        before = series[old] if old is not None else None
        after = replace(written[new], name=names[new]) if new is not None else None
        by_hand = before is not None and before.name in stopped
        if before is None:
            moves.append(Move(None, after, result[new or 0], Fate.CHANGED, True))
        elif after is None or new is None:
            landed = () if by_hand else _landed_in(repo, course, before, renames)
            moves.append(Move(before, None, None, Fate.LANDED, by_hand, (), landed))
        else:
            drift = find_drift(repo, course.old, course.new, before, after, course.commits[old or 0] + "^", renames)
            unread = tuple(
                replace(item, look=re.sub("^git ", f"{git} ", item.look)) for item in drift if not accepted(after, item)
            )
            moves.append(Move(before, after, result[new], fate(before, after), by_hand, unread))
    return tuple(moves)


def patch_files(
    repo: Repo, moves: Sequence[Move], accept: bool, renames: Mapping[str, str], scratch: Path
) -> dict[str, bytes]:
    """Name -> bytes of the new patches. One that did not change keeps its bytes; accepted drift is recorded."""
    clean = sterile(repo, scratch)
    files: dict[str, bytes] = {}
    for move in moves:
        if move.after is None or move.commit is None:
            continue
        message = _with_renames(move.after.message, renames)
        if accept and move.drift:
            message = record(message, move.drift)
        raw = move.after.raw
        if message != move.after.message:
            author = f"{move.after.author_name} <{move.after.author_email}>"
            tree, parent = clean.line("rev-parse", f"{move.commit}^{{tree}}", f"{move.commit}^").split("\n")
            raw = write_patch(clean, clean.commit(tree, [parent], message, author, move.after.author_date))
        same = move.before is not None and _content(move.before) == _content(parse_patch(move.name, raw))
        files[move.after.name] = move.before.raw if same and move.before else raw
    return files


def _written(clean: Repo, commit: str) -> Patch:
    try:
        return parse_patch("replayed.patch", write_patch(clean, commit))
    except FixTheProjectFile as error:
        what = f"Commit {clean.line('log', '-1', '--format=%h (%s)', commit)} cannot be written as a patch."
        fix = "In the rebase's worktree, leave that out of the commit, or drop it: git rebase -i."
        raise RebaseThePatch(what, f"{error.what}\n{error.why}".rstrip("\n"), fix) from error


def _content(patch: Patch) -> tuple[object, ...]:
    """All that applying a patch depends on, and all that its commit shows."""
    hunks = tuple(
        replace(change, line=0, hunks=tuple(replace(h, line=0) for h in change.hunks)) for change in patch.files
    )
    return patch.author_name, patch.author_email, patch.author_date, patch.message, hunks


def _pair(series: Sequence[Patch], written: Sequence[Patch]) -> list[tuple[int | None, int | None]]:
    """Indices that belong together, in the new order; a patch without a commit stands where it was."""
    of_subject: dict[str, list[int]] = {}
    for at, patch in enumerate(written):
        of_subject.setdefault(patch.subject, []).append(at)
    partner: dict[int, int] = {}
    for at, patch in enumerate(series):
        if of_subject.get(patch.subject):
            partner[of_subject[patch.subject].pop(0)] = at
    pairs: list[tuple[int | None, int | None]] = [(partner.get(new), new) for new in range(len(written))]
    for at in range(len(series)):
        if at not in partner.values():
            behind = [i for i, (old, _) in enumerate(pairs) if old is not None and old < at]
            pairs.insert(max(behind, default=-1) + 1, (at, None))
    return pairs


def _names(kept: Sequence[str | None], written: Sequence[Patch]) -> list[str]:
    """File names in order: those that patches had, the next number at the end, or all anew where neither fits."""
    names: list[str] = []
    last = 0
    for old, patch in zip(kept, written):
        last = int(old[:4]) if old else last + 1
        names.append(old or file_name(last, patch.subject))
    if names == sorted(set(names)):
        return names
    return [file_name(number, patch.subject) for number, patch in enumerate(written, 1)]


def _with_renames(message: str, renames: Mapping[str, str]) -> str:
    """The Hooks trailer names files; where upstream renamed one, it follows."""
    body, blank, trailers = message.rpartition("\n\n")
    for old, new in renames.items():
        trailers = "\n".join(
            line.replace(old, new) if line.startswith(("Hooks:", " ", "\t")) else line for line in trailers.split("\n")
        )
    return body + blank + trailers


def _landed_in(repo: Repo, course: Course, patch: Patch, renames: Mapping[str, str]) -> tuple[Culprit, ...]:
    """The upstream commits that touched the lines which the patch would have made."""
    found: dict[str, Culprit] = {}
    files = repo.tree(course.new)
    for change in patch.files:
        path = renames.get(change.path, change.path)
        if path not in files:
            continue
        data = repo.read_blobs([files[path].id]).get(files[path].id, b"")
        lines = split_lines(data)
        for hunk in change.hunks:
            added = [at for at, line in enumerate(line for line in hunk.lines if line[0] != "-") if line[0] == "+"]
            at = find_lines(lines, hunk.new_lines, hunk.new_start - 1)
            start = hunk.new_start if at is None else at + 1
            first, last = (
                start + min(added, default=hunk.context_before),
                start + max(added, default=hunk.context_before),
            )
            for culprit in who_touched(repo, course.old, course.new, path, first, last):
                found.setdefault(culprit.commit, culprit)
    return tuple(found.values())
