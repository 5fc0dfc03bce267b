"""Conflicts that are not about lines: whole files, modes, kinds of files, line ends with more behind them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from futures import AUTOCAST, MODEL, WHY, Future
from patchmaker import git

from overlaykit.explaining.conflict import Conflict, Kind, explain_conflicts
from overlaykit.gitrun import git_version
from overlaykit.patchfile import Patch

PATH = "model/base.py"
PATCHED = MODEL.replace(*AUTOCAST)


@pytest.fixture
def future(tmp_path: Path) -> Future:
    return Future(tmp_path / "repo", {PATH: MODEL, "model/other.py": b"other = 1\n"})


def explain(future: Future, patch: Patch) -> tuple[Conflict, ...]:
    stopped = future.rebase()
    assert stopped is not None, "the rebase did not stop"
    return explain_conflicts(stopped, patch, future.old, future.new)


def commit_worktree(future: Future, message: str) -> str:
    git(future.folder, "add", "-A")
    git(future.folder, "commit", "-q", "-m", message)
    return git(future.folder, "rev-parse", "HEAD").decode().strip()


def test_converted_line_ends_and_a_conflict_besides(future: Future) -> None:
    changed = MODEL.replace(b"dtype=dtype)", b"dtype=torch.bfloat16)")
    future.upstream("Autocast to bfloat16", {PATH: changed})
    future.upstream("Convert line ends", {PATH: changed.replace(b"\n", b"\r\n")})
    about, conflict = explain(future, future.patch({PATH: PATCHED}))
    assert (about.kind, about.line) == (Kind.LINE_ENDS, 1)
    assert "The conflicts below are what is left when line ends are set aside." in about.hint
    assert (conflict.kind, conflict.function) == (Kind.CONTENT, "BaseModel.maybe_autocast")
    assert conflict.upstream == ("            return torch.cuda.amp.autocast(dtype=torch.bfloat16)",)
    assert [culprit.subject for culprit in conflict.culprits] == ["Convert line ends", "Autocast to bfloat16"]


def test_a_file_that_upstream_replaced_by_a_link(future: Future) -> None:
    future.upstream("Before", {})
    (future.folder / PATH).unlink()
    os.symlink("other.py", future.folder / PATH)
    future.new = commit_worktree(future, "One model is enough")
    conflicts = explain(future, future.patch({PATH: PATCHED}))
    assert Kind.MODE in {conflict.kind for conflict in conflicts}
    hints = " ".join(conflict.hint for conflict in conflicts)
    assert "symbolic link" in hints


@pytest.mark.skipif(git_version() < (2, 34), reason="an older git calls it deleted")
def test_a_file_that_upstream_replaced_by_a_folder(future: Future) -> None:
    future.upstream("A package", {PATH: None, "model/base.py/__init__.py": b"package = True\n"})
    (conflict,) = explain(future, future.patch({PATH: PATCHED}))
    assert [culprit.subject for culprit in conflict.culprits] == ["A package"]
    assert conflict.kind is Kind.DELETED_UPSTREAM
    assert conflict.function == "BaseModel.maybe_autocast"
    assert conflict.hint.startswith("Upstream has a folder of this name now")


def test_a_file_that_is_not_text(future: Future) -> None:
    twin = future.patch({PATH: PATCHED})
    future.patches.clear()
    future.upstream("Pack", {PATH: MODEL + b"\0upstream"})
    git(future.folder, "checkout", "-q", "--detach", future.old)
    (future.folder / PATH).write_bytes(MODEL + b"\0ours")
    future.patches.append(commit_worktree(future, WHY))
    (conflict,) = explain(future, twin)
    assert conflict.hint.startswith("The file is not text")
    assert [culprit.subject for culprit in conflict.culprits] == ["Pack"]


def test_a_deleted_file_whose_hunks_went_to_several_files(tmp_path: Path) -> None:
    """Hunks far apart are explained one by one."""
    filler = [b"".join(b"%s_%d = 'a value'\n" % (name, number) for number in range(20)) for name in (b"a", b"b")]
    first, second = b"def one():\n    return compute_the_first()\n", b"def two():\n    return compute_the_second()\n"
    future = Future(tmp_path / "repo", {PATH: first + filler[0] + second, "x.py": filler[1], "y.py": filler[1] * 2})
    future.upstream("Split", {PATH: None, "x.py": filler[1] + first, "y.py": filler[1] * 2 + second})
    wanted = first.replace(b"first()", b"first(1)") + filler[0] + second.replace(b"second()", b"second(2)")
    one, two = explain(future, future.patch({PATH: wanted}))
    assert (one.function, two.function) == ("one", "two")
    assert "now in x.py:22 in one." in one.hint
    assert "now in y.py:42 in two." in two.hint
    assert [culprit.subject for culprit in (*one.culprits, *two.culprits)] == ["Split", "Split"]


def test_odd_names(tmp_path: Path) -> None:
    name = "a 'quoted' name: ünï.py"
    future = Future(tmp_path / "repo", {PATH: MODEL, name: MODEL})
    future.upstream("Second card", {name: MODEL.replace(b"cuda:0", b"cuda:1")})
    twin = future.patch({PATH: PATCHED})
    future.patches.clear()
    git(future.folder, "checkout", "-q", "--detach", future.old)
    (future.folder / name).write_bytes(MODEL.replace(b"cuda:0", b"npu:0"))
    future.patches.append(commit_worktree(future, WHY))
    (conflict,) = explain(future, twin)
    assert (conflict.path, conflict.function) == (name, "BaseModel.device")
    assert [culprit.subject for culprit in conflict.culprits] == ["Second card"]


def test_upstream_has_committed_markers(future: Future) -> None:
    """As MiniGPT-4 did in bf605d5."""
    marked = MODEL.replace(
        b'        return "cuda:0"\n', b'<<<<<<< HEAD\n        return "cuda:1"\n=======\n>>>>>>> up\n'
    )
    future.upstream("update merging", {PATH: marked})
    (conflict,) = explain(future, future.patch({PATH: MODEL.replace(b"cuda:0", b"npu:0")}))
    assert conflict.upstream == ("<<<<<<< HEAD", '        return "cuda:1"', "=======", ">>>>>>> up")
    assert conflict.line == 7
    assert [culprit.subject for culprit in conflict.culprits] == ["update merging"]


def test_settings_of_the_repository_change_nothing(future: Future) -> None:
    """They could turn the output around, or run something."""
    future.upstream("Autocast to bfloat16", {PATH: MODEL.replace(b"dtype=dtype)", b"dtype=torch.bfloat16)")})
    patch = future.patch({PATH: PATCHED})
    stopped = future.rebase()
    assert stopped is not None
    expected = explain_conflicts(stopped, patch, future.old, future.new)
    (future.folder / "order").write_text("*.md\n")
    for setting in SETTINGS:
        name, _, value = setting.partition("=")
        git(future.folder, "config", name, value.replace("FOLDER", str(future.folder)))
    assert explain_conflicts(stopped, patch, future.old, future.new) == expected
    assert [culprit.subject for culprit in expected[0].culprits] == ["Autocast to bfloat16"]
    assert not (future.folder / "trap").exists()


SETTINGS = (
    "color.ui=always",
    "core.pager=touch FOLDER/trap",
    "core.quotePath=true",
    "diff.algorithm=patience",
    "diff.external=touch FOLDER/trap",
    "diff.noprefix=true",
    "diff.orderFile=FOLDER/order",
    "diff.renames=false",
    "format.pretty=oneline",
    "gpg.program=touch FOLDER/trap",
    "grep.column=true",
    "grep.lineNumber=true",
    "grep.patternType=perl",
    "i18n.logOutputEncoding=UTF-16",
    "log.abbrevCommit=true",
    "log.date=relative",
    "log.decorate=full",
    "log.diffMerges=combined",
    "log.follow=true",
    "log.mailmap=true",
    "log.showRoot=false",
    "log.showSignature=true",
    "merge.conflictStyle=merge",
    "status.renames=false",
)
