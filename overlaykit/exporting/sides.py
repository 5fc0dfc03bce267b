"""The user's commits on top of an apply, told apart: what belongs into patches/, what into overlay/, what is neither.

A path that upstream has, or that a patch makes, is upstream's side; every other one is the overlay's. Values that
configs/paths.yaml owns are this machine's: they are put back to what the patches say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from ..configs import Rules
from ..errors import FixTheProjectFile, RebaseThePatch
from ..gitrepo import Entry, Repo
from ..mail import stripspace
from ..patchrules import MODES
from ..survey import changes_between
from ..yamltext import Document, same

Files = Mapping[str, Entry]
_FORMAT = "%H%x00%P%x00%an%x00%ae%x00%ad%x00%B"


@dataclass(frozen=True)
class Work:
    """One commit of the user's."""

    id: str
    message: str  # as git would clean it up
    author: str  # "Name <address>"
    date: str  # "seconds zone"
    files: Files  # upstream's side after it, as the patches know it
    overlay: Files  # the overlay's side after it
    touched: tuple[str, ...]  # paths of upstream's side
    added: tuple[str, ...]  # paths of the overlay's side, deleted ones too

    @property
    def subject(self) -> str:
        return subject_of(self.message)

    def __str__(self) -> str:
        return f'{self.id[:12]} "{self.subject}"'


@dataclass(frozen=True)
class Sides:
    """`tip`: the tree of the last apply; `result`: the same before this machine's configuration."""

    repo: Repo  # sterile
    tip: Files
    result: Files
    upstream: frozenset[str]
    rules: Rules
    scratch: Path
    _known: dict[tuple[str, str], str] = field(default_factory=dict)  # path and blob -> the blob given back

    def split(self, files: Files, commit: str) -> tuple[dict[str, Entry], dict[str, Entry]]:
        """Upstream's side and the overlay's, both without this machine's values."""
        upstream: dict[str, Entry] = {}
        overlay: dict[str, Entry] = {}
        for path, entry in files.items():
            side = upstream if path in self.upstream else overlay
            side[path] = Entry(entry.mode, self._given_back(path, entry.id, commit))
        return upstream, overlay

    def _given_back(self, path: str, blob: str, commit: str) -> str:
        tip, result = self.tip.get(path), self.result.get(path)
        if not tip or not result or (tip == result and path not in self.rules.files):
            return blob
        if blob == tip.id:
            return result.id
        if (path, blob) not in self._known:
            self._known[path, blob] = self._give_back(path, blob, tip.id, result.id, commit)
        return self._known[path, blob]

    def _give_back(self, path: str, blob: str, tip: str, result: str, commit: str) -> str:
        blobs = self.repo.read_blobs([blob, tip, result])
        keys = [rule.key for rule in self.rules.of(path)]
        data = _with_values(path, blobs[blob], blobs[tip], blobs[result], keys)
        if data is None:
            data = merge(self.repo, blobs[blob], blobs[tip], blobs[result], self.scratch)
        if data is None:
            raise RebaseThePatch(
                f"Commit {commit[:12]} changes {path} where this machine's configuration does too.",
                "Which of those lines belong to a patch cannot be told.",
                "Change the value of an owned key (configs/paths.yaml) with --set, not in a commit.",
            )
        return self.repo.write_blob(data)


def read_work(sides: Sides, tip: str, head: str) -> tuple[Work, ...]:
    """The commits of tip..head, oldest first. Raises RebaseThePatch for what no patch can hold."""
    log = ("log", "--reverse", "--topo-order", "-z", "--encoding=UTF-8", "--date=raw", "--no-show-signature")
    fields = sides.repo.git(*log, f"--format={_FORMAT}", f"{tip}..{head}").split(b"\0")
    before, overlay = sides.split(sides.tip, tip)
    found = []
    for row in zip(*(fields[at::6] for at in range(6))):
        commit, parents = row[0].decode(), row[1].split()
        name, address, date, message = _texts(commit, row[2:])
        if len(parents) != 1:
            fix = f"Make the history linear: git rebase {tip[:12]}   (it leaves merges out)"
            raise RebaseThePatch(f'{commit[:12]} "{subject_of(message)}" is a merge.', "A patch has one parent.", fix)
        after, own = sides.split(sides.repo.tree(commit), commit)
        touched = tuple(change.path for change in changes_between(before, after))
        added = tuple(change.path for change in changes_between(overlay, own))
        work = Work(commit, message, f"{name} <{address}>", date, after, own, touched, added)
        _check(work, before, name, address)
        found.append(work)
        before, overlay = after, own
    return tuple(found)


def refuse_mixed(works: Iterable[Work], folder: Path, head: str) -> None:
    """Raise RebaseThePatch for a commit that touches both sides, with the commands that split it."""
    for work in works:
        if not work.touched or not work.added:
            continue
        git = f"git -C {quote(str(folder))}"
        paths = " ".join(quote(path) for path in work.added)
        older = work.id != head
        stop = f"  {git} -c sequence.editor='sed -i 1s/^p[a-z]*/edit/' rebase -i {work.id[:12]}~1\n"
        raise RebaseThePatch(
            f"{work} touches files of upstream and files of the overlay.",
            f"upstream: {', '.join(work.touched)}\noverlay:  {', '.join(work.added)}\n"
            "The first belong into a patch, the second into overlay/.",
            "Nothing was written. Split it:\n"
            + (stop if older else "")
            + f"  {git} reset -q --soft HEAD~1 && {git} restore --staged -- {paths}\n"
            f"  {git} commit -q -C {work.id[:12]}\n"
            f"  {git} add -A -- {paths} && {git} commit -q -m {quote(work.subject)}"
            + (f"\n  {git} rebase --continue" if older else ""),
        )


def subject_of(message: str) -> str:
    """The first paragraph on one line, as git shows it."""
    return " ".join(message.strip("\n").split("\n\n")[0].split())


def merge(repo: Repo, mine: bytes, base: bytes, other: bytes, scratch: Path) -> bytes | None:
    """Three-way merge of contents, None where they conflict or are binary."""
    sides = []
    for name, data in (("mine", mine), ("base", base), ("other", other)):
        sides.append(scratch / f"merge-{name}")
        sides[-1].write_bytes(data)
    result = repo.status_of("merge-file", "-p", *map(str, sides))
    return result.output if result.status == 0 else None


def _with_values(path: str, mine: bytes, tip: bytes, result: bytes, keys: Sequence[str]) -> bytes | None:
    """`mine` with the values in which `tip` and `result` differ written as in `result`; None where that fails."""
    try:
        committed, patched, edited = Document(path, tip), Document(path, result), Document(path, mine)
        there = set(patched.scalar_keys()).intersection(committed.scalar_keys())
        differ = {key for key in there if key in keys or not same(committed.value(key), patched.value(key))}
        if committed.copied(patched, differ) != result:
            return None
        return edited.copied(patched, differ.intersection(edited.scalar_keys()))
    except FixTheProjectFile:
        return None


def _texts(commit: str, fields: Sequence[bytes]) -> tuple[str, str, str, str]:
    try:
        name, address, date, message = (field.decode("utf-8") for field in fields)
    except UnicodeDecodeError as error:
        fix = f"Write it again: git rebase -i {commit[:12]}~1"
        raise RebaseThePatch(f"Commit {commit[:12]}: its message or author is not UTF-8.", fix=fix) from error
    return name, address, date, stripspace(message.split("\n"))


def _check(work: Work, before: Files, name: str, address: str) -> None:
    """Raise RebaseThePatch for what a patch cannot say."""
    for path in work.touched:
        for entry in (before.get(path), work.files.get(path)):
            if entry and entry.mode not in MODES:
                what = f"{work} changes {path}, which is or was no plain file (mode {entry.mode})."
                raise RebaseThePatch(what, "Patches change plain files only.", "Leave it out of the commit.")
    if work.touched and (not work.subject or not name.strip() or "@" not in address):
        fix = "git commit --amend --reset-author for the last commit, git rebase -i for an earlier one"
        raise RebaseThePatch(f"{work} has no subject, or no author with an address.", "A patch is a mail.", fix)
