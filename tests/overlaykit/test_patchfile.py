"""Patches are read as `git am` reads them, and what git would skip or could do harm is refused with its line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import unidiff
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patchmaker import CLEAN, git, make_patch, make_repo, write_tree

from overlaykit.errors import FixTheProjectFile
from overlaykit.gitrepo import NO_BLOB
from overlaykit.patchfile import FileChange, Patch, parse_patch, read_patch

OLD = {"pkg/a.py": b"".join(b"line %d\n" % n for n in range(1, 41)), "gone.txt": b"bye\n", "tail.txt": b"a\nb"}
NEW = {
    "pkg/a.py": OLD["pkg/a.py"].replace(b"line 5\n", b"line five\n").replace(b"line 30\n", b"line 30\nmore\n"),
    "new.txt": b"hello\n",
    "empty.txt": b"",
    "tail.txt": b"a\nb\nc",
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_patch(tmp_path_factory.mktemp("repo"), OLD, NEW)


def blob(data: bytes) -> str:
    return git(Path("/"), "hash-object", "--stdin", stdin=data).decode().strip()


def test_every_field_is_what_git_wrote(raw: bytes) -> None:
    patch = parse_patch("patches/0001-Change-a-line.patch", raw)
    assert (patch.name, patch.raw) == ("0001-Change-a-line.patch", raw)
    assert (patch.author_name, patch.author_email) == ("Ada Lovelace", "ada@example.org")
    assert patch.author_date == "Mon, 2 Sep 2024 10:00:00 +0800"
    assert patch.subject == "Change a line"
    assert patch.body == "Because it must.\n\nTested-By: tests/test_it.py"
    assert patch.trailers == {"Tested-By": ("tests/test_it.py",)}
    assert patch.diff == raw[raw.index(b"diff --git") :]
    by_path = {change.path: change for change in patch.files}
    assert list(by_path) == ["empty.txt", "gone.txt", "new.txt", "pkg/a.py", "tail.txt"]
    changed = by_path["pkg/a.py"]
    assert (changed.old_blob, changed.new_blob) == (blob(OLD["pkg/a.py"]), blob(NEW["pkg/a.py"]))
    assert (changed.old_mode, changed.new_mode) == ("100644", "100644")
    assert [(h.old_start, h.old_len, h.new_start, h.new_len) for h in changed.hunks] == [(2, 7, 2, 7), (28, 6, 28, 7)]
    assert changed.hunks[0].lines[3:5] == ("-line 5\n", "+line five\n")
    assert raw.split(b"\n")[changed.hunks[1].line - 1].decode() == changed.hunks[1].header
    assert (by_path["new.txt"].old_path, by_path["new.txt"].old_blob, by_path["new.txt"].old_mode) == (
        None,
        NO_BLOB,
        None,
    )
    assert (by_path["gone.txt"].new_path, by_path["gone.txt"].new_mode) == (None, None)
    assert by_path["empty.txt"].hunks == ()
    assert by_path["tail.txt"].hunks[0].new_lines == ("a\n", "b\n", "c")  # no newline at the end of the file


def test_a_changed_mode_is_read(tmp_path: Path) -> None:
    make_repo(tmp_path, {"run.sh": b"echo\n"})
    (tmp_path / "run.sh").write_bytes(b"echo 1\n")
    (tmp_path / "run.sh").chmod(0o755)
    git(tmp_path, "commit", "-qam", "Make it run")
    patch = parse_patch("p", git(tmp_path, "format-patch", "--stdout", "--full-index", "-1"))
    assert (patch.files[0].old_mode, patch.files[0].new_mode) == ("100644", "100755")


MESSAGES = [
    "Short",
    "A subject that is so long that git format-patch must fold it, since mail headers are short, in two lines\n\nBody",
    "图像编码器 for 中文 subjects\n\n正文。\n\nSigned-off-by: Zoë <zoe@example.org>\n",
    "[fix] keep, or drop, the bracket\n\ntext\n",
    "Re: odd\n\n\n\nMany blank lines   \n\n\n  indented\n# not a comment\n",
    "Quote code\n\n    def f():\n        pass\n----\n-- \n---x\n\nHooks: a.py\n  and more\nHooks: b.py\n",
]


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("author", ["Ada Lovelace", "Zoë Müller", "张三", 'A. "Q" B, Jr.'])
def test_the_message_and_author_are_those_of_git_am(tmp_path: Path, message: str, author: str) -> None:
    raw = make_patch(tmp_path / "a", OLD, NEW, message, GIT_AUTHOR_NAME=author)
    there = make_repo(tmp_path / "b", OLD)
    git(there, "am", "-q", stdin=raw)
    patch = parse_patch("p", raw)
    assert patch.message == git(there, "log", "-1", "--format=%B").decode()[:-1]
    wrote = git(there, "log", "-1", "--format=%an%n%ae%n%aD").decode().splitlines()
    assert [patch.author_name, patch.author_email, patch.author_date] == wrote
    assert patch.message == "\n\n".join(filter(None, (patch.subject, patch.body))) + "\n"


def test_trailers_repeat_and_continue() -> None:
    body = b"Why.\n\nHooks: a.py\n  and more\nHooks: b.py\n\tand c.py\nUpstream: not-forwarded: Ascend only\n"
    patch = parse_patch("p", minimal(body=body))
    assert patch.trailers == {
        "Hooks": ("a.py and more", "b.py and c.py"),
        "Upstream": ("not-forwarded: Ascend only",),
    }
    assert parse_patch("p", minimal(body=b"Note: this is prose\nthat goes on.\n")).trailers == {}


HUNK = b"@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"


def minimal(body: bytes = b"Why.\n", header: bytes = b"", diff: bytes | None = None, hunk: bytes = HUNK) -> bytes:
    old, new = blob(b"one\ntwo\nthree\n").encode(), blob(b"one\n2\nthree\n").encode()
    head = b"From " + b"0" * 40 + b" Mon Sep 17 00:00:00 2001\nFrom: A <a@b.c>\nDate: Mon, 2 Sep 2024 10:00:00 +0800\n"
    if diff is None:
        diff = b"diff --git a/f b/f\nindex %s..%s 100644\n--- a/f\n+++ b/f\n" % (old, new) + hunk
    return head + b"Subject: [PATCH] S\n" + header + b"\n" + body + b"---\n f | 2 +-\n\n" + diff


def change(**fields: bytes) -> bytes:
    """A diff of one file with some header fields exchanged."""
    values = {
        "paths": b"a/f b/f",
        "extra": b"",
        "index": b"1" * 40 + b".." + b"2" * 40 + b" 100644",
        "source": b"a/f",
        "target": b"b/f",
        **fields,
    }
    text = b"diff --git %(paths)s\n%(extra)sindex %(index)s\n--- %(source)s\n+++ %(target)s\n"
    return text % {name.encode(): value for name, value in values.items()} + HUNK


def both(path: bytes) -> bytes:
    return change(paths=b"a/%s b/%s" % (path, path), source=b"a/" + path, target=b"b/" + path)


def test_the_minimal_patch_is_good() -> None:
    assert [h.old_lines for h in parse_patch("p", minimal()).files[0].hunks] == [("one\n", "two\n", "three\n")]
    assert parse_patch("p", minimal(diff=change())).files[0].path == "f"
    assert parse_patch("p", minimal() + b"-- \n2.39.5\n\n").files == parse_patch("p", minimal()).files


IDS = b"1" * 40 + b".." + b"2" * 40
CREATED = b"0" * 40 + b".." + b"2" * 40
LINK = b"new file mode 120000\n"
ADDED = b"new file mode 100644\n"
TO_LINK = b"old mode 100644\nnew mode 120000\n"
GIT_BINARY, BINARY = b"GIT binary patch\nliteral 3\n", b"Binary files a/f and b/f differ\n"
REFUSED = {
    "no mail header": (change(), 1, "no mail header"),
    "no from": (minimal().replace(b"From: A", b"X-From: A"), 1, "no 'From:'"),
    "no address": (minimal().replace(b"A <a@b.c>", b"A"), 2, "Name <address>"),
    "no date": (minimal().replace(b"Mon, 2 Sep 2024 10:00:00 +0800", b"yesterday"), 3, "time zone"),
    "empty subject": (minimal().replace(b"[PATCH] S", b"[PATCH]"), 4, "subject is empty"),
    "header twice": (minimal(header=b"Subject: other\n"), 5, "appears twice"),
    "base64": (minimal(header=b"Content-Transfer-Encoding: base64\n"), 1, "plain UTF-8"),
    "latin-1": (minimal(header=b"Content-Type: text/plain; charset=latin1\n"), 1, "plain UTF-8"),
    "message not UTF-8": (minimal(body=b"caf\xe9\n"), 6, "not UTF-8"),
    "in-body header": (minimal(body=b"From: B <b@b.c>\n\nWhy.\n"), 6, "mail header"),
    "two mails": (minimal(body=b"x\nFrom " + b"1" * 40 + b" Mon Sep 17\n"), 7, "second mail"),
    "two mails for git": (minimal(body=b"x\nFrom me Mon Sep 17 00:00:00 2001\n"), 7, "second mail"),
    "two mails, stat": (minimal(diff=b"From me Mon Sep 17 00:00:00 2001\n" + change()), 10, "second mail"),
    "CRLF": (minimal().replace(b"\n", b"\r\n"), 1, "carriage return"),
    "NUL": (minimal(hunk=HUNK.replace(b"+2", b"+\0")), 17, "NUL"),
    "no diff": (minimal(diff=b""), 10, "no diff"),
    "old-style diff": (minimal(diff=b"--- a/f\n+++ b/f\n" + HUNK), 10, "no 'diff --git' precedes"),
    "old-style diff before": (minimal(diff=b"--- a/g\n+++ b/g\n" + HUNK + change()), 10, "no 'diff --git' precedes"),
    "old-style diff after": (minimal(diff=change() + b"--- a/g\n+++ b/g\n" + HUNK), 19, "belongs to no hunk"),
    "old-style diff in the message": (minimal(body=b"--- a/g\n+++ b/g\n" + HUNK), 6, "no 'diff --git' precedes"),
    "abbreviated ids": (minimal(diff=change(index=b"1234567..89abcde 100644")), 10, "full blob ids"),
    "no index": (minimal(diff=re.sub(rb"index.*\n", b"", change())), 10, "full blob ids"),
    "symlink": (minimal(diff=change(extra=LINK, index=CREATED, source=b"/dev/null")), 10, "symlink"),
    "submodule": (minimal(diff=change(index=IDS + b" 160000")), 10, "submodule"),
    "odd mode": (minimal(diff=change(index=IDS + b" 100666")), 10, "100666"),
    "typechange": (minimal(diff=change(extra=TO_LINK, index=IDS)), 10, "symlink"),
    "binary": (minimal(diff=re.sub(rb"---(.|\n)*", GIT_BINARY, change())), 12, "binary change"),
    "binary files": (minimal(diff=re.sub(rb"---(.|\n)*", BINARY, change())), 12, "binary change"),
    "rename": (minimal(diff=b"diff --git a/f b/g\nsimilarity index 100%\nrename from f\nrename to g\n"), 11, "rename"),
    "rename with ids": (minimal(diff=change(paths=b"a/f b/g", target=b"b/g")), 10, "rename"),
    "absolute": (minimal(diff=both(b"/etc/passwd")), 10, "dangerous path"),
    "parent": (minimal(diff=both(b"x/../../f")), 10, "dangerous path"),
    "git folder": (minimal(diff=both(b"x/.GIT/config")), 10, "dangerous path"),
    "git folder, windows": (minimal(diff=both(b"git~1/config")), 10, "dangerous path"),
    "backslash": (minimal(diff=both(b"..\\f")), 10, "dangerous path"),
    "quoted": (minimal(diff=re.sub(rb"([ab])/f", rb'"\1/\\303"', change())), 10, "not supported"),
    "other target": (minimal(diff=change(target=b"b/g")), 10, "without source"),
    "other source": (minimal(diff=change(source=b"a/g")), 10, "name something else"),
    "no prefix": (minimal(diff=change(paths=b"f f", source=b"f", target=b"f")), 10, "noprefix"),
    "new, with an old blob": (minimal(diff=change(extra=ADDED, source=b"/dev/null")), 10, "disagree"),
    "changed, without an old blob": (minimal(diff=change(index=CREATED + b" 100644")), 10, "disagree"),
    "no hunk": (minimal(hunk=b""), 10, "and a hunk"),
    "no source": (minimal(diff=re.sub(rb"--- .*\n", b"", change())), 10, "it needs '---'"),
    "no target": (minimal(diff=re.sub(rb"\+\+\+ .*\n", b"", change())), 10, "it needs '---'"),
    "nothing changes": (minimal(hunk=HUNK + b"@@ -9 +9 @@\n x\n"), 19, "changes nothing"),
    "other words without a newline": (minimal(hunk=HUNK + b"\\No newline at end of file\n"), 19, "must start with"),
    "git folder, stream": (minimal(diff=both(b".git::$INDEX_ALLOCATION/config")), 10, "dangerous path"),
    "surplus line": (minimal(hunk=HUNK + b"+four\n"), 19, "belongs to no hunk"),
    "surplus removal": (minimal(hunk=HUNK + b"-four\n"), 19, "belongs to no hunk"),
    "surplus context": (minimal(hunk=HUNK + b" four\n"), 19, "belongs to no hunk"),
    "surplus between hunks": (minimal(hunk=HUNK + b"+four\n@@ -9 +9 @@\n-a\n+b\n"), 14, "counts"),
    "surplus between files": (minimal() + b" four\n" + both(b"g"), 19, "belongs to no hunk"),
    "a line missing": (minimal(hunk=HUNK.replace(b" three\n", b"")), 14, "counts"),
    "a line missing, next file": (minimal(hunk=HUNK.replace(b" three\n", b"")) + both(b"g"), 14, "counts"),
    "too long": (minimal(hunk=b"@@ -1,1 +1,3 @@\n one\n two\n+3\n"), 14, "counts"),
    "stripped context": (minimal(hunk=HUNK.replace(b" one", b"")), 15, "must start with"),
    "cut": (minimal()[:-1], 18, "must start with"),
    "odd hunk header": (minimal(hunk=b"@@ what @@\n" + HUNK), 14, "belongs to no hunk"),
    "garbage": (minimal() + b"And thanks for the fish.\n", 19, "belongs to no hunk"),
    "behind the signature": (minimal() + b"-- \n2.39\n" + change(), 19, "appears twice|no hunk"),
    "file twice": (minimal() + change(), 19, "appears twice"),
    "wrong new start": (minimal(hunk=HUNK.replace(b"+1,3", b"+2,3")), 14, "expected to start"),
    "overlap": (minimal(hunk=HUNK + b"@@ -2 +2 @@\n-two\n+2\n"), 19, "expected to start"),
    "empty hunk": (minimal(hunk=b"@@ -0,0 +0,0 @@\n"), 14, "shorter|belongs"),
    "unprintable path": (minimal(diff=both(b"f\x7f")), 10, "unprintable"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_file_and_line(case: str) -> None:
    data, line, words = REFUSED[case]
    with pytest.raises(FixTheProjectFile, match=words) as caught:
        parse_patch("patches/0001-x.patch", data)
    assert caught.value.what.startswith(f"patches/0001-x.patch:{line}: "), caught.value.what


def test_surplus_lines_really_are_a_trap(tmp_path: Path) -> None:
    """If git or unidiff ever refuse them by themselves, this says that our own count may go."""
    repo = make_repo(tmp_path, {"f": b"one\ntwo\nthree\n"})
    bad = minimal(hunk=HUNK + b"+four\n")
    git(repo, "apply", "--check", "-", stdin=bad)
    assert len(unidiff.PatchSet(bad.decode())[0][0]) == 4


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FixTheProjectFile, match=r"0001-x\.patch: cannot be read: No such file"):
        read_patch(tmp_path / "0001-x.patch")


def apply_by_hand(old: bytes | None, file: FileChange) -> bytes:
    """What the hunks, as we read them, make of a file."""
    before = re.findall(r"[^\n]*\n|[^\n]+", (old or b"").decode("utf-8", "surrogateescape"))
    after: list[str] = []
    done = 0
    for hunk in file.hunks:
        start = hunk.old_start - (hunk.old_len > 0)
        assert tuple(before[start : start + hunk.old_len]) == hunk.old_lines
        after += [*before[done:start], *hunk.new_lines]
        done = start + hunk.old_len
    return "".join([*after, *before[done:]]).encode("utf-8", "surrogateescape")


TEXT = st.lists(
    st.sampled_from([b"", b"a", b"b", b"-- ", b"--- a/x", b"+++ b/x", b"@@ -1 +1 @@", b"diff --git a/x b/x", b"\x0c",
                     "\u2028é".encode(), b"\xff", b"\\ No newline", b"From " + b"0" * 40 + b" Mon", b"---", b"+x"]),
    max_size=12,
).flatmap(lambda lines: st.sampled_from([b"\n".join(lines), b"".join(line + b"\n" for line in lines)]))  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=TEXT, new=TEXT, context=st.integers(1, 4))
def test_what_git_exports_is_read_completely(
    tmp_path_factory: pytest.TempPathFactory, old: bytes, new: bytes, context: int
) -> None:
    """Also for files whose lines look like parts of a patch."""
    files = [{"f": old, "g": b"g\n"}, {"f": new}]
    raw = make_patch(tmp_path_factory.mktemp("repo"), files[0], files[1], "S\n", f"-U{context}")
    patch = parse_patch("p", raw)
    assert {file.path for file in patch.files} == {"g"} | ({"f"} if old != new else set())
    for file in patch.files:
        if file.path == "f":
            assert apply_by_hand(old, file) == new
            assert (file.old_blob, file.new_blob) == (blob(old), blob(new))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_patch_is_refused_or_means_what_git_makes_of_it(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, data: st.DataObject
) -> None:
    """Drop, repeat, swap or edit lines at will: whatever we still accept, git must read the same way."""
    lines = raw.split(b"\n")
    first = lines.index(b"---")
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(first, len(lines) - 1))
        other = data.draw(st.sampled_from([*lines[first:], b"+x", b"-line 6", b" line 7", b"", b"@@ -1 +1 @@"]))
        lines[at : at + data.draw(st.integers(0, 1))] = data.draw(st.sampled_from([[], [other], [other, lines[at]]]))
    damaged = b"\n".join(lines)
    try:
        patch = parse_patch("p", damaged)
    except FixTheProjectFile:
        return
    check_against_git(tmp_path_factory, damaged, patch)


def check_against_git(factory: pytest.TempPathFactory, raw: bytes, patch: Patch) -> None:
    repo = make_repo(factory.mktemp("repo"), OLD)
    done = subprocess.run(["git", "-C", str(repo), "apply", "--cached", "-"], input=raw, capture_output=True, env=CLEAN)
    if done.returncode:
        return
    changed = {}
    for file in patch.files:
        if file.new_path is not None:
            changed[file.path] = apply_by_hand(OLD.get(file.path), file)
    expected = {path: text for path, text in OLD.items() if path not in {file.path for file in patch.files}}
    by_git = git(repo, "write-tree")
    write_tree(repo, {**expected, **changed})
    assert by_git == git(repo, "write-tree")
