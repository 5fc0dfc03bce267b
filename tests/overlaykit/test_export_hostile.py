"""No git setting of the user or of the workspace changes what export writes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_export import MODEL, PATCHED, TRAILERS, commit
from toys import CLEAN, Toy, copy_toy

from overlaykit.project import read_project

SETTINGS = {
    "diff": """
[diff]
noprefix = true
mnemonicPrefix = true
context = 9
interHunkContext = 40
suppressBlankEmpty = true
algorithm = patience
renames = copies
renameLimit = 1
orderFile = {order}
external = touch {trap}
indentHeuristic = false
statGraphWidth = 3
statNameWidth = 7
relative = true
colorMoved = zebra
wsErrorHighlight = all
submodule = log
srcPrefix = old/
dstPrefix = new/
ignoreSubmodules = all
wordRegex = .
[diff "other"]
textconv = touch {trap}
command = touch {trap}
xfuncname = "^x"
binary = true
""",
    "format": """
[format]
subjectPrefix = MINE
signOff = true
attach = true
useAutoBase = true
to = to@example.org
cc = cc@example.org
headers = "X-Mine: yes\\n"
thread = deep
notes = true
numbered = true
coverLetter = true
signature = mine
from = Other <other@example.org>
forceInBodyFrom = true
encodeEmailHeaders = false
pretty = oneline
suffix = .txt
outputDirectory = {trap}
filenameMaxLength = 9
noprefix = true
mboxrd = true
[notes]
displayRef = refs/notes/*
""",
    "core": """
[core]
autocrlf = true
eol = crlf
safecrlf = true
quotePath = true
hooksPath = {hooks}
attributesFile = {attributes}
abbrev = 5
whitespace = -trailing-space,cr-at-eol,tab-in-indent
commentChar = B
pager = touch {trap}
editor = touch {trap}
excludesFile = {order}
fsmonitor = {hooks}/post-checkout
sshCommand = touch {trap}
untrackedCache = true
bigFileThreshold = 1
ignoreCase = false
[apply]
whitespace = fix
ignoreWhitespace = change
[sequence]
editor = touch {trap}
""",
    "commit, merge, i18n, color, log": """
[commit]
gpgSign = true
template = {order}
cleanup = strip
status = false
[gpg]
program = {hooks}/post-checkout
[tag]
gpgSign = true
[merge]
conflictStyle = zdiff3
ff = false
renames = false
[i18n]
commitEncoding = ISO-8859-1
logOutputEncoding = ISO-8859-1
[color]
ui = always
diff = always
[log]
date = relative
showSignature = true
decorate = full
follow = true
mailmap = true
diffMerges = on
showRoot = false
[mailmap]
file = {mailmap}
[rebase]
autoSquash = true
[trailer]
ifexists = replace
[user]
useConfigOnly = true
[init]
defaultObjectFormat = sha256
templateDir = {hooks}
[extensions]
[gc]
auto = 1
[maintenance]
auto = true
""",
    "aliases": "[alias]\n"
    + "\n".join(
        f'{verb} = "!touch {{trap}}"'
        for verb in ("format-patch", "log", "rev-list", "merge-file", "apply", "checkout", "read-tree", "status")
    ),
    "attributes": '[core]\nattributesFile = {attributes}\n[diff "other"]\ntextconv = touch {trap}\n',
}


@pytest.fixture(scope="module")
def prepared(applied_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy with commits of every kind to export."""
    toy = copy_toy(applied_master, tmp_path_factory.mktemp("prepared") / "toy")
    text = b"def f():\n    return 1\n\n\ndef g():\n    return 2\n"
    commit(toy, "fixup! Choose autocast by device", {MODEL: PATCHED + b"\n\n" + text})
    commit(toy, f"Größer\n\nBecause ä is not ASCII.\n\n{TRAILERS}", {"demo.py": b"print('\xc3\xa4')\n\n\n" + text})
    commit(toy, "Port", {"tool.py": b"T = 1\r\n"})
    return toy.folder


@pytest.fixture(scope="module")
def expected(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    toy = copy_toy(prepared, tmp_path_factory.mktemp("expected") / "toy")
    toy.apply("export")
    return contents(toy)


def contents(toy: Toy) -> dict[str, bytes]:
    folders = (toy.project / "overlay", toy.project / "patches")
    return {
        str(path.relative_to(toy.project)): path.read_bytes()
        for f in folders
        for path in f.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def bait(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Files that hostile settings name; afterwards none of their commands has run."""
    trap = tmp_path / "trap"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-commit", "commit-msg"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {trap}\n")
        (hooks / name).chmod(0o755)
    (tmp_path / "order").write_text("*.py\nzzz\n*\n")
    (tmp_path / "attributes").write_text(
        "* -diff eol=crlf\n*.py diff=other filter=other working-tree-encoding=UTF-16\n"
    )
    (tmp_path / "mailmap").write_text("Someone Else <else@example.org> <ada@example.org>\n")
    yield {name: str(tmp_path / name) for name in ("trap", "hooks", "order", "attributes", "mailmap")}
    assert not trap.exists(), "a command of the settings was run"


@pytest.mark.parametrize("where", ["of the user", "of the workspace"])
@pytest.mark.parametrize("group", SETTINGS)
def test_settings_do_not_change_what_is_exported(
    prepared: Path, expected: dict[str, bytes], bait: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, group: str, where: str,
) -> None:  # fmt: skip
    toy = copy_toy(prepared, tmp_path / "toy")
    text = SETTINGS[group].format(**bait)
    config = toy.workspace / ".git" / "config"
    if where == "of the user":
        config = tmp_path / "home" / ".gitconfig"
        config.parent.mkdir()
        monkeypatch.setenv("HOME", str(config.parent))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        for name, value in (
            ("GIT_EXTERNAL_DIFF", f"touch {bait['trap']}"),
            ("GIT_DIFF_OPTS", "-U9"),
            ("GIT_PAGER", "x"),
        ):
            monkeypatch.setenv(name, value)
    else:
        (toy.workspace / ".git" / "info").mkdir(exist_ok=True)
        shutil.copy(bait["attributes"], toy.workspace / ".git" / "info" / "attributes")
    with config.open("a") as file:
        file.write(text)
    done = toy.run("export")
    assert done.code == 0, done.err
    assert contents(toy) == expected
    assert "Nothing to export" in toy.apply("export").out


@pytest.mark.parametrize("group", ["diff", "format", "attributes"])
def test_the_settings_are_alive(prepared: Path, tmp_path: Path, group: str) -> None:
    """Otherwise the tests here would show nothing: plain git obeys them."""
    workspace, config = prepared / "MiniGPT-4", tmp_path / "config"
    command = ["git", "-C", str(workspace), "format-patch", "-1", "--full-index", "HEAD~1"]
    plain = subprocess.run([*command, "--stdout"], env=CLEAN, capture_output=True).stdout
    bait = dict.fromkeys(("trap", "hooks", "order", "mailmap"), str(tmp_path / "trap"))
    (tmp_path / "attributes").write_text("* -diff\n")
    config.write_text(SETTINGS[group].format(**bait, attributes=tmp_path / "attributes"))
    obeyed = subprocess.run(command, env={**CLEAN, "GIT_CONFIG_GLOBAL": str(config)}, capture_output=True)
    written = "".join(path.read_text() for path in tmp_path.rglob("*.txt"))
    assert plain
    assert (obeyed.stdout + written.encode()) != plain


def test_a_message_in_another_encoding(applied: Toy) -> None:
    applied.write("demo.py", b"print('hello')\n")
    applied.git("add", "demo.py")
    command = ["git", "-C", str(applied.workspace), "-c", "i18n.commitEncoding=ISO-8859-1", "commit", "-q", "-F", "-"]
    subprocess.run(command, input="Größer\n\nWie gewünscht.\n".encode("latin-1"), env=CLEAN, check=True)
    applied.apply("export")
    patch = read_project(applied.project).series[-1]
    assert (patch.subject, patch.body) == ("Größer", "Wie gewünscht.")
    assert patch.name == "0003-Gr-er.patch"
