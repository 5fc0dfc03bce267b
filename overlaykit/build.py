"""Base commit + patches + overlay files + settings -> commits. THE file to read.

A pure function: it never looks at the index, the worktree, the network, the clock or the user's name, and gives the
same commit ids on every machine:

    base -> one commit per patch -> "overlay: files" -> "overlay: local configuration"

The tree of "overlay: files" is what configs/upstream.yaml locks. This machine's paths come after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .configs import Rules, Value, rewrite
from .errors import FixTheProjectFile, ReachTheUpstream, RebaseThePatch
from .fit import Misfit, explain
from .gitrepo import AUTHOR, Entry, Repo, blob_id
from .hunk import apply_hunks
from .objects import Objects
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
    files = repo.tree(base)
    objects = Objects(repo, scratch)
    objects.know([*_old_blobs(series), *(files[path].id for path in rules.files if path in files)])
    tree, date = _tree_and_date(repo, base)
    objects.start(files, tree)
    parent = base

    patches = []
    for patch in series:
        tree = objects.tree(_apply(objects, patch, files))
        author = f"{patch.author_name} <{patch.author_email}>"
        parent = objects.commit(tree, parent, patch.message, author, patch.author_date)
        patches.append(Commit(parent, tree, patch.subject))

    _refuse_replacing(overlay, files)
    added = {path: Entry("100644", objects.blob(file.read_bytes())) for path, file in overlay.items()}
    files.update(added)
    tree = objects.tree(added)
    parent = objects.commit(tree, parent, "overlay: files\n", AUTHOR, date)
    overlay_commit = Commit(parent, tree, "overlay: files")

    rules.require_files(path for path, entry in files.items() if entry.mode.startswith("100"))  # no links
    tree = objects.tree(_configured(objects, rules, files, values))
    tip = objects.commit(tree, parent, "overlay: local configuration\n\n" + _write_settings(settings), AUTHOR, date)
    objects.write()
    return Built(base, tuple(patches), overlay_commit, Commit(tip, tree, "overlay: local configuration"))


def read_settings(message: str) -> dict[str, str]:
    """The settings that a configuration commit was made with: this is how `--set` persists."""
    return {name: json.loads(value) for name, value in _SETTING.findall(message)}


def _write_settings(settings: Mapping[str, str]) -> str:
    return "".join(f"Setting: {name} = {json.dumps(settings[name])}\n" for name in sorted(settings))


def _tree_and_date(repo: Repo, commit: str) -> tuple[str, str]:
    """And the committer's "seconds zone": commits without a date of their own take that of the base."""
    header = repo.line("cat-file", "commit", commit).partition("\n\n")[0]
    fields = dict(row.split(" ", 1) for row in header.split("\n") if row.startswith(("tree ", "committer ")))
    return fields["tree"], fields["committer"].rpartition("> ")[2]


def _absent(path: str) -> ReachTheUpstream:
    fix = "Fetch it (git fetch --refetch), or use a clone without --filter."
    return ReachTheUpstream(f"This clone lacks the content of {path}.", "It is a partial clone, or damaged.", fix)


def _old_blobs(series: tuple[Patch, ...]) -> list[str]:
    """The contents that the series starts from."""
    made = {change.new_blob for patch in series for change in patch.files}
    return [
        change.old_blob for patch in series for change in patch.files if change.old_mode and change.old_blob not in made
    ]


def _apply(objects: Objects, patch: Patch, files: dict[str, Entry]) -> dict[str, Entry | None]:
    """Apply one patch to `files`, exactly or not at all; what it changed.

    `git apply` would be another process per patch, and tolerates offsets. Here the blob id on the index line is the
    proof: hunks that were applied in another way than the one who wrote the patch did would give another.
    """
    results: dict[str, Entry | None] = {}
    for change in patch.files:
        data = objects.read(change.old_blob) if change.old_mode else b""
        if files.get(change.path) != _entry(change.old_mode, change.old_blob):
            raise _misfit(objects, patch, files)
        if data is None:
            raise _absent(change.path)
        _refuse_shadowing(patch, change, files)
        made = apply_hunks(data, change.hunks)
        if made is None or (blob_id(made) != change.new_blob if change.new_mode else made):
            why = "Its index lines name other blobs than its hunks make, or a hunk lacks context; someone edited it."
            raise FixTheProjectFile(
                f"{patch.name}: the result differs from what the patch says.", why, "Export it again."
            )
        results[change.path] = _entry(change.new_mode, objects.blob(made)) if change.new_mode else None
    _record(files, results)
    return results


def _refuse_shadowing(patch: Patch, change: FileChange, files: Mapping[str, Entry]) -> None:
    """A new file cannot lie where a folder is, or below a file, unless the same patch clears the way."""
    if change.old_mode:
        return
    after = {other.path: other.new_mode for other in patch.files}
    parents = {parent.as_posix() for parent in PurePosixPath(change.path).parents}
    near = [path for path in {**files, **after} if path in parents or path.startswith(change.path + "/")]
    taken = [path for path in near if after.get(path, "stays")]
    if taken:
        what = f"{patch.name}: {change.path} cannot be beside {min(taken)}."
        raise RebaseThePatch(
            what, "One of them would have to be a file and a folder.", "Give the new file another name."
        )


def _entry(mode: str | None, blob: str) -> Entry | None:
    return Entry(mode, blob) if mode else None


def _misfit(objects: Objects, patch: Patch, files: Mapping[str, Entry]) -> RebaseThePatch:
    def read_blob(path: str) -> bytes | None:
        return objects.read(files[path].id) if path in files else None

    misfits = explain(patch, read_blob, sorted(files))
    if misfits:
        return DoesNotFit(patch, misfits)
    modes = [_mode_change(change, files) for change in patch.files]
    return RebaseThePatch(f"{patch.name} does not fit the upstream commit.", "\n".join(filter(None, modes)))


def _mode_change(change: FileChange, files: Mapping[str, Entry]) -> str:
    found = files[change.path].mode if change.path in files else None
    return f"{change.path}: expected mode {change.old_mode}, found {found}" if found != change.old_mode else ""


def _refuse_replacing(added: Iterable[str], files: Mapping[str, Entry]) -> None:
    folders = {parent.as_posix() for path in files for parent in PurePosixPath(path).parents}
    for path in added:
        parents = [parent.as_posix() for parent in PurePosixPath(path).parents]
        if path in folders or any(taken in files for taken in (path, *parents)):
            fix = "Change upstream's file with a patch, or give the overlay's another name."
            raise FixTheProjectFile(f"overlay/{path} would replace a file of upstream.", fix=fix)


def _configured(
    objects: Objects, rules: Rules, files: Mapping[str, Entry], values: Mapping[str, Value]
) -> dict[str, Entry]:
    """The files of the rules with this machine's values; their modes stay."""
    made = {}
    for path in rules.files:
        data = objects.read(files[path].id)
        if data is None:
            raise _absent(path)
        made[path] = Entry(files[path].mode, objects.blob(rewrite(data, rules.of(path), values)))
    return made


def _record(files: dict[str, Entry], entries: Mapping[str, Entry | None]) -> None:
    for path, entry in entries.items():
        files.pop(path, None)
        if entry:
            files[path] = entry
