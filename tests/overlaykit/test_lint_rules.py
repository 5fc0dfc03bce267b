"""The rules for one patch: its message, and hunks without noise. Also: what git writes keeps the rules for hunks."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lintmaker import FIRST, SECOND, brief, shallow, spoil
from patchmaker import CLEAN, make_patch
from toys import Toy

from overlaykit.linting.finding import Finding
from overlaykit.linting.rules import check_chain, check_changes
from overlaykit.patchfile import Patch, parse_patch

HOOKS = b"Hooks: minigpt4/base_model.py (BaseModel.device)"
TEST = b"tests/test_toy.py::test_device"
# What is replaced in the first patch -> the lines, rules and words of the findings.
MESSAGES: dict[str, tuple[bytes, bytes, list[str], str]] = {
    "no reason": (b"Because the toy needs it.\n\n", b"", ["10 why"], "gives no reason"),
    "subject changed": (b"Choose autocast", b"Select autocast", ["0 name"], "0001-Select-autocast-by-device.patch"),
    "missing": (HOOKS + b"\n", b"", ["11 trailers"], "there is no Hooks"),
    "twice": (b"Drop-When: never", b"Drop-When: never\nDrop-When: soon", ["11 trailers"], "appears 2 times"),
    "mistyped": (b"Drop-When", b"Drop-when", ["10 trailers", "12 trailers"], "Did you mean Drop-When"),
    "empty": (b"Drop-When: never", b"Drop-When:", ["10 trailers"], "no trailer: 'Drop-When:'"),
    "prose": (HOOKS, b"and so on\n" + HOOKS, ["8 trailers"], "no trailer: 'and so on'"),
    "not last": (TEST, TEST + b"\n\nAnd more.", [f"{n} trailers" for n in (8, 9, 10, 11)], "not in the last"),
    "signed off": (b"Drop-When", b"Signed-off-by: A <a@b.c>\nDrop-When", [], ""),
    "url": (b"not-forwarded (the port's own)", b"https://example.org/1", [], ""),
    "backport": (b"not-forwarded (the port's own)", b"backport " + b"1a" * 20, [], ""),
    "short backport": (b"not-forwarded (the port's own)", b"backport 1a2b3c", ["9 Upstream"], "40 hex"),
    "no reason given": (b"not-forwarded (the port's own)", b"not-forwarded", ["9 Upstream"], "(reason)"),
    "drift": (b"Drop-When", b"Drift-Reviewed: a.py C.f " + b"1a" * 6 + b"\nDrop-When", [], ""),
    "odd drift": (b"Drop-When", b"Drift-Reviewed: yes\nDrop-When", ["10 Drift-Reviewed"], "unreadable: yes"),
    "no such file": (TEST, b"tests/gone.py::test_device", ["11 Tested-By"], "tests/gone.py cannot be read"),
    "no such test": (TEST, b"tests/test_toy.py::test_devise", ["11 Tested-By"], "Did you mean test_device?"),
    "no such class": (TEST, b"tests/test_toy.py::TestX::test_is_gone", ["11 Tested-By"], "has no TestX"),
    "a class": (TEST, b"tests/test_toy.py::TestOld", ["11 Tested-By"], "has no TestOld"),
    "a helper": (TEST, b"tests/test_toy.py::TestOld::helper", ["11 Tested-By"], "is no test"),
    "no class of tests": (TEST, b"tests/test_toy.py::Old::test_is_gone", ["11 Tested-By"], "does not start with Test"),
    "a fixture": (TEST, b"tests/test_toy.py::test_data", ["11 Tested-By"], "it is a fixture"),
    "always skipped": (TEST, b"tests/test_toy.py::test_later", ["11 Tested-By"], "is always skipped"),
    "empty test": (TEST, b"tests/test_toy.py::test_nothing", ["11 Tested-By"], "it cannot fail"),
    "not in tests": (TEST, b"overlay/test_x.py::test_x", ["11 Tested-By"], "FILE.py::test_function"),
    "a file": (TEST, b"tests/test_toy.py", ["11 Tested-By"], "FILE.py::test_function"),
    "outside": (TEST, b"../../etc/x.py::test_x", ["11 Tested-By"], "FILE.py::test_function"),
    "other file": (HOOKS, b"Hooks: minigpt4/base.py", ["8 Hooks", "8 Hooks"], "does not change minigpt4/base.py"),
    "named twice": (HOOKS, HOOKS + b", minigpt4/base_model.py", ["8 Hooks"], "named twice"),
    "odd name": (HOOKS, b"Hooks: minigpt4/base_model.py (the device)", ["8 Hooks"], "is no name"),
    "open bracket": (HOOKS, HOOKS[:-1], ["8 Hooks"], "cannot be read from here"),
    "comma": (HOOKS, HOOKS + b",", ["8 Hooks"], "ends with a comma"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages(clean: Toy, case: str) -> None:
    old, new, findings, words = MESSAGES[case]
    spoil(clean, f"patches/{FIRST}", old, new)
    facts = shallow(clean)
    expected = [f"patches/{FIRST}:{finding}" for finding in findings]
    assert [line for line in brief(facts) if "README" not in line] == expected
    assert words in " ".join(f"{found['what']} {found['fix']}" for found in facts["findings"])


def test_two_patches_with_one_subject(clean: Toy) -> None:
    spoil(clean, f"patches/{SECOND}", b"Drop what is old", b"Choose autocast by device")
    found = shallow(clean)["findings"]
    assert [(each["line"], each["rule"]) for each in found[:2]] == [(0, "name"), (4, "name")]
    assert FIRST in found[1]["what"]


LINES = [f"line {number}\n".encode() for number in range(1, 41)]
OLD = b"".join(LINES)


def changed(*edits: tuple[int, bytes], base: list[bytes] = LINES) -> bytes:
    lines = list(base)
    for number, text in edits:
        lines[number - 1] = text
    return b"".join(lines)


def made(folder: Path, old: bytes, new: bytes, *options: str, path: str = "f.txt") -> Patch:
    return parse_patch("patches/0001-S.patch", make_patch(folder, {path: old}, {path: new}, "S\n", *options))


def rules(patch: Patch) -> list[tuple[str, str]]:
    """Rule, and the line of the patch that is pointed at."""
    lines = patch.raw.decode().split("\n")
    return [(found.rule.value, lines[found.line - 1]) for found in check_changes(patch)]


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("f.py", b"a = 1\n", b"a = 2\n", []),
        ("f.py", b"a = 1\n", b"a = 2  \n", [("white space", "+a = 2  ")]),
        ("f.py", b"a = 1\n", b"a =  1\n", [("white space", "@@ -1 +1 @@")]),
        ("f.py", b"a = 1\nb = 1\n", b"a=1\nb = 2\n", [("white space", "+a=1")]),
        ("f.py", b"a = ' '\n", b"a = '  '\n", []),
        ("f.py", b"if a:\n    b\nc\n", b"if a:\n    b\n    c\n", []),
        ("f.txt", b"if a:\n    b\nc\n", b"if a:\n    b\n    c\n", [("white space", "@@ -1,3 +1,3 @@")]),
        ("f.py", b"a\nb\n", b"a\n\nb\n", [("white space", "@@ -1,2 +1,3 @@")]),
        ("f.py", b"a\nb", b"a\nb\n", [("white space", "@@ -1,2 +1,2 @@")]),
        ("f.py", b"a\nb", b"a\nb\nc\n", []),
        ("f.py", b"def f():\n\treturn 1\n", b"def f():\n        return 1\n", [("white space", "@@ -1,2 +1,2 @@")]),
        ("f.txt", b"not  x\n", b"notx\n", []),
    ],
)
def test_white_space(tmp_path: Path, path: str, old: bytes, new: bytes, expected: list[tuple[str, str]]) -> None:
    assert rules(made(tmp_path, old, new, path=path)) == expected


def test_a_pair_of_lines_is_looked_for_among_neighbours_only(tmp_path: Path) -> None:
    old = b"f(a,b)\nkeep\nx\n"
    assert rules(made(tmp_path, old, b"y\nkeep\nf(a, b)\n")) == []


@pytest.mark.parametrize(
    ("option", "words"),
    [("-U3", []), ("-U4", ["more than 3"]), ("-U2", ["fewer than 3"]), ("-U0", ["fewer than 3"])],
)
def test_context(tmp_path: Path, option: str, words: list[str]) -> None:
    patch = made(tmp_path, OLD, changed((20, b"twenty\n")), option)
    assert [found.what[: len(word)] for found, word in zip(check_changes(patch), words or ["x"])] == words


def test_context_between_changes(tmp_path: Path) -> None:
    edits = (10, b"ten\n"), (18, b"eighteen\n")
    assert rules(made(tmp_path, OLD, changed(*edits))) == []
    patch = made(tmp_path, OLD, changed(*edits), "--inter-hunk-context=9")
    assert [rule for rule, _ in rules(patch)] == ["context"]


def test_few_lines_at_the_ends_of_a_file(tmp_path: Path) -> None:
    for number, edits in enumerate([(1, b"one\n"), (2, b"two\n"), (40, b"forty\n")]):
        assert rules(made(tmp_path / str(number), OLD, changed(edits))) == []


def test_lines_that_are_removed_and_come_back(tmp_path: Path) -> None:
    """As `git format-patch --break-rewrites` or an editor leave them."""
    patch = made(tmp_path, OLD, changed((20, b"twenty\n")))
    raw = patch.raw.replace(b" line 21\n", b"-line 21\n").replace(b"+twenty\n", b"+twenty\n+line 21\n")
    found = [each for each in check_changes(parse_patch("patches/0001-x.patch", raw)) if each.rule.value != "context"]
    assert [(each.rule.value, each.what) for each in found] == [
        ("needless lines", "1 line is removed and added again, for example: line 21")
    ]


def test_a_moved_line_is_not_needless(tmp_path: Path) -> None:
    old = b"import a\nimport bcd\nimport e\n"
    assert rules(made(tmp_path, old, b"import a\nimport e\nimport bcd\n")) == []


def with_mode(patch: bytes, words: bytes = b"") -> Patch:
    raw = patch.replace(b"\nindex ", b"\nold mode 100644\nnew mode 100755\nindex ").replace(b" 100644\n---", b"\n---")
    return parse_patch("patches/0001-S.patch", raw.replace(b"\nDrop", words + b"\nDrop"))


def test_a_change_of_mode_must_be_named(tmp_path: Path) -> None:
    raw = make_patch(tmp_path, {"f": b"1\n"}, {"f": b"2\n"}, "S\n\nWhy.\n\nDrop-When: never\n")
    (found,) = check_changes(with_mode(raw))
    assert found.what == "f changes its mode from 100644 to 100755 without a word"
    assert not list(check_changes(with_mode(raw, b"\nUsers run it: 100644 -> 100755.\n")))


def test_each_patch_starts_from_what_the_one_before_left(tmp_path: Path) -> None:
    def patch(number: int, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Patch:
        raw = make_patch(tmp_path / str(number), old, new, f"S{number}\n")
        return parse_patch(f"patches/000{number}-S{number}.patch", raw)

    first = patch(1, {"f": b"1\n"}, {"f": b"2\n"})
    good = patch(2, {"f": b"2\n", "g": b""}, {"f": b"3\n", "g": b"g\n"})
    bad = patch(3, {"f": b"2\n"}, {"f": b"4\n"})
    gone = patch(4, {"f": b"4\n"}, {})
    again = patch(5, {}, {"f": b"5\n"})

    def found(*patches: Patch | None) -> list[Finding]:
        return list(check_chain(patches))

    assert found(first, good) == found(bad, gone, again) == []
    (finding,) = found(first, good, bad)
    assert "starts from blob 0cfbf08886fc, but 0002-S2.patch leaves blob 00750edc07d6" in finding.what
    assert finding.line == bad.files[0].line
    assert len(found(first, again)) == 1
    assert found(first, None, bad) == []  # what an unreadable patch leaves is not known


TEXT = st.lists(st.sampled_from([b"alpha", b"beta", b"gamma", b"delta", b"", b"}", b"other"]), max_size=40).map(
    lambda words: b"".join(word + b"\n" for word in words)
)
HEAD = b"From " + b"0" * 40 + b" Mon Sep 17 00:00:00 2001\nFrom: A <a@b.c>\nDate: Mon, 2 Sep 2024 10:00:00 +0800\n"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=TEXT, new=TEXT)
def test_git_writes_neither_odd_context_nor_needless_lines(tmp_path: Path, old: bytes, new: bytes) -> None:
    for side, data in (("a", old), ("b", new)):
        (tmp_path / side).mkdir(exist_ok=True)
        (tmp_path / side / "f").write_bytes(data)
    command = ["git", "diff", "--no-index", "--no-prefix", "--full-index", "a/f", "b/f"]
    diff = subprocess.run(command, cwd=tmp_path, env=CLEAN, capture_output=True).stdout
    if diff:
        patch = parse_patch("patches/0001-S.patch", HEAD + b"Subject: [PATCH] S\n\n---\n\n" + diff)
        assert not {found.rule.value for found in check_changes(patch)} & {"context", "needless lines"}
