"""Base commit + patches + overlay files + settings -> commits. THE file to read.

A pure function: it works on an index of its own, never looks at the worktree, the network, the clock or the
user's name, and gives the same commit ids on every machine:

    base -> one commit per patch -> "overlay: files" -> "overlay: local configuration"

The tree of "overlay: files" is what configs/upstream.yaml locks. This machine's paths come after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .configs import Rules, Value, rewrite
from .errors import FixTheProjectFile, RebaseThePatch
from .fit import Misfit, explain
from .gitrepo import AUTHOR, Entry, Repo, decode
from .patchfile import FileChange, Patch

_SETTING = re.compile(r"^Setting: (\w+) = (\".*\")$", re.MULTILINE)


@dataclass(frozen=True)
class Commit:
    id: str
    tree: str
    subject: str


@dataclass(frozen=True)
class Built:
    base: str
    patches: tuple[Commit, ...]
    overlay: Commit
    config: Commit

    @property
    def commits(self) -> tuple[Commit, ...]:
        return (*self.patches, self.overlay, self.config)


class DoesNotFit(RebaseThePatch):
    """A patch was made for another version of a file."""

    def __init__(self, patch: Patch, misfits: tuple[Misfit, ...]) -> None:
        super().__init__(
            f"{patch.name} does not fit the upstream commit.",
            "\n".join(str(misfit) for misfit in misfits),
            "Nothing was changed. Rework the patch as each place says, or set `commit` in configs/upstream.yaml back.",
        )
        self.misfits = misfits


def build(
    repo: Repo,
    base: str,
    series: tuple[Patch, ...],
    overlay: Mapping[str, Path],
    rules: Rules,
    settings: Mapping[str, str],
    scratch: Path,
) -> Built:
    """Build on `base`. Writes objects to `repo` and files to the empty folder `scratch`, nothing else.

    `overlay` maps paths in the tree to files. Raises DoesNotFit, FixTheProjectFile, FixTheCommand.
    """
    values = rules.resolve(settings)
    repo = repo.having(GIT_INDEX_FILE=str(scratch / "index"))
    repo.git("read-tree", base)
    files = repo.tree(base)
    parent, tree, date = base, *_tree_and_date(repo, base)

    patches = []
    for patch in series:
        tree = _apply(repo, patch, files, tree)
        author = f"{patch.author_name} <{patch.author_email}>"
        parent = repo.commit(tree, [parent], patch.message, author, patch.author_date)
        patches.append(Commit(parent, tree, patch.subject))

    added = dict(zip(overlay, repo.write_files(list(overlay.values()))))
    _refuse_replacing(added, files)
    tree = _update(repo, files, {path: Entry("100644", blob) for path, blob in added.items()})
    parent = repo.commit(tree, [parent], "overlay: files\n", AUTHOR, date)
    overlay_commit = Commit(parent, tree, "overlay: files")

    rules.require_files(files)
    tree = _update(repo, files, _configured(repo, rules, files, values, scratch))
    tip = repo.commit(tree, [parent], "overlay: local configuration\n\n" + _write_settings(settings), AUTHOR, date)
    return Built(base, tuple(patches), overlay_commit, Commit(tip, tree, "overlay: local configuration"))


def read_settings(message: str) -> dict[str, str]:
    """The settings that a configuration commit was made with: this is how `--set` persists."""
    return {name: json.loads(value) for name, value in _SETTING.findall(message)}


def _write_settings(settings: Mapping[str, str]) -> str:
    return "".join(f"Setting: {name} = {json.dumps(settings[name])}\n" for name in sorted(settings))


def _tree_and_date(repo: Repo, commit: str) -> tuple[str, str]:
    """The tree, and the committer's "seconds zone": commits without a date of their own take that of the base."""
    header = repo.line("cat-file", "commit", commit).partition("\n\n")[0]
    fields = dict(row.split(" ", 1) for row in header.split("\n") if row.startswith(("tree ", "committer ")))
    return fields["tree"], fields["committer"].rpartition("> ")[2]


def _apply(repo: Repo, patch: Patch, files: dict[str, Entry], tree: str) -> str:
    """Apply one patch to the index and to `files`; the new tree. It fits exactly or not at all."""
    for change in patch.files:
        if files.get(change.path) != _entry(change.old_mode, change.old_blob):
            raise _misfit(repo, patch, files)
    if repo.status_of("apply", "--cached", "--whitespace=nowarn", "-", stdin=patch.diff).status:
        raise _misfit(repo, patch, files)
    expected = {change.path: _entry(change.new_mode, change.new_blob) for change in patch.files}
    if _changed_in_index(repo, tree) != expected:
        why = "Its index lines name other blobs than its hunks make: it was edited by hand."
        raise FixTheProjectFile(f"{patch.name}: the result differs from what the patch says.", why, "Export it again.")
    _record(files, expected)
    return repo.write_tree()


def _entry(mode: str | None, blob: str) -> Entry | None:
    return Entry(mode, blob) if mode else None


def _misfit(repo: Repo, patch: Patch, files: Mapping[str, Entry]) -> RebaseThePatch:
    def read_blob(path: str) -> bytes | None:
        return repo.read_blobs([files[path].id]).get(files[path].id) if path in files else None

    misfits = explain(patch, read_blob, sorted(files))
    if misfits:
        return DoesNotFit(patch, misfits)
    modes = [_mode_change(change, files) for change in patch.files]
    return RebaseThePatch(f"{patch.name} does not fit the upstream commit.", "\n".join(filter(None, modes)))


def _mode_change(change: FileChange, files: Mapping[str, Entry]) -> str:
    found = files[change.path].mode if change.path in files else None
    return f"{change.path}: expected mode {change.old_mode}, found {found}" if found != change.old_mode else ""


def _changed_in_index(repo: Repo, tree: str) -> dict[str, Entry | None]:
    """What the index changes against `tree`; None stands for a deleted file."""
    fields = repo.git("diff-index", "--cached", "--raw", "-z", "--no-renames", "--full-index", tree).split(b"\0")
    changed: dict[str, Entry | None] = {}
    for about, path in zip(fields[0::2], fields[1::2]):
        _, mode, _, blob, letter = about.decode().split(" ")
        changed[decode(path)] = None if letter == "D" else Entry(mode, blob)
    return changed


def _refuse_replacing(added: Mapping[str, str], files: Mapping[str, Entry]) -> None:
    folders = {parent.as_posix() for path in files for parent in PurePosixPath(path).parents}
    for path in added:
        parents = [parent.as_posix() for parent in PurePosixPath(path).parents]
        if path in folders or any(taken in files for taken in (path, *parents)):
            fix = "Change upstream's file with a patch, or give the overlay's another name."
            raise FixTheProjectFile(f"overlay/{path} would replace a file of upstream.", fix=fix)


def _configured(
    repo: Repo, rules: Rules, files: Mapping[str, Entry], values: Mapping[str, Value], scratch: Path
) -> dict[str, Entry | None]:
    """The files of the rules with this machine's values; their modes stay."""
    blobs = repo.read_blobs(files[path].id for path in rules.files)
    written = []
    for number, path in enumerate(rules.files):
        written.append(scratch / f"config-{number}")
        written[-1].write_bytes(rewrite(blobs[files[path].id], rules.of(path), values))
    return {path: Entry(files[path].mode, blob) for path, blob in zip(rules.files, repo.write_files(written))}


def _update(repo: Repo, files: dict[str, Entry], entries: Mapping[str, Entry | None]) -> str:
    repo.update_index(entries)
    _record(files, entries)
    return repo.write_tree()


def _record(files: dict[str, Entry], entries: Mapping[str, Entry | None]) -> None:
    for path, entry in entries.items():
        files.pop(path, None)
        if entry:
            files[path] = entry
