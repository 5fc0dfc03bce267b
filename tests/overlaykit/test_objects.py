"""Ids that are computed here are git's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchmaker import git, make_repo

from overlaykit.errors import OverlayError
from overlaykit.gitrepo import Entry, Repo, blob_id
from overlaykit.objects import Objects

# Names whose order differs as file and as folder, and bytes that are no UTF-8.
NAMES = st.sampled_from(["a", "a-b", "a.b", "a0", "b", "é", "\udcff", "A", "ab"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    folder = make_repo(tmp_path_factory.mktemp("objects") / "repo", {"a": b"1\n"})
    return Repo(folder / ".git", folder)


def without_clashes(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if not any(other.startswith(path + "/") for other in files)}


@given(
    first=st.dictionaries(PATHS, st.binary(max_size=5), min_size=1), then=st.dictionaries(PATHS, st.binary(max_size=5))
)
def test_trees(
    repo: Repo, tmp_path_factory: pytest.TempPathFactory, first: dict[str, bytes], then: dict[str, bytes]
) -> None:
    objects = Objects(repo, tmp_path_factory.mktemp("scratch"))
    trees = []
    files: dict[str, bytes] = {}
    for step in (without_clashes(first), without_clashes(then)):
        gone = dict.fromkeys(path for path in files if path not in step)
        files = step
        entries = {
            path: Entry("100755" if b"x" in data else "100644", objects.blob(data)) for path, data in step.items()
        }
        trees.append((objects.tree({**gone, **entries}), entries))
    objects.write()
    for tree, entries in trees:
        assert repo.tree(tree) == entries
        assert repo.git("mktree", stdin=repo.git("ls-tree", tree)).decode().strip() == tree


@pytest.mark.parametrize("name", ["Ada Lovelace", "Åsa Ö", " . Dr. No, Jr. ", 'O"Brien <x>', "a\\"])
@pytest.mark.parametrize(
    "date", ["Mon, 02 Sep 2024 10:00:00 +0800", "Sun, 22 Nov 2026 12:00:00 -0330", "1700000000 +0000"]
)
def test_commits(repo: Repo, tmp_path: Path, name: str, date: str) -> None:
    objects = Objects(repo, tmp_path)
    tree, parent = objects.tree({"a": Entry("100644", objects.blob(b"1\n"))}), repo.line("rev-parse", "HEAD")
    message = "Say why\n\nBecause ünï.\n"
    made = objects.commit(tree, parent, message, f"{name} <ada@example.org>", date)
    objects.write()
    assert repo.commit(tree, [parent], message, f"{name} <ada@example.org>", date) == made


def test_what_git_wrote_must_have_the_id(repo: Repo, tmp_path: Path) -> None:
    objects = Objects(repo, tmp_path)
    objects.blob(b"2\n")
    objects._blobs[blob_id(b"2\n")] = b"3\n"
    with pytest.raises(OverlayError, match="another id"):
        objects.write()


def test_nothing_is_written_before_write(repo: Repo, tmp_path: Path) -> None:
    before = git(repo.worktree or tmp_path, "count-objects", "-v")
    Objects(repo, tmp_path).blob(b"never\n")
    assert git(repo.worktree or tmp_path, "count-objects", "-v") == before
