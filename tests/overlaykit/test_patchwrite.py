"""Patch files come out the same whatever the settings, and named as git names them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchmaker import git, make_repo
from toys import ROOT, Toy

from overlaykit.build import build
from overlaykit.gitrepo import Repo
from overlaykit.patchfile import parse_patch
from overlaykit.patchwrite import file_name, write_patch
from overlaykit.project import read_project
from overlaykit.sterile import sterile


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    return make_repo(folder / "repo", {"f": b"f\n"})


SUBJECTS = [
    *("Change a line", "a..b c", "...x", "a - b.", "x日y", "-a", "a.-.b", "a. .b", "_x_", "don't/do\\it", "a\tb"),
    *("Very long subject that goes on and on and on until the name is cut off somewhere", "x" * 80, "y" * 51 + ". z"),
]


@settings(max_examples=25, deadline=None)
@given(words=st.lists(st.text("ab.-_ /é9", max_size=40), min_size=1))
def test_names_are_those_of_git(empty: Path, words: list[str]) -> None:
    for subject in (*SUBJECTS, *words) if words == [""] else words:
        if file_name(1, subject) == "0001-patch.patch":  # git would name it 0001-.patch, which series refuses
            continue
        tree = git(empty, "rev-parse", "HEAD^{tree}").decode().strip()
        commit = git(empty, "commit-tree", tree, "-p", "HEAD", stdin=subject.encode()).decode().strip()
        named = git(empty, "format-patch", "--always", "-o", str(empty / "out"), "--start-number=7", "-1", commit)
        assert file_name(7, subject) == Path(named.decode().strip()).name, subject


def test_a_subject_without_letters_gets_a_name() -> None:
    assert file_name(3, "日本語") == "0003-patch.patch"


@pytest.mark.upstream
def test_todays_patches_come_out_byte_for_byte(upstream_repo: Path, tmp_path: Path) -> None:
    project = read_project(ROOT)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "sterile").mkdir()
    repo = sterile(Repo(upstream_repo), tmp_path / "sterile")
    commit = project.upstream.commit
    built = build(repo, commit, project.series, project.overlay, project.rules, {}, tmp_path / "scratch")
    for number, (patch, made) in enumerate(zip(project.series, built.patches), 1):
        assert write_patch(repo, made.id) == patch.raw
        assert file_name(number, patch.subject) == patch.name


def test_settings_attributes_and_hooks_of_the_workspace_do_not_count(applied: Toy, tmp_path: Path) -> None:
    clean = written(applied, tmp_path / "clean")
    (applied.workspace / ".git" / "info").mkdir(exist_ok=True)
    (applied.workspace / ".git" / "info" / "attributes").write_text("* -diff\n*.py diff=other\n")
    for key, value in (("diff.noprefix", "true"), ("diff.context", "9"), ("diff.suppressBlankEmpty", "true")):
        applied.git("config", key, value)
    assert written(applied, tmp_path / "hostile") == clean
    assert [parse_patch("x", raw).subject for raw in clean] == ["Choose autocast by device", "Drop what is old"]


def test_odd_paths_and_new_objects(applied: Toy, tmp_path: Path) -> None:
    """The repository may lie anywhere, and what is made beside it does not reach it."""
    odd = tmp_path / 'a "b"\\c\nd é'
    applied.workspace.rename(odd)
    (tmp_path / "sterile").mkdir()
    clean = sterile(Repo(odd / ".git", odd), tmp_path / "sterile")
    made = clean.write_blob(b"only there\n")
    assert clean.read_blobs([made]) == {made: b"only there\n"}
    assert clean.tree(applied.pin)
    assert Repo(odd / ".git", odd).read_blobs([made]) == {}


def written(toy: Toy, folder: Path) -> list[bytes]:
    folder.mkdir()
    repo = Repo(toy.workspace / ".git", toy.workspace)
    clean = sterile(repo, folder)
    tip, *_ = repo.resolve("refs/overlay/tip")
    commits = clean.line("rev-list", "--reverse", f"{toy.pin}..{tip}").split()
    return [write_patch(clean, commit) for commit in commits[:2]]
