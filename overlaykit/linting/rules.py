"""What a patch must keep beside being well-formed (which patchfile sees to): its message, and hunks without noise.

Pure: each function looks at patches alone and yields findings. What needs upstream's text is in tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from ..hunk import Hunk
from ..lines import ChangedLine, changed_lines
from ..mail import TRAILER
from ..nearest import did_you_mean
from ..patchfile import FileChange, Patch
from ..patchwrite import file_name
from .finding import Finding, LintRule
from .hooks import check_paths, parse_hooks
from .tested import missing_test

REQUIRED = ("Hooks", "Upstream", "Drop-When", "Tested-By")
_ALLOWED = (*REQUIRED, "Drift-Reviewed", "Signed-off-by", "Co-authored-by")
_UPSTREAM = re.compile(r"not-forwarded \(\S.*\)|https?://\S+|backport [0-9a-f]{40}")
_DECISION = re.compile(r"\S.* \S+ [0-9a-f]{12}")
_CONTEXT = 3
_LONGEST_COMPARISON = 4_000_000  # lines times lines: seconds; beyond, only the comparison with git's bytes tells


def where_of(patch: Patch) -> str:
    return f"patches/{patch.name}"


def check_message(patch: Patch, project: Path) -> Iterator[Finding]:
    """The file's name, the why, and the trailers; `project` holds the tests that they name."""
    where = where_of(patch)
    name = file_name(int(patch.name[:4]), patch.subject)
    if patch.name != name:
        fix = f"Rename it, also in series: {name}"
        yield Finding(where, 0, LintRule.NAME, "the name does not follow from the subject", fix)
    if not patch.why:
        fix = "Say below the subject why upstream's code does not do."
        yield Finding(where, message_end(patch), LintRule.WHY, "the message gives no reason", fix)
    odd = list(_odd_trailers(patch))
    yield from odd or _check_trailers(patch, project)


def _odd_trailers(patch: Patch) -> Iterator[Finding]:
    """One line that is no trailer, an empty one for example, makes the whole paragraph prose to git."""
    lines = patch.body.rsplit("\n\n", 1)[-1].split("\n")
    if patch.trailers or not any(line.partition(":")[0] in REQUIRED for line in lines):
        return
    for line in lines:
        if not TRAILER.fullmatch(line) and line[:1] not in (" ", "\t"):
            fix = "Each line of the last paragraph reads `Key: value`; longer values go on below, indented."
            yield Finding(where_of(patch), _line_of(patch, line), LintRule.TRAILERS, f"no trailer: {line!r}", fix)


def _check_trailers(patch: Patch, project: Path) -> Iterator[Finding]:
    where = where_of(patch)
    for key in REQUIRED:
        count = len(patch.trailers.get(key, ()))
        if count != 1:
            line = trailer_line(patch, key)
            what = f"{key} appears {count} times" if count else f"there is no {key}"
            if not count and line != message_end(patch):
                what = f"{key} is not in the last paragraph"
            fix = "The last paragraph of the message has each of " + ", ".join(REQUIRED) + " once."
            yield Finding(where, line, LintRule.TRAILERS, what, fix)
    for key in patch.trailers:
        if key not in _ALLOWED:
            what = f"unknown trailer {key}"
            yield Finding(where, trailer_line(patch, key), LintRule.TRAILERS, what, did_you_mean(key, _ALLOWED))
    for value in patch.trailers.get("Upstream", ()):
        if not _UPSTREAM.fullmatch(value):
            fix = "Write `not-forwarded (reason)`, the address of the pull request, or `backport <40 hex digits>`."
            yield Finding(where, trailer_line(patch, "Upstream"), LintRule.UPSTREAM, f"unreadable: {value}", fix)
    for value in patch.trailers.get("Drift-Reviewed", ()):
        if not _DECISION.fullmatch(value):
            fix = "rebase --accept-drift writes it: path, symbol, and 12 hex digits of what was read."
            line = _line_of(patch, f"Drift-Reviewed: {value}")
            yield Finding(where, line, LintRule.DRIFT, f"unreadable: {value}", fix)
    for value in patch.trailers.get("Tested-By", ()):
        problem = missing_test(project.resolve(), value)
        if problem:
            fix = "Name a test that fails without this patch: tests/FILE.py::test_function"
            yield Finding(where, trailer_line(patch, "Tested-By"), LintRule.TESTED_BY, problem, fix)
    for value in patch.trailers.get("Hooks", ()):
        line = trailer_line(patch, "Hooks")
        try:
            yield from check_paths(patch, parse_hooks(value), where, line)
        except ValueError as error:
            yield Finding(where, line, LintRule.HOOKS, str(error), "Write `path (symbol, symbol), path`.")


def check_changes(patch: Patch) -> Iterator[Finding]:
    """Modes, and each hunk's white space, context and lines that need not be there."""
    for change in patch.files:
        old, new = change.old_mode, change.new_mode
        if old and new and old != new and new not in patch.body:
            fix = f"Keep upstream's mode, or name it in the message with its reason: {old} -> {new}."
            what = f"{change.path} changes its mode from {old} to {new} without a word"
            yield Finding(where_of(patch), change.line, LintRule.MODE, what, fix)
        for hunk in change.hunks:
            yield from _check_white_space(patch, change, hunk)
            if change.old_path and change.new_path:
                yield from _check_context(patch, hunk)
                yield from _check_needless(patch, hunk)


def _check_white_space(patch: Patch, change: FileChange, hunk: Hunk) -> Iterator[Finding]:
    where, drop = where_of(patch), "Leave upstream's line as it is."
    changed = list(changed_lines(hunk))
    for line in changed:
        if line.added and re.search(r"[ \t\f\v]\n?$", line.text):
            yield Finding(where, line.at, LintRule.WHITE_SPACE, "an added line ends in white space", "Strip it.")
    sides = [[_squeezed(change.path, text) for text in lines] for lines in (hunk.old_lines, hunk.new_lines)]
    if [text for text in sides[0] if text.strip()] == [text for text in sides[1] if text.strip()]:
        yield Finding(where, hunk.line, LintRule.WHITE_SPACE, "the hunk changes white space only", "Drop the hunk.")
        return
    for run in _runs(changed):
        removed = {_squeezed(change.path, line.text): line.text for line in run if not line.added}
        for line in run:
            before = removed.get(_squeezed(change.path, line.text)) if line.added and line.text.strip() else None
            if before is not None and before.rstrip("\n") != line.text.rstrip("\n"):
                what = f"only white space differs from the removed line: {line.text.strip()}"
                yield Finding(where, line.at, LintRule.WHITE_SPACE, what, drop)


def _runs(changed: Iterable[ChangedLine]) -> list[list[ChangedLine]]:
    """Changed lines with no context between them."""
    runs: list[list[ChangedLine]] = []
    for line in changed:
        last = runs[-1][-1] if runs else None
        if last and line.at - last.at == 1 + (not last.text.endswith("\n")):
            runs[-1].append(line)
        else:
            runs.append([line])
    return runs


_BY_INDENTATION = (".py", ".pyi", ".yaml", ".yml", ".mk", "Makefile")


def _squeezed(path: str, text: str) -> str:
    """The line without white space that means nothing: indentation may, and so may what is between quotes."""
    body = text.strip()
    indent = text[: len(text) - len(text.lstrip())].expandtabs() if path.endswith(_BY_INDENTATION) and body else ""
    return indent + (body if re.search("[\"'`]", body) else re.sub(r"\s*(\W)\s*", r"\1", " ".join(body.split())))


def _check_context(patch: Patch, hunk: Hunk) -> Iterator[Finding]:
    runs = [(kind, len(list(lines))) for kind, lines in groupby(hunk.lines, key=lambda line: line[0] == " ")]
    inner = max((size for is_context, size in runs[1:-1] if is_context), default=0)
    before, after = hunk.context_before, runs[-1][1] if runs[-1][0] else 0
    if max(before, after) > _CONTEXT or inner > 2 * _CONTEXT:
        what = f"more than {_CONTEXT} lines of context: {hunk.header}"
        fix = "A patch quotes upstream only as far as a diff must. Write it with git's default, -U3."
        yield Finding(where_of(patch), hunk.line, LintRule.CONTEXT, what, fix)
    if before < min(_CONTEXT, hunk.old_start - (hunk.old_len > 0)):
        fix = "People and three-way merges need it. Write it with git's default, -U3."
        what = f"fewer than {_CONTEXT} lines of context: {hunk.header}"
        yield Finding(where_of(patch), hunk.line, LintRule.CONTEXT, what, fix)


def _check_needless(patch: Patch, hunk: Hunk) -> Iterator[Finding]:
    """Lines that are removed and come back, although nothing moved."""
    changed = list(changed_lines(hunk))
    removed = {line.text for line in changed if not line.added}
    returning = [line for line in changed if line.added and line.text in removed and line.text.strip()]
    if not returning or hunk.old_len * hunk.new_len > _LONGEST_COMPARISON:
        return
    needless = sum(not line.added for line in changed) - hunk.old_len + _common(hunk.old_lines, hunk.new_lines)
    if needless > 0:
        plural = "lines are" if needless > 1 else "line is"
        what = f"{needless} {plural} removed and added again, for example: {returning[0].text.strip()}"
        yield Finding(where_of(patch), returning[0].at, LintRule.NEEDLESS, what, "Let git write the patch again.")


def _common(old: Sequence[str], new: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(new) + 1)
    for line in old:
        last = row
        row = [0]
        for at, other in enumerate(new):
            row.append(last[at] + 1 if line == other else max(row[at], last[at + 1]))
    return row[-1]


def check_chain(patches: Iterable[Patch | None]) -> Iterator[Finding]:
    """Each patch must start from what the one before it left; None stands for one that could not be read."""
    left: dict[str, tuple[Patch, str, str | None]] = {}
    subjects: dict[str, str] = {}
    for patch in patches:
        if patch is None:
            left.clear()
            continue
        if patch.subject in subjects:
            fix = "Subjects name patches, in `git commit --fixup` for example. Reword one of them."
            what = f"{subjects[patch.subject]} has the same subject"
            line = next(number for number, text in enumerate(_head(patch), 1) if text.lower().startswith("subject:"))
            yield Finding(where_of(patch), line, LintRule.NAME, what, fix)
        subjects.setdefault(patch.subject, patch.name)
        for change in patch.files:
            before = left.get(change.path)
            if before and before[1:] != (change.old_blob, change.old_mode):
                mine, others = f"blob {change.old_blob[:12]}", f"blob {before[1][:12]}"
                if before[1] == change.old_blob:
                    mine, others = f"mode {change.old_mode}", f"mode {before[2]}"
                what = f"{change.path}: starts from {mine}, but {before[0].name} leaves {others}"
                fix = "They were made on different trees: apply the earlier ones, then record this one again."
                yield Finding(where_of(patch), change.line, LintRule.CHAIN, what, fix)
            left[change.path] = (patch, change.new_blob, change.new_mode)


def _head(patch: Patch) -> list[str]:
    return patch.raw[: len(patch.raw) - len(patch.diff)].decode("utf-8", "surrogateescape").split("\n")


def message_end(patch: Patch) -> int:
    """The line of `---` below the message, or of the diff."""
    lines = _head(patch)
    return next((number for number, line in enumerate(lines, 1) if line.rstrip() == "---"), len(lines))


def _line_of(patch: Patch, start: str) -> int:
    lines = _head(patch)
    body = lines.index("") + 1
    found = [number for number, line in enumerate(lines, 1) if number > body and line.startswith(start)]
    return found[-1] if found else message_end(patch)


def trailer_line(patch: Patch, key: str) -> int:
    """The line of a trailer, of the last one where it is repeated; the end of the message where there is none."""
    return _line_of(patch, f"{key}:")
