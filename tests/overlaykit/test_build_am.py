"""What `git am` makes of a patch is what the build makes of it; what git refuses, the build refuses too."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patchmaker import CLEAN, EXPORT, git, make_patch, make_repo, write_tree

from overlaykit.build import build
from overlaykit.configs import load_rules
from overlaykit.errors import OverlayError
from overlaykit.gitrepo import Repo
from overlaykit.patchfile import parse_patch

FORMAT = "--format=%T%x00%an%x00%ae%x00%ad%x00%B"
NUMBERS = count()
SLOW = pytest.param(600, marks=[pytest.mark.slow, pytest.mark.timeout(900)])


def made(repo: Path, base: str, patches: Sequence[bytes], scratch: Path) -> str | None:
    """The last commit that the build makes; None where it refuses a patch."""
    rules = scratch / "paths.yaml"
    rules.write_text("variables: {}\nrules: {}\n")
    folder = scratch / str(next(NUMBERS))
    folder.mkdir()
    try:
        series = tuple(parse_patch(f"{number:04}-x.patch", raw) for number, raw in enumerate(patches, 1))
        built = build(Repo(repo / ".git", repo), base, series, {}, load_rules(rules), {}, folder)
    except OverlayError:
        return None
    return built.patches[-1].id


def same_as_git_am(repo: Path, base: str, patches: Sequence[bytes], scratch: Path) -> bool:
    """False where the build refuses; otherwise `git am` must accept too, and commit the very same."""
    ours = made(repo, base, patches, scratch)
    if ours is None:
        return False
    git(repo, "checkout", "-qf", "--detach", base)
    git(repo, "clean", "-fdxq")
    files = [scratch / f"{number:04}.patch" for number in range(len(patches))]
    for file, raw in zip(files, patches):
        file.write_bytes(raw)
    done = subprocess.run(["git", "-C", str(repo), "am", "-q", *map(str, files)], capture_output=True, env=CLEAN)
    if done.returncode:
        subprocess.run(["git", "-C", str(repo), "am", "--abort"], capture_output=True, env=CLEAN)
        raise AssertionError(f"git refuses what the build accepts: {done.stderr!r}")
    log = [git(repo, "log", "--date=raw", FORMAT, f"{base}..{end}") for end in (ours, "HEAD")]
    assert log[0] == log[1]
    return True


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repo(tmp_path_factory.mktemp("am") / "repo", {"f": b"f\n"})


LINES = st.sampled_from(
    [
        b"a",
        b"b",
        b"c",
        b"",
        b"  x",
        b"\xff",
        "é\u3000".encode(),
        b"-- ",
        b"--- a",
        b"@@ -1 +1 @@",
        b"\\ No newline",
        b"\x0c",
    ]
)
DATA = st.tuples(st.lists(LINES.map(lambda line: line + b"\n"), max_size=14), st.sampled_from([b"", b"", b"end", b" "]))
NAMES = st.sampled_from(["a", "a-b", "a.b", "b", "d e", "-x", "#"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TREES = st.dictionaries(PATHS, st.tuples(DATA, st.booleans()), min_size=1, max_size=6)
AUTHORS = st.text("abAB .,'()é你\u3000\u00a0-:;=?_[]/\\\"", max_size=60).map(lambda name: f"A{name}")
WORDS = st.text("abc [](): -#'\"é你\u3000\u00a0\x0c\x0b\x1c\u2028=?_<>\t/.", max_size=80)
PARAGRAPHS = st.one_of(
    WORDS, WORDS, WORDS, st.sampled_from(["---\x0c", "---\u00a0", "From x 1:22:33 2001", "Re: x", "-- "])
)
ZONES = st.sampled_from(["+0000", "-0330", "+0845", "+1400", "-1200", "-0030"])
COMMITS = st.tuples(TREES, AUTHORS, ZONES, WORDS, st.lists(PARAGRAPHS, max_size=3), st.booleans())


def put(repo: Path, tree: Mapping[str, tuple[tuple[list[bytes], bytes], bool]]) -> None:
    """Files that would have to be folders are left out."""
    clear = {path: file for path, file in tree.items() if not any(other.startswith(f"{path}/") for other in tree)}
    write_tree(repo, {path: b"".join(lines) + end for path, ((lines, end), _) in clear.items()})
    for path, (_, executable) in clear.items():
        if executable:
            git(repo, "update-index", "--chmod=+x", "--", path)


@pytest.mark.parametrize("examples", [25, SLOW], ids=["some", "many"])
def test_random_commits(repo: Path, tmp_path: Path, examples: int) -> None:
    compared = 0

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(base=TREES, commits=st.lists(COMMITS, min_size=1, max_size=3))
    def check(base: dict, commits: list) -> None:
        nonlocal compared
        git(repo, "checkout", "-q", "--orphan", f"base-{next(NUMBERS)}")
        put(repo, base)
        git(repo, "commit", "-q", "-m", "base")
        start, before, patches = git(repo, "rev-parse", "HEAD").decode().strip(), base, []
        for tree, author, zone, subject, paragraphs, edits in commits:
            before = {**before, **tree} if edits else tree
            put(repo, before)
            message = f"S{subject}\n\n" + "\n\n".join(paragraphs) + "\n"
            who = {"GIT_AUTHOR_NAME": author, "GIT_AUTHOR_DATE": f"1700000000 {zone}"}
            git(repo, "commit", "-q", "--allow-empty", "--cleanup=verbatim", "-F", "-", stdin=message.encode(), **who)
            if git(repo, "diff", "--name-only", "HEAD~", "HEAD"):
                patches.append(git(repo, *EXPORT))
        if patches:
            compared += same_as_git_am(repo, start, patches, tmp_path)

    check()
    assert compared > examples // 4, "a test that compares nothing is none"


OLD = {"f": b"".join(b"l%d\n" % (line % 4) for line in range(14)), "g/h": b"x\ny", "e": b"", "run.sh": b"#!\n"}
NEW = {"f": OLD["f"].replace(b"l3\n", b"Z\n"), "g/h": b"x\nz\n", "n/e": b"", "n/m": b"q", "run.sh": b"#!\n2\n"}
ODD = [
    *(
        b" ",
        b"",
        b"---",
        b"--- a/f",
        b"+++ b/f",
        b"@@ -1,2 +1,2 @@",
        b"old mode 100644",
        b"new mode 100755",
        b"-- ",
        b" l1",
    ),
    *(
        b"\\ No newline at end of file",
        b"similarity index 100%",
        b"diff --git a/f b/f",
        b"MIME-Version: 1.0",
        b"\tfolded",
    ),
    *(b"Content-Transfer-Encoding: quoted-printable", b"From me 1:22:33 2001", b"X-A: b", b"=?UTF-8?q?x?="),
]


@pytest.mark.parametrize("examples", [40, SLOW], ids=["some", "many"])
def test_edited_patches(tmp_path: Path, examples: int) -> None:
    """Lines dropped, repeated, exchanged, changed, and hunks with less context: git must read them as we do."""
    repo = tmp_path / "repo"
    lines = make_patch(repo, OLD, NEW, "Ändere was\n\nBecause (it) must.\n", GIT_AUTHOR_NAME="Ünï O'Code").split(b"\n")
    base = git(repo, "rev-parse", "HEAD~").decode().strip()
    assert same_as_git_am(repo, base, [b"\n".join(lines)], tmp_path)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        edited = list(lines)
        for _ in range(data.draw(st.integers(1, 2))):
            at = data.draw(st.integers(1, len(edited) - 1))
            kind = data.draw(st.sampled_from(["replace", "letter", "number"]))
            if kind == "replace":
                other = data.draw(st.sampled_from([*edited, *ODD]))
                edited[at : at + data.draw(st.integers(0, 1))] = data.draw(st.sampled_from([[], [other]]))
            elif kind == "letter":
                place = data.draw(st.integers(0, len(edited[at])))
                letter = data.draw(st.sampled_from([b"", *(bytes([byte]) for byte in b' 01a/:-\xff\t("=.<\x0c')]))
                edited[at] = edited[at][:place] + letter + edited[at][place + data.draw(st.integers(0, 1)) :]
            else:
                edited[at] = re.sub(rb"\d+", lambda number: b"%d" % (int(number[0]) + 1), edited[at], count=1)
        same_as_git_am(repo, base, [b"\n".join(edited)], tmp_path)

    check()


TEN = b"".join(b"l%d\n" % line for line in range(10))
EDITED = TEN.replace(b"l5\n", b"X\n")
LESS_CONTEXT = {
    "none": (0, [(b"", b"")]),
    "one line": (1, [(b"", b"")]),
    "none behind": (3, [(b" l6\n l7\n l8\n", b""), (b"-3,7 +3,7", b"-3,4 +3,4")]),
    "none before": (3, [(b" l2\n l3\n l4\n", b""), (b"-3,7 +3,7", b"-6,4 +6,4")]),
}


@pytest.mark.parametrize("case", LESS_CONTEXT)
def test_less_context(tmp_path: Path, case: str) -> None:
    """`git am` takes a hunk that ends without context for the end of the file."""
    context, edits = LESS_CONTEXT[case]
    raw = make_patch(tmp_path / "repo", {"f": TEN}, {"f": EDITED}, "S\n", f"-U{context}")
    for old, new in edits:
        raw = raw.replace(old, new) if old else raw
    done = same_as_git_am(
        tmp_path / "repo", git(tmp_path / "repo", "rev-parse", "HEAD~").decode().strip(), [raw], tmp_path
    )
    assert done == (case in ("one line", "none before"))


HEADERS = {
    "Date": [
        *("2 Sep 2024 10:00:00 +0800", "Mon, 2 Sep 2024 10:00:00 +0175", "Mon, 2 Sep 2024 10:00:00 +08"),
        *("Mon, 2 Sep 24 10:00:00 +0800", "Thu, 1 Jan 1970 00:30:00 +0800", "Mon, 2 Sep 2300 10:00:00 +0800"),
    ],
    "From": [
        *("... <a@b.c>", "=?UTF-8?q?A=0AB?= <a@b.c>", "=?UTF-8?q?A=00B?= <a@b.c>", "A <\udcff@b>", "A <a@b> (x)"),
        *("A <a@b>, B <c@d>", "A < a@b >", "A <a b@c>", f"{'x' * 61} <a@b>", "=?UTF-8?q?a_=3Cb=3E?= <a@b>"),
        *("=?UTF-8?q?=E9=22x?= <a@b>", "=?UTF-8?q?A(=E3=80=80?= <a@b>", "x: A <a@b>;", "AAA <=?UTF-8?q?A?=@b>"),
        *("=?iso-8859-1?q?=E9?=zzz <a@b>", "(x) A <a@b>", '"(b)" <a@b>'),
    ],
    "Subject": ["[PATCH] =?UTF-8?q?a=00b?=", "=?iso-8859-1?q?=E9?=zzz"],
}


@pytest.mark.parametrize(("header", "value"), [(key, value) for key, values in HEADERS.items() for value in values])
def test_headers_that_git_reads_in_its_own_way_are_refused(header: str, value: str, minimal_mail: bytes) -> None:
    line = f"{header}: {value}".encode("utf-8", "surrogateescape")
    changed = re.sub(rb"(?m)^%s: .*" % header.encode(), lambda _: line, minimal_mail, count=1)
    with pytest.raises(OverlayError):
        parse_patch("0001-x.patch", changed)


@pytest.fixture(scope="module")
def minimal_mail(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_patch(tmp_path_factory.mktemp("mail") / "repo", {"f": b"1\n"}, {"f": b"2\n"})


def new_file(path: str) -> bytes:
    blob = git(Path(), "hash-object", "--stdin", stdin=b"x\n").decode().strip()
    head = f"diff --git a/{path} b/{path}\nnew file mode 100644\nindex {'0' * 40}..{blob}\n"
    return f"{head}--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n".encode()


@pytest.mark.parametrize("paths", [("n", "n/x"), ("n/x", "n"), ("f/x",), ("d",), (".git:x",), ("a/.git::$DATA",)])
def test_new_files_that_cannot_be(tmp_path: Path, paths: tuple[str, ...]) -> None:
    repo = tmp_path / "repo"
    raw = make_patch(repo, {"f": b"1\n", "d/x": b"1\n"}, {"f": b"2\n", "d/x": b"1\n"})
    raw = raw.replace(b"-- \n", b"".join(map(new_file, paths)) + b"-- \n")
    assert made(repo, git(repo, "rev-parse", "HEAD~").decode().strip(), [raw], tmp_path) is None
