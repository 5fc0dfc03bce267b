"""Who did it: the upstream commits behind a conflict, in histories made for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from futures import Future
from patchmaker import git

from overlaykit.explaining.culprits import Culprit, who_changed, who_removed, who_touched
from overlaykit.explaining.linemap import carry
from overlaykit.explaining.whereabouts import moved_lines, names_of, renamed_to

LINES = [f"line {number} of the file\n" for number in range(1, 21)]


def text(**changed: str | None) -> bytes:
    """The twenty lines with some exchanged (`_7="x"`) or deleted (`_7=None`)."""
    lines = [changed.get(f"_{number}", line) for number, line in enumerate(LINES, 1)]
    return "".join(line for line in lines if line is not None).encode()


@pytest.fixture
def future(tmp_path: Path) -> Future:
    """Line 7 deleted, line 8 changed, renamed, line 12 changed, renamed with line 3 changed; in this order."""
    future = Future(tmp_path / "repo", {"f.py": text(), "other.py": b"other = 1\n"})
    future.upstream("delete 7", {"f.py": text(_7=None)}, "2024-02-01")
    future.upstream("change 8", {"f.py": text(_7=None, _8="eight\n")}, "2024-02-02")
    future.upstream("rename", {"f.py": None, "g.py": text(_7=None, _8="eight\n")}, "2024-02-03")
    future.upstream("change 12", {"g.py": text(_7=None, _8="eight\n", _12="twelve\n")}, "2024-02-04")
    last = text(_7=None, _8="eight\n", _12="twelve\n", _3="three\n")
    future.upstream("rename again and change 3", {"g.py": None, "sub folder/h.py": last}, "2024-02-05")
    future.upstream("elsewhere", {"other.py": b"other = 2\n"})
    return future


def subjects(culprits: tuple[Culprit, ...]) -> list[str]:
    return [culprit.subject for culprit in culprits]


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (3, 3, ["rename again and change 3"]),
        (7, 7, ["change 8", "delete 7"]),
        (11, 11, ["change 12"]),
        (8, 8, []),
        (1, 99, ["rename again and change 3", "change 12", "change 8", "delete 7"]),
        (15, 18, []),
    ],
)
def test_lines_are_followed_through_renames_and_deletions(
    future: Future, first: int, last: int, expected: list[str]
) -> None:
    found = who_touched(future.repo, future.old, future.new, "sub folder/h.py", first, last)
    assert subjects(found) == expected


def test_a_culprit_has_commit_date_author_and_subject(future: Future) -> None:
    (culprit,) = who_touched(future.repo, future.old, future.new, "sub folder/h.py", 3, 3)
    commit = git(future.folder, "log", "-1", "--format=%H", "--grep=change 3", future.new).decode().strip()
    assert culprit == Culprit(commit, "2024-02-05", "Grace Hopper", "rename again and change 3")
    assert str(culprit) == f"{commit[:12]} 2024-02-05 Grace Hopper: rename again and change 3"


def test_going_back_names_the_commits_that_are_taken_back(future: Future) -> None:
    assert subjects(who_touched(future.repo, future.new, future.old, "f.py", 12, 12)) == ["change 12"]
    assert subjects(who_touched(future.repo, future.new, future.old, "f.py", 7, 8)) == ["change 8", "delete 7"]


def test_of_two_branches_both_sides_count(future: Future) -> None:
    there, future.new = future.new, future.old
    future.files = {"f.py": text()}
    future.upstream("change 12 on a branch", {"f.py": text(_12="dozen\n")})
    found = subjects(who_touched(future.repo, there, future.new, "f.py", 12, 12))
    assert sorted(found) == ["change 12", "change 12 on a branch"]


def test_a_view_of_the_file_finds_who_changed_it(future: Future) -> None:
    names = names_of(future.repo, future.old, future.new, "sub folder/h.py")
    assert set(names) == {"f.py", "g.py", "sub folder/h.py"}
    found = who_changed(future.repo, future.old, future.new, names, lambda data: LINES[6].encode() in (data or b""))
    assert subjects(found) == ["delete 7"]
    assert who_changed(future.repo, future.old, future.new, names, lambda data: data is None) == ()
    gone = who_changed(future.repo, future.old, future.new, ["f.py"], lambda data: data is None)
    assert subjects(gone) == ["rename"]


def test_a_merge_is_no_culprit_for_what_it_only_brings(tmp_path: Path) -> None:
    future = Future(tmp_path / "repo", {"f.py": text()})
    base = future.old
    side = future.upstream("side", {"f.py": text(_5="five\n")})
    future.new, future.files = base, {"f.py": text()}
    future.upstream("main", {"f.py": text(_15="fifteen\n")})
    git(future.folder, "merge", "-q", "--no-ff", "-m", "merge", side)
    future.new = git(future.folder, "rev-parse", "HEAD").decode().strip()
    assert subjects(who_touched(future.repo, base, future.new, "f.py", 4, 6)) == ["side"]
    seen = who_changed(future.repo, base, future.new, ["f.py"], lambda data: b"five" in (data or b""))
    assert subjects(seen) == ["side"]


def test_who_emptied_a_gap(tmp_path: Path) -> None:
    future = Future(tmp_path / "repo", {"f.py": text()})
    future.upstream("delete 7", {"f.py": text(_7=None)})
    future.upstream("change 8", {"f.py": text(_7=None, _8="eight\n")})
    future.upstream("delete 15", {"f.py": text(_7=None, _8="eight\n", _15=None)})
    assert subjects(who_touched(future.repo, future.old, future.new, "f.py", 14, 13)) == ["delete 15"]
    assert subjects(who_touched(future.repo, future.old, future.new, "f.py", 10, 9)) == []


def test_a_branch_that_only_took_a_change_back_is_found(tmp_path: Path) -> None:
    """As upstream did: the change is on one branch, undone there, and the merge with another branch shows nothing."""
    future = Future(tmp_path / "repo", {"f.py": text()})
    base = future.old
    main = future.upstream("main", {"other.py": b"other = 1\n"})
    future.new, future.files = base, {"f.py": text()}
    changed = future.upstream("change 5", {"f.py": text(_5="five\n")})
    future.upstream("readme", {"f.py": text()})
    git(future.folder, "checkout", "-q", "--detach", main)
    git(future.folder, "merge", "-q", "--no-ff", "-m", "merge", future.new)
    merge = git(future.folder, "rev-parse", "HEAD").decode().strip()
    assert subjects(who_touched(future.repo, changed, merge, "f.py", 5, 5)) == ["readme"]
    assert subjects(who_touched(future.repo, merge, changed, "f.py", 5, 5)) == ["readme"]


def test_who_removed_and_what_became_of_it(future: Future) -> None:
    removed = who_removed(future.repo, future.old, future.new, "f.py")
    assert removed is not None
    assert removed.subject == "rename"
    assert who_removed(future.repo, future.old, future.new, "other.py") is None
    back = who_removed(future.repo, future.new, future.old, "sub folder/h.py")
    assert back is not None
    assert back.subject == "rename again and change 3"
    assert renamed_to(future.repo, future.old, future.new) == {"f.py": "sub folder/h.py"}


def test_renames_are_found_though_the_clone_lacks_pictures(tmp_path: Path) -> None:
    """A mirror or a partial clone has the trees, but not every blob."""
    future = Future(tmp_path / "repo", {"f.py": text(), "figs/a.png": b"\x89PNG" * 99, "figs/b.png": b"b"})
    future.upstream("rename", {"f.py": None, "g.py": text(_3="three\n"), "figs/a.png": None, "figs/c.png": b"GIF" * 99})
    future.upstream("change 12", {"g.py": text(_3="three\n", _12="twelve\n")})
    blob = git(future.folder, "rev-parse", f"{future.old}:figs/a.png").decode().strip()
    (future.folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    assert renamed_to(future.repo, future.old, future.new) == {"f.py": "g.py"}
    assert subjects(who_touched(future.repo, future.old, future.new, "g.py", 3, 12)) == ["change 12", "rename"]


def test_a_missing_version_of_the_file_leaves_the_commits_that_touched_it(tmp_path: Path) -> None:
    future = Future(tmp_path / "repo", {"f.py": text()})
    future.upstream("change 5", {"f.py": text(_5="five\n")})
    blob = git(future.folder, "rev-parse", f"{future.new}:f.py").decode().strip()
    future.upstream("change 15", {"f.py": text(_5="five\n", _15="fifteen\n")})
    (future.folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    assert subjects(who_touched(future.repo, future.old, future.new, "f.py", 15, 15)) == ["change 15", "change 5"]


def test_a_hostile_subject_cannot_drive_the_terminal(tmp_path: Path) -> None:
    future = Future(tmp_path / "repo", {"f.py": text()})
    future.upstream("Fix\x1b[2J\x1fit", {"f.py": text(_5="five\n")})
    (culprit,) = who_touched(future.repo, future.old, future.new, "f.py", 5, 5)
    assert culprit.subject == "Fix\ufffd[2J\ufffdit"


def test_lines_are_found_where_they_moved(future: Future) -> None:
    code = b"class A:\n    def f(self):\n        number_of_wheels = 4\n        return number_of_wheels\n"
    future.upstream("move", {"moved.py": code, "notes.txt": code})
    places = moved_lines(future.repo, future.new, ["    pass\n", "number_of_wheels = 4\n"])
    assert [str(place) for place in places] == ["moved.py:3 in A.f"]
    assert moved_lines(future.repo, future.new, ["no_such_line_anywhere = 1\n"]) == ()


@pytest.mark.parametrize(
    ("old", "new", "lines", "expected"),
    [
        ("abcdef", "abcdef", (2, 3), (2, 3)),
        ("abcdef", "abXcdef", (2, 3), (2, 4)),  # added between
        ("abcdef", "aXbcdef", (2, 3), (3, 4)),  # added before
        ("abcdef", "abcXdef", (2, 3), (2, 3)),  # added behind
        ("abcdef", "adef", (2, 3), (2, 1)),  # deleted: a gap
        ("abcdef", "aXYZdef", (2, 3), (2, 4)),  # replaced
        ("abcdef", "abcXYdef", (4, 3), (4, 5)),  # a gap that was filled
        ("abcdef", "abcdef", (4, 3), (4, 3)),
        ("", "abc", (1, 0), (1, 3)),
        ("abc", "", (1, 3), (1, 0)),
    ],
)
def test_lines_of_one_version_in_another(old: str, new: str, lines: tuple[int, int], expected: tuple[int, int]) -> None:
    assert carry(old, new, *lines) == expected
