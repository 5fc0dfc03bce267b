"""What lint finds in the project's folders without looking into upstream: patches/, overlay/ and configs/."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..configs import Rules, load_rules
from ..errors import FixTheProjectFile
from ..names import folded, parents
from ..patchfile import Patch, read_patch
from ..project import Upstream, is_litter, read_upstream
from ..series import examine_series
from .finding import Finding, LintRule, finding_of

PATCHES, OVERLAY, CONFIGS = "patches", "overlay", "configs"
TABLE, PATHS, LOCK = "patches/README.md", "configs/paths.yaml", "configs/upstream.yaml"
_LEFT_OVER = {
    ".orig": "what a tool saved before it changed a file",
    ".rej": "a hunk that did not apply",
    ".diff": "a patch that is not applied: only *.patch is",
    ".swp": "an editor's",
    "~": "an editor's backup",
}


@dataclass(frozen=True)
class Folder:
    """The series as far as it can be read; None stands for a patch that cannot."""

    patches: tuple[Patch | None, ...]
    findings: tuple[Finding, ...]

    @property
    def series(self) -> tuple[Patch, ...]:
        return tuple(patch for patch in self.patches if patch)

    @property
    def complete(self) -> bool:
        return not any(finding.rule in (LintRule.FORM, LintRule.SERIES) for finding in self.findings)


def read_patches(root: Path) -> Folder:
    """Read every patch that the series lists, with all that is wrong with the list and the files."""
    names, problems = examine_series(root / PATCHES)
    findings = [finding_of(problem, root, LintRule.SERIES, f"{PATCHES}/series") for problem in problems]
    patches: list[Patch | None] = []
    for name in names:
        path = f"{PATCHES}/{name}"
        try:
            if (root / path).is_symlink():
                raise FixTheProjectFile(f"{path}: is a symlink", fix="Put the file itself there.")
            patches.append(read_patch(root / path))
        except FixTheProjectFile as error:
            patches.append(None)
            findings.append(finding_of(error, root, LintRule.FORM, path))
    return Folder(tuple(patches), (*findings, *_strays(root)))


def _strays(root: Path) -> Iterator[Finding]:
    for path in sorted((root / PATCHES).glob("*")):
        plain = path.is_file() and not path.is_symlink()
        if plain and (path.suffix == ".patch" or path.name in ("series", "README.md")):
            continue  # a patch that the series does not list is the series' finding
        if path.is_symlink() and path.suffix == ".patch":
            continue  # is one of the series'
        about = next((words for end, words in _LEFT_OVER.items() if path.name.endswith(end)), "no patch")
        what = f"does not belong here: {about}" if plain or not path.is_dir() else "a folder does not belong here"
        yield Finding(f"{PATCHES}/{path.name}", 0, LintRule.STRAY, what, "Remove it.")
    for path in sorted((*(root / OVERLAY).rglob("*"), *(root / CONFIGS).glob("*"))):
        about = _LEFT_OVER.get(path.suffix, "")
        if about and not is_litter(path.relative_to(root)):
            name = path.relative_to(root).as_posix()
            yield Finding(name, 0, LintRule.STRAY, f"does not belong here: {about}", "Remove it.")


def check_overlay(root: Path, series: Sequence[Patch]) -> Iterator[Finding]:
    """Files of overlay/ must mean the same on every machine, and replace nothing."""
    folder = root / OVERLAY
    left = _left_by(series)
    seen: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if is_litter(inside) or (path.is_dir() and not path.is_symlink()):
            continue
        name = inside.as_posix()
        where = f"{OVERLAY}/{name}"
        if path.is_symlink() or not path.is_file():
            fix = "Put the file itself there: a link can point outside the tree."
            yield Finding(where, 0, LintRule.OVERLAY, "a symlink or device, no plain file", fix)
            continue
        yield from _check_bytes(where, path)
        same = folded(name)
        if same in seen:
            what = f"differs from {seen[same]} in case or accents only"
            fix = "Rename one of them: on macOS and Windows they are one file."
            yield Finding(where, 0, LintRule.OVERLAY, what, fix)
        seen.setdefault(same, where)
        for taken in (name, *parents(name)):
            if folded(taken) in left:
                fix = "A file is either patched or in overlay/: move the patch's part here, or the other way round."
                what = f"{left[folded(taken)]} changes or creates {taken}"
                yield Finding(where, 0, LintRule.OVERLAY, what, fix)


def _check_bytes(where: str, path: Path) -> Iterator[Finding]:
    data = path.read_bytes()
    for bad, what, fix in (
        (b"\r\n", "CRLF line end", "Write it with LF: it would be CRLF on every machine."),
        (b"\0", "NUL byte", "Only text belongs here."),
    ):
        if bad in data:
            yield Finding(where, data[: data.index(bad)].count(b"\n") + 1, LintRule.OVERLAY, what, fix)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        yield Finding(where, line, LintRule.OVERLAY, f"not UTF-8: {error.reason}", "Save it as UTF-8.")
    try:
        os.fsencode(where).decode("utf-8")
    except UnicodeDecodeError:
        yield Finding(where, 0, LintRule.OVERLAY, "the name is not UTF-8", "Rename it.")


def _left_by(series: Sequence[Patch]) -> dict[str, str]:
    """Folded path of each file that exists after a patch touched it -> the last such patch."""
    left: dict[str, str] = {}
    for patch in series:
        for change in patch.files:
            left.pop(folded(change.path), None)
            if change.new_path:
                left[folded(change.path)] = patch.name
    return left


def read_configs(root: Path) -> tuple[Upstream | None, Rules | None, tuple[Finding, ...]]:
    """configs/upstream.yaml and configs/paths.yaml, None where one cannot be read."""
    findings = []
    upstream = rules = None
    try:
        upstream = read_upstream(root / LOCK)
    except FixTheProjectFile as error:
        findings.append(_placed(finding_of(error, root, LintRule.CONFIG, LOCK), root))
    try:
        rules = load_rules(root / PATHS)
    except FixTheProjectFile as error:
        findings.append(_placed(finding_of(error, root, LintRule.CONFIG, PATHS), root))
    return upstream, rules, tuple(findings)


def _placed(finding: Finding, root: Path) -> Finding:
    """With the line of the key that it speaks of, where it has none."""
    words = re.findall(r"[\w.]+", finding.what) if not finding.line else []
    lines = (line_of_key(root / finding.path, word) for word in words)
    return replace(finding, line=finding.line or next(filter(None, lines), 0))


def line_of_key(file: Path, key: str) -> int:
    """Where a key of ours is written, 0 for nowhere; YAML's readers do not say."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return 0
    pattern = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*:")
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 0)
