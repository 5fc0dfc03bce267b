"""What lint finds by building the patched tree: true hooks, git's own bytes, the lock, and keys for every rule."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..build import Built, DoesNotFit, build
from ..configs import Rules, unfit
from ..errors import FixTheProjectFile, OverlayError, RebaseThePatch
from ..fit import explain
from ..gitrepo import NO_BLOB, Repo, blob_id
from ..hunk import apply_hunks
from ..names import folded, parents
from ..nearest import did_you_mean
from ..patchfile import Patch
from ..patchwrite import write_patch
from ..plan import is_ancestor
from ..project import Upstream
from ..report import how_to_call
from ..sterile import sterile
from .finding import Finding, LintRule, finding_of
from .folder import LOCK, PATHS, line_of_key
from .hooks import check_symbols, parse_hooks
from .rules import trailer_line, where_of

NEEDS_UPSTREAM = "whether the patches fit and are as git writes them, the names in Hooks, the lock, the rules' keys"


@dataclass(frozen=True)
class Tree:
    """What the comparison with upstream gave."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    written: Mapping[str, bytes] = field(default_factory=dict)  # each patch as git writes it, by its path


def check_tree(
    repo: Repo,
    root: Path,
    upstream: Upstream,
    series: tuple[Patch, ...],
    overlay: Mapping[str, Path],
    rules: Rules | None,
    scratch: Path,
) -> Tree:
    """Build on the pin that `repo` holds. Writes to the empty folder `scratch` only."""
    (scratch / "repo").mkdir()
    (scratch / "build").mkdir()
    clean = sterile(repo, scratch / "repo")
    lacking = _lacking(clean, upstream.commit, series)
    if lacking:
        note = (
            f"Not checked, because this partial clone lacks {lacking[0]}; {how_to_call()} fetches it: {NEEDS_UPSTREAM}."
        )
        return Tree((), (note,))
    nothing = Rules({}, ())
    try:
        built = build(clean, upstream.commit, series, overlay, nothing, {}, scratch / "build")
    except (RebaseThePatch, FixTheProjectFile) as error:
        note = "Not checked, because the tree cannot be built: names in Hooks, the patches' bytes, the lock, the rules."
        return Tree(tuple(_misfits(clean, error, root, series, overlay)), (note,))
    written = {where_of(patch): write_patch(clean, commit.id) for patch, commit in zip(series, built.patches)}
    findings = [
        *_check_hooks(clean, series),
        *(finding for patch in series for finding in _check_written(patch, written[where_of(patch)])),
        *_check_lock(root, upstream, built),
        *_check_names(clean.tree(built.overlay.id), series, overlay),
    ]
    notes: list[str] = []
    findings += _check_backports(clean, upstream.commit, series, notes)
    if rules:
        findings += _check_rules(clean, root, built, rules, notes)
    return Tree(tuple(findings), tuple(notes), written)


def _lacking(repo: Repo, base: str, series: Sequence[Patch]) -> list[str]:
    """The files to patch whose contents are missing. Here git cannot fetch them: this reads no settings at all."""
    files = repo.tree(base)
    paths = [change.path for patch in series for change in patch.files if change.path in files]
    found = repo.resolve(*(files[path].id for path in paths))
    return [path for path, blob in zip(paths, found) if blob is None]


def _misfits(
    repo: Repo, error: OverlayError, root: Path, series: Sequence[Patch], overlay: Mapping[str, Path]
) -> Iterator[Finding]:
    """Why the build stopped: one finding per place of a patch."""
    if not isinstance(error, DoesNotFit):
        edited = list(_edited(repo, series))
        yield from edited or [_whole_file(error, root, series, overlay)]
        return
    for misfit in error.misfits:
        patch = next(patch for patch in series if patch.name == misfit.patch)
        change = next(change for change in patch.files if change.path == misfit.path)
        line = change.hunks[misfit.hunk[0] - 1].line if misfit.hunk else change.line
        place = f"{misfit.path}:{misfit.line}" if misfit.line else misfit.path
        what = f"does not fit {place}: expected {misfit.expected!r}, found {misfit.found!r}"
        yield Finding(where_of(patch), line, LintRule.FITS, what, misfit.hint)


def _edited(repo: Repo, series: Sequence[Patch]) -> Iterator[Finding]:
    """Hunks that do not stand in the very file that their index line names, or make another one of it."""
    texts = {NO_BLOB: b""}  # of the files that the patches before make
    fix = f"Take the edit back, or commit the change in the workspace and run {how_to_call()} export"
    for patch in series:
        read = {change.path: _text(repo, texts, change.old_blob) for change in patch.files}
        misfits = {(misfit.path, misfit.hunk[0]): misfit for misfit in explain(patch, read.get) if misfit.hunk}
        for change in patch.files:
            old = read[change.path]
            new = None if old is None else apply_hunks(old, change.hunks)
            if new is not None and blob_id(new) == change.new_blob:
                texts[change.new_blob] = new
                continue
            places = [(hunk, misfits.get((change.path, number))) for number, hunk in enumerate(change.hunks, 1)]
            for hunk, misfit in places:
                if misfit:
                    what = f"edited by hand: {change.path}:{misfit.line} is {misfit.found!r}, not {misfit.expected!r}"
                    yield Finding(where_of(patch), hunk.line, LintRule.FITS, what, fix)
            if old is not None and (new or change.new_path) and not any(misfit for _, misfit in places):
                what = f"edited by hand: these hunks do not make blob {change.new_blob[:12]} of {change.path}"
                yield Finding(where_of(patch), change.line, LintRule.FITS, what, fix)


def _text(repo: Repo, texts: Mapping[str, bytes], blob: str) -> bytes | None:
    return texts[blob] if blob in texts else repo.read_blobs([blob]).get(blob)


def _whole_file(error: OverlayError, root: Path, series: Sequence[Patch], overlay: Mapping[str, Path]) -> Finding:
    """The patch that an error begins with, and the file in it that the error names."""
    patch = next((patch for patch in series if error.what.startswith(patch.name)), None)
    if patch is None:
        path = next(
            (f"overlay/{path}" for path in overlay if error.what.startswith(f"overlay/{path} ")), "patches/series"
        )
        return finding_of(error, root, LintRule.FITS, path)
    named = [change.line for change in patch.files if change.path in f"{error.what} {error.why}"]
    return replace(finding_of(error, root, LintRule.FITS, where_of(patch)), line=named[0] if named else 0)


def _check_names(files: Iterable[str], series: Sequence[Patch], overlay: Mapping[str, Path]) -> Iterator[Finding]:
    """Files of ours beside files of upstream whose names are the same on macOS and Windows."""
    made = {change.path: (patch, change) for patch in series for change in patch.files if not change.old_path}
    theirs: dict[str, str] = {}
    for path in files:
        if path not in made and path not in overlay:
            for name in (path, *parents(path)):
                theirs.setdefault(folded(name), name)
    for path in (*overlay, *made):
        near = [(name, theirs.get(folded(name), name)) for name in (*parents(path), path)]
        other = next((found for name, found in near if found != name), "")
        fix = "Rename it: on macOS and Windows they are one."
        if other and path in overlay:
            what = f"differs from upstream's {other} in case or accents only"
            yield Finding(f"overlay/{path}", 0, LintRule.OVERLAY, what, fix)
        elif other:
            patch, change = made[path]
            what = f"{path} differs from upstream's {other} in case or accents only"
            yield Finding(where_of(patch), change.line, LintRule.NAME, what, fix)


def _check_hooks(repo: Repo, series: Sequence[Patch]) -> Iterator[Finding]:
    changes = [change for patch in series for change in patch.files]
    blobs = repo.read_blobs({blob for c in changes for blob in (c.old_blob, c.new_blob)} - {NO_BLOB})
    for patch in series:
        try:
            hooks = [hook for value in patch.trailers.get("Hooks", ()) for hook in parse_hooks(value)]
        except ValueError:
            continue  # has a finding of its own
        line = trailer_line(patch, "Hooks")
        for change in patch.files:
            for hook in hooks:
                if hook.path == change.path:
                    # Only an empty file can be missing: git read all others to apply the patches.
                    old, new = blobs.get(change.old_blob, b""), blobs.get(change.new_blob, b"")
                    yield from check_symbols(change, hook, old, new, where_of(patch), line)


def _check_backports(repo: Repo, pin: str, series: Sequence[Patch], notes: list[str]) -> Iterator[Finding]:
    """A patch taken from upstream is no longer needed once the pin holds that commit."""
    for patch in series:
        for value in patch.trailers.get("Upstream", ()):
            kind, _, commit = value.partition(" ")
            if kind != "backport" or not re.fullmatch("[0-9a-f]{40}", commit):
                continue
            if repo.resolve(f"{commit}^{{commit}}") == [None]:
                notes.append(
                    f"Not checked, because the workspace lacks commit {commit[:12]}: Upstream of {patch.name}."
                )
            elif is_ancestor(repo, commit, pin):
                what = f"the pinned commit has {commit[:12]} in its history"
                fix = "Upstream has the change: drop the patch, or say what it is for now."
                yield Finding(where_of(patch), trailer_line(patch, "Upstream"), LintRule.UPSTREAM, what, fix)


def _check_written(patch: Patch, written: bytes) -> Iterator[Finding]:
    """The first line that git would write differently: other context, another algorithm, a header edited by hand."""
    if patch.raw == written:
        return
    mine, gits = (data.decode("utf-8", "surrogateescape").split("\n") for data in (patch.raw, written))
    pairs = enumerate(zip([*mine, "(end)"], [*gits, "(end)"]), 1)
    line, (found, expected) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    what = f"is not what git writes for this commit: {_shown(found)}, not {_shown(expected)}"
    fix = f"Let git write it again: {how_to_call()} lint --fix"
    yield Finding(where_of(patch), line, LintRule.BYTES, what, fix)


def _shown(line: str) -> str:
    return ascii(line if len(line) <= 60 else line[:57] + "...")


def _check_lock(root: Path, upstream: Upstream, built: Built) -> Iterator[Finding]:
    if built.overlay.tree != upstream.result:
        what = f"the built tree is {built.overlay.tree}, the lock says {upstream.result or 'nothing yet'}"
        fix = f"If the change to patches/ or overlay/ is meant: {how_to_call()} lock"
        yield Finding(LOCK, line_of_key(root / LOCK, "result"), LintRule.LOCK, what, fix)


def _check_rules(repo: Repo, root: Path, built: Built, rules: Rules, notes: list[str]) -> Iterator[Finding]:
    """Each rule's file and key must be there; what a partial clone lacks is noted."""
    files = repo.tree(built.overlay.id)
    blobs = repo.read_blobs(files[path].id for path in rules.files if path in files)
    values = rules.resolve({})
    for path in rules.files:
        if path not in files:
            near = did_you_mean(path, (other for other in files if other.endswith((".yaml", ".yml"))))
            what = f"{path} is not in the patched tree"
            yield Finding(PATHS, line_of_key(root / PATHS, path), LintRule.CONFIG, what, near)
            continue
        if files[path].id not in blobs:
            notes.append(f"Not checked, because this clone lacks the file: the keys of {path}.")
            continue
        for rule in rules.of(path):
            problem = unfit(blobs[files[path].id], rule, values[rule.name])
            if problem:
                line = line_of_key(root / PATHS, rule.name)
                yield Finding(PATHS, line, LintRule.CONFIG, f"{rule.name}: {problem.what}", problem.why)
