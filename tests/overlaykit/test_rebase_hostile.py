"""No git setting of the user or of the workspace changes what a rebase gives, nor is run by it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_export_hostile import SETTINGS
from test_rebase import REWRITTEN, project_files, upstream_commits, worktree
from toys import PATCHES, Toy, copy_toy, git

MODEL = "minigpt4/base_model.py"
NEWER = REWRITTEN.replace(b"    def maybe_autocast", b"    # Maybe.\n    def maybe_autocast")
RESOLVED = NEWER.replace(b'"cuda:1"', b'"auto"')
MORE = """
[rebase]
autoSquash = true
autoStash = true
updateRefs = true
abbreviateCommands = true
missingCommitsCheck = error
instructionFormat = "mine %H"
stat = true
rebaseMerges = true
backend = apply
forkPoint = true
rescheduleFailedExec = true
maxLabelLength = 3
[merge]
conflictStyle = merge
renames = false
directoryRenames = true
renormalize = true
autoStash = true
verifySignatures = true
default = other
tool = mine
[merge "other"]
driver = touch {trap} %A
[mergetool "mine"]
cmd = touch {trap}
[rerere]
enabled = true
autoUpdate = true
[sequence]
editor = touch {trap}; false
[core]
editor = touch {trap}; false
commentChar = W
hooksPath = {hooks}
[commit]
gpgSign = true
cleanup = scissors
verbose = true
status = true
template = {order}
[gpg]
program = {hooks}/post-checkout
[filter "other"]
clean = touch {trap}; cat
smudge = touch {trap}; cat
process = touch {trap}
required = true
[advice]
mergeConflict = true
skippedCherryPicks = true
[pull]
rebase = interactive
[branch]
autoSetupRebase = always
[alias]
rebase = "!touch {trap}"
commit = "!touch {trap}"
worktree = "!touch {trap}"
range-diff = "!touch {trap}"
"""
GROUPS = {**SETTINGS, "rebase, merge, rerere, editors, filters": MORE}
ALL = "\n".join(GROUPS.values())
EACH = [pytest.param(text, id=name, marks=pytest.mark.slow) for name, text in GROUPS.items()]
# What somebody's own `git add` may meet: nothing here makes it fail, and all of it changes what git usually does.
OWN = """
[core]
autocrlf = true
safecrlf = false
commentChar = B
abbrev = 5
editor = false
[sequence]
editor = false
[rerere]
enabled = true
autoUpdate = true
[commit]
gpgSign = true
cleanup = scissors
template = {order}
[gpg]
program = {hooks}/post-checkout
[rebase]
autoSquash = true
updateRefs = true
[merge]
conflictStyle = merge
renames = false
[i18n]
commitEncoding = ISO-8859-1
[color]
ui = always
[diff]
noprefix = true
external = false
"""


@pytest.fixture(scope="module")
def moved(applied_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy with a first patch that conflicts, a second that fits, and a rename besides."""
    toy = copy_toy(applied_master, tmp_path_factory.mktemp("moved") / "toy")
    upstream_commits(toy, "Use the second card", {MODEL: NEWER})
    upstream_commits(toy, "Größer\n\n# no comment", {"README.md": None, "docs/README.md": b"# Toy\n", "a.md": b"x\r\n"})
    return toy.folder


@pytest.fixture(scope="module")
def expected(moved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    toy = copy_toy(moved, tmp_path_factory.mktemp("expected") / "toy")
    return to_the_end(toy, clean=True)


@pytest.fixture
def bait(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Files that hostile settings name; afterwards none of their commands has run."""
    trap, hooks = tmp_path / "trap", tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-commit", "commit-msg",
                 "pre-rebase", "post-rewrite", "prepare-commit-msg", "post-commit", "post-merge"):  # fmt: skip
        (hooks / name).write_text(f"#!/bin/sh\ntouch {trap}\nexit 1\n")
        (hooks / name).chmod(0o755)
    (tmp_path / "order").write_text("*.py\nzzz\n*\n")
    (tmp_path / "attributes").write_text("* -diff eol=crlf merge=other filter=other\n*.py diff=other\n")
    (tmp_path / "mailmap").write_text("Someone Else <else@example.org> <ada@example.org>\n")
    yield {name: str(tmp_path / name) for name in ("trap", "hooks", "order", "attributes", "mailmap")}
    assert not trap.exists(), "a command of the settings was run"


def to_the_end(toy: Toy, clean: bool) -> dict[str, object]:
    """Judge, start, resolve, accept: what was said, and what there is at the end."""
    judged = toy.run("check", "--against", "main", "--json").json
    stopped = toy.run("rebase", "--json")
    assert stopped.code == 1, stopped.out + stopped.err
    path = worktree(toy) / MODEL
    text = path.read_bytes()
    path.write_bytes(RESOLVED)
    stage(toy, None if clean else "ours")
    read = toy.run("rebase", "--continue", "--json")
    assert (read.code, read.json.get("outcome")) == (1, "review"), read.out + read.err
    done = toy.run("rebase", "--continue", "--accept-drift", "--json")
    assert done.code == 0, done.out + done.err
    return {
        "files": {name: data for name, data in project_files(toy).items() if name != "configs/upstream.yaml"},
        "tree": done.json["tree"],
        "markers": [line[:8] for line in text.split(b"\n") if line[:2] in (b"<<", b"||", b">>")],
        "conflicts": (judged["conflicts"], stopped.json["conflicts"]),
        "fates": [[row["fate"] for row in facts["patches"]] for facts in (judged, read.json, done.json)],
        "range_diff": re.sub(r"(?m)^(\d+:  )\w{7} (.) (\d+:  )\w{7}", r"\1\2\3", done.json["range_diff"]),
    }


def stage(toy: Toy, how: str | None) -> None:
    """`git add`, by the tests' tidy git, which knows neither the user's settings nor the workspace's."""
    config = toy.workspace / ".git" / "config"
    hidden = config.read_bytes()
    if how:
        config.write_bytes((toy.upstream / ".git" / "config").read_bytes())
    attributes = toy.workspace / ".git" / "info" / "attributes"
    kept = attributes.read_bytes() if attributes.exists() else None
    attributes.unlink(missing_ok=True)
    git(worktree(toy), "-c", "core.hooksPath=/dev/null", "add", MODEL)
    config.write_bytes(hidden)
    if kept is not None:
        attributes.write_bytes(kept)


@pytest.mark.parametrize("where", ["of the user", "of the workspace"])
@pytest.mark.parametrize("settings", [pytest.param(ALL, id="all"), *EACH])
def test_settings_change_nothing(
    moved: Path, expected: dict[str, object], bait: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, settings: str, where: str,
) -> None:  # fmt: skip
    toy = copy_toy(moved, tmp_path / "toy")
    config = toy.workspace / ".git" / "config"
    if where == "of the user":
        config = tmp_path / "home" / ".gitconfig"
        config.parent.mkdir()
        monkeypatch.setenv("HOME", str(config.parent))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        for name in ("GIT_EDITOR", "GIT_SEQUENCE_EDITOR", "GIT_EXTERNAL_DIFF", "VISUAL"):
            monkeypatch.setenv(name, f"touch {bait['trap']}")
        monkeypatch.setenv("GIT_REFLOG_ACTION", "mine")
    else:
        toy.write(".git/info/attributes", Path(bait["attributes"]).read_bytes())
        for hook in Path(bait["hooks"]).iterdir():
            toy.write(f".git/hooks/{hook.name}", hook.read_bytes())
            (toy.workspace / ".git" / "hooks" / hook.name).chmod(0o755)
    settings = settings.format(**bait)
    if where == "of the user":  # a fetch is the user's own, and runs the user's hooks
        settings = settings.replace("hooksPath", "x-hooksPath")
    with config.open("a") as file:
        file.write(settings)
    assert to_the_end(toy, clean=where == "of the user") == expected


@pytest.mark.parametrize(
    "command", [f"git add -A -- {MODEL}", f"git add {MODEL} && git rebase --continue", "git rebase --skip"]
)
def test_git_typed_in_the_worktree_under_such_settings(
    moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """git then does as it is told to there; what comes out is the same."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "post-checkout").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "order").write_text("A template\n")
    results = [typed(moved, tmp_path / name, monkeypatch, command, text.format(order=tmp_path / "order", hooks=hooks))
               for name, text in (("tidy", ""), ("hostile", OWN))]  # fmt: skip
    assert results[0] == results[1]
    kept = results[0].get("patches/0001-Choose-autocast-by-device.patch", b"")
    assert (b'+        return "auto"' in kept) == ("skip" not in command)
    assert len(PATCHES) == sum(name.endswith(".patch") for name in results[0]) + ("skip" in command)


def typed(moved: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, settings: str) -> dict[str, bytes]:
    """The patches after a rebase in which somebody types `command`, with settings of their own and of the workspace."""
    toy = copy_toy(moved, folder / "toy")
    (folder / "home").mkdir()
    monkeypatch.setenv("HOME", str(folder / "home"))
    for config in (folder / "home" / ".gitconfig", toy.workspace / ".git" / "config"):
        with config.open("a") as file:
            file.write(settings)
    assert toy.run("rebase").code == 1
    (worktree(toy) / MODEL).write_bytes(RESOLVED)
    who = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
    env = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), **{f"GIT_{name}": "a@b" for name in who}}
    env["GIT_EDITOR"] = "true"  # else the user's opens, as the user wants
    subprocess.run(command, shell=True, cwd=worktree(toy), env=env, capture_output=True, stdin=subprocess.DEVNULL)
    for path in worktree(toy).rglob("*.py"):
        os.utime(path)  # git has to look into them again
    for words in ([], ["--accept-drift"]):
        done = toy.run("rebase", "--continue", *words)
        if done.code == 0:
            break
    assert done.code == 0, done.out + done.err
    return {name: data for name, data in project_files(toy).items() if name.startswith("patches/")}
