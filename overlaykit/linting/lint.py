"""apply.py lint: every rule that patches/, overlay/ and configs/ must keep, all findings in one go.

What needs upstream's text is checked in the workspace's objects, never in its worktree; without a workspace it is
named as not checked. --fix writes what is generated: patches/README.md, and patches that differ from git's own form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..errors import FixTheProjectFile
from ..install import install, refuse_pending
from ..plan import Request
from ..project import overlay_files
from ..report import how_to_call
from ..tempfolder import temporary_folder
from ..workspace import open_workspace
from .finding import Finding, LintRule
from .folder import TABLE, Folder, check_overlay, read_configs, read_patches
from .patchtable import render
from .rules import check_chain, check_changes, check_message, where_of
from .tree import NEEDS_UPSTREAM, Tree, check_tree


@dataclass(frozen=True)
class LintReport:
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()  # what was not checked, and why
    fixed: tuple[str, ...] = ()  # files that --fix wrote

    @property
    def code(self) -> int:
        return 1 if self.findings else 0

    def as_text(self) -> str:
        rows = [str(finding) for finding in self.findings]
        rows += [f"Wrote {path}" for path in self.fixed]
        rows += [f"Note: {note}" for note in self.notes]
        count = len(self.findings)
        return "\n".join([*rows, f"{count} finding{'' if count == 1 else 's'}" if count else "No findings"])

    def as_json(self) -> str:
        findings = [{**asdict(finding), "rule": finding.rule.value} for finding in self.findings]
        facts = {"ok": not findings, "code": self.code, "verb": "lint", "findings": findings}
        return json.dumps({**facts, "notes": self.notes, "fixed": self.fixed}, indent=2)


def lint(request: Request) -> LintReport:
    """Check everything. With `request.fix` write what is generated first, then check what is there."""
    root = request.project.resolve()
    refuse_pending(root)
    checked = _check(root, request)
    if not request.fix or not checked.generated:
        return checked.report
    install(root, checked.generated, checked.seen)
    return replace(_check(root, request).report, fixed=tuple(checked.generated))


@dataclass(frozen=True)
class _Checked:
    report: LintReport
    generated: Mapping[str, bytes] = field(default_factory=dict)  # what --fix would write
    seen: Mapping[str, bytes | None] = field(default_factory=dict)  # what there is instead


def _check(root: Path, request: Request) -> _Checked:
    folder = read_patches(root)
    findings = [*folder.findings, *check_chain(folder.patches), *check_overlay(root, folder.series)]
    for patch in folder.series:
        findings += check_message(patch, root)
    tree = _compare_with_upstream(root, request, folder)
    findings += tree.findings
    for patch in folder.series:
        if tree.written.get(where_of(patch)) != patch.raw:
            findings += check_changes(patch)
        else:  # git needs these lines, so they are not needless
            findings += (each for each in check_changes(patch) if each.rule is not LintRule.NEEDLESS)
    wanted = {path: data for path, data in tree.written.items()}
    notes = list(tree.notes)
    if folder.complete:
        wanted[TABLE] = render(folder.series).encode()
    else:
        notes.append(f"Not checked, because not every patch can be read: {TABLE}.")
    seen = {path: (root / path).read_bytes() if (root / path).is_file() else None for path in wanted}
    generated = {path: data for path, data in wanted.items() if seen[path] != data}
    if TABLE in generated:
        what = "is not the table of these patches" if seen[TABLE] is not None else "does not exist"
        findings.append(Finding(TABLE, 0, LintRule.TABLE, what, f"Write it: {how_to_call()} lint --fix"))
    findings.sort(key=lambda each: (each.path, each.line))
    report = LintReport(tuple(dict.fromkeys(findings)), tuple(notes))
    return _Checked(report, generated, {path: seen[path] for path in generated})


def _compare_with_upstream(root: Path, request: Request, folder: Folder) -> Tree:
    upstream, rules, findings = read_configs(root)
    workspace = open_workspace(request.workspace)
    overlay = _overlay(root)
    note = ""
    if upstream is None or overlay is None or not folder.complete:
        note = "not every file of the project can be read"
    elif workspace is None:
        note = f"there is no workspace at {request.workspace}; {how_to_call()} makes one, --workspace names another"
    elif workspace.repo.resolve(f"{upstream.commit}^{{commit}}") == [None]:
        note = f"{workspace.folder} does not hold upstream's commit {upstream.commit[:12]}; {how_to_call()} fetches it"
    else:
        with temporary_folder() as scratch:
            tree = check_tree(workspace.repo, root, upstream, folder.series, overlay, rules, scratch)
        return replace(tree, findings=(*findings, *tree.findings))
    return Tree(findings, (f"Not checked, because {note}: {NEEDS_UPSTREAM}.",))


def _overlay(root: Path) -> dict[str, Path] | None:
    """None where something is in overlay/ that cannot be there; check_overlay says what."""
    try:
        return overlay_files(root / "overlay")
    except FixTheProjectFile:
        return None
