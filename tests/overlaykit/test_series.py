"""patches/series is complete in both directions and in the order in which `git am patches/*.patch` works."""

from __future__ import annotations

from pathlib import Path

import pytest
from patchmaker import git, make_patch, make_repo

from overlaykit.errors import FixTheProjectFile
from overlaykit.series import read_series


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "README.md").write_text("not a patch")
    for number, (old, new) in enumerate([(b"1\n", b"2\n"), (b"2\n", b"3\n")], 1):
        raw = make_patch(tmp_path / str(number), {"f": old}, {"f": new}, f"Patch {number}\n")
        (patches / f"000{number}-Change.{number}.patch").write_bytes(raw)
    return patches


def test_the_list_is_the_order(folder: Path) -> None:
    (folder / "series").write_text("# why\n\n0001-Change.1.patch  # first\r\n0002-Change.2.patch")
    assert [patch.subject for patch in read_series(folder)] == ["Patch 1", "Patch 2"]


def test_git_am_in_name_order_gives_what_the_series_says(folder: Path, tmp_path: Path) -> None:
    (folder / "series").write_text("0001-Change.1.patch\n0002-Change.2.patch\n")
    repo = make_repo(tmp_path / "plain", {"f": b"1\n"})
    git(repo, "am", "-q", *(str(path) for path in sorted(folder.glob("*.patch"))))
    last = read_series(folder)[-1].files[0]
    assert git(repo, "rev-parse", "HEAD:f").decode().strip() == last.new_blob


@pytest.mark.parametrize(
    ("series", "words"),
    [
        ("0001-Change.1.patch\n", r"series does not list 0002-Change\.2\.patch\n.*silently"),
        (None, r"series does not list 0001-Change\.1\.patch, 0002-"),
        ("0001-Change.1.patch\n0002-Change.2.patch\n0003-x.patch\n", r"series:3: 0003-x\.patch does not exist"),
        ("0002-Change.2.patch\n0001-Change.1.patch\n", r"series:2: .* does not come after 0002"),
        ("0001-Change.1.patch\n0001-Change.1.patch\n", r"series:2: .* does not come after 0001"),
        ("../0001-Change.1.patch\n", r"series:1: .* is not of the form NNNN-words\.patch"),
        ("Change.patch\n", r"series:1: .* is not of the form"),
        (b"\xff\n", r"series cannot be read"),
    ],
)
def test_an_incomplete_or_odd_list_is_refused(folder: Path, series: str | bytes | None, words: str) -> None:
    if series is not None:
        (folder / "series").write_bytes(series.encode() if isinstance(series, str) else series)
    with pytest.raises(FixTheProjectFile, match=words):
        read_series(folder)


def test_a_bad_patch_is_named_with_its_line(folder: Path) -> None:
    (folder / "series").write_text("0001-Change.1.patch\n0002-Change.2.patch\n")
    path = folder / "0002-Change.2.patch"
    path.write_bytes(path.read_bytes().replace(b"+3\n", b"+3\n+4\n"))
    with pytest.raises(FixTheProjectFile, match=r"patches/0002-Change\.2\.patch:\d+: this line belongs to no hunk"):
        read_series(folder)


def test_no_series_and_no_patches_is_an_empty_overlay(tmp_path: Path) -> None:
    assert read_series(tmp_path) == ()
    assert read_series(tmp_path / "absent") == ()
