"""Whatever the user's machine looks like, the result is the same, and nothing outside the workspace is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import Toy, git, outcome, snapshot

HOSTILE = """
[user]
	useConfigOnly = true
[core]
	autocrlf = true
	eol = crlf
	safecrlf = true
	hooksPath = {hooks}
	attributesFile = {folder}/attributes
	excludesFile = {folder}/ignore
	fsmonitor = {hooks}/fsmonitor
	quotePath = true
	abbrev = 4
	ignoreStat = true
	sparseCheckoutCone = true
	splitIndex = true
	untrackedCache = true
	commentChar = "#"
	editor = false
	pager = false
	whitespace = trailing-space,tab-in-indent
[commit]
	gpgSign = true
	template = /nonexistent
[tag]
	gpgSign = true
[gpg]
	program = false
[diff]
	noprefix = true
	mnemonicPrefix = true
	context = 0
	algorithm = patience
	external = false
	orderFile = /nonexistent
	renames = copies
	suppressBlankEmpty = true
[apply]
	whitespace = fix
	ignoreWhitespace = change
[i18n]
	commitEncoding = UTF-16
	logOutputEncoding = UTF-16
[color]
	ui = always
	status = always
[status]
	showUntrackedFiles = no
	relativePaths = true
	branch = true
[log]
	showSignature = true
	decorate = full
	date = relative
[format]
	pretty = "%H is hostile"
[init]
	defaultBranch = overlay
[branch]
	autoSetupMerge = always
	autoSetupRebase = always
[checkout]
	defaultRemote = nowhere
[submodule]
	recurse = true
[merge]
	conflictStyle = diff3
[index]
	version = 4
	sparse = true
[advice]
	detachedHead = true
[feature]
	manyFiles = true
[alias]
	apply = "!false"
	checkout = "!false"
[clone]
	defaultRemoteName = elsewhere
"""


def hostile_files(folder: Path) -> Path:
    """A hostile configuration; whatever runs a hook or filter leaves a file `ran` behind."""
    hooks = folder / "hooks"
    hooks.mkdir(parents=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-commit", "fsmonitor", "filter"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {folder}/ran\nexit 1\n")
        (hooks / name).chmod(0o755)
    (folder / "attributes").write_text("* text eol=crlf ident filter=evil\n")
    (folder / "ignore").write_text("*\n")
    evil = f'[filter "evil"]\n\tsmudge = {hooks}/filter\n\tclean = {hooks}/filter\n\trequired = true\n'
    (folder / "config").write_text(HOSTILE.format(hooks=hooks, folder=folder) + evil)
    return folder / "config"


def test_same_ids_on_a_machine_that_differs_in_everything(toy: Toy, tmp_path: Path, expected: dict[str, str]) -> None:
    config = hostile_files(tmp_path / "evil")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text(config.read_text())
    env = {
        "HOME": str(tmp_path / "home"),
        "TZ": "Pacific/Kiritimati",
        "LANG": "zh_CN.GB18030",
        "LC_ALL": "tr_TR.UTF-8",
        "LANGUAGE": "de",
        "USER": "somebody",
        "LOGNAME": "somebody",
        "GIT_AUTHOR_NAME": "Leaked",
        "GIT_COMMITTER_DATE": "2001-01-01T00:00:00",
        "PYTHONUTF8": "0",
    }
    # The clone itself keeps the user's configuration, which here would stop it at its first hook.
    git(toy.folder, "clone", "-q", "--no-checkout", str(toy.upstream), str(toy.workspace))
    toy.git("config", "core.sparseCheckout", "true")
    toy.write(".git/info/sparse-checkout", b"/*\n!/figs/\n")
    toy.git("checkout", "-q", "main")
    assert toy.spawn(env=env, umask=0o077).code == 0
    done = outcome(toy)
    assert done["refs"] == expected["refs"]
    assert {name for name in done if name != "refs"} == {name for name in expected if name != "refs"}
    assert done["demo.py"].split(",", 1)[1] == expected["demo.py"].split(",", 1)[1]
    assert not (tmp_path / "evil" / "ran").exists()


@pytest.mark.parametrize(
    "where",
    ["local", "global", *(pytest.param(where, marks=pytest.mark.slow) for where in ("broken global", "environment"))],
)
def test_hostile_configuration_changes_nothing(toy: Toy, tmp_path: Path, expected: dict[str, str], where: str) -> None:
    config = hostile_files(tmp_path / "evil")
    git(toy.folder, "clone", "-q", "--no-checkout", str(toy.upstream), str(toy.workspace))
    toy.git("config", "core.sparseCheckout", "true")
    toy.write(".git/info/sparse-checkout", b"/*\n!/figs/\n")
    toy.git("checkout", "-q", "main")
    env = {"HOME": str(tmp_path)}
    if where == "local":
        with (toy.workspace / ".git" / "config").open("a") as file:
            file.write(config.read_text())
        for hook in (tmp_path / "evil" / "hooks").iterdir():
            (toy.workspace / ".git" / "hooks" / hook.name).write_text(hook.read_text())
            (toy.workspace / ".git" / "hooks" / hook.name).chmod(0o755)
    elif where == "global":
        env["GIT_CONFIG_GLOBAL"] = str(config)
    elif where == "broken global":
        env["GIT_CONFIG_GLOBAL"] = str(tmp_path / "broken")
        (tmp_path / "broken").write_text("[core\n")
    else:
        env["GIT_CONFIG_COUNT"] = "3"
        for number, (key, value) in enumerate(
            (("core.autocrlf", "true"), ("core.hooksPath", str(tmp_path / "evil" / "hooks")), ("diff.noprefix", "true"))
        ):
            env[f"GIT_CONFIG_KEY_{number}"], env[f"GIT_CONFIG_VALUE_{number}"] = key, value
    assert toy.spawn(env=env).code == 0
    assert outcome(toy) == expected
    for verb in ("apply", "status", "check", "revert", "apply"):
        done = toy.spawn(verb, env=env)
        assert done.code == 0, done.err
        assert "\033" not in done.out
    assert outcome(toy) == expected
    assert not (tmp_path / "evil" / "ran").exists()


def test_cloning_under_a_hostile_configuration(toy: Toy, tmp_path: Path, expected: dict[str, str]) -> None:
    """Clone and fetch keep the user's configuration, so its hooks count there; everything else must not matter."""
    config = hostile_files(tmp_path / "evil")
    lines = [line for line in config.read_text().split("\n") if "hooksPath" not in line]
    config.write_text("\n".join(lines))
    done = toy.spawn(env={"GIT_CONFIG_GLOBAL": str(config)})
    assert done.code == 0, done.err
    assert outcome(toy) == expected


def test_leaked_git_variables_point_nowhere(toy: Toy, tmp_path: Path, expected: dict[str, str]) -> None:
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", str(other))
    (other / "mine.txt").write_text("mine\n")
    before = snapshot(other)
    env = {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / ".git" / "index"),
        "GIT_OBJECT_DIRECTORY": str(other / ".git" / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": "/nonexistent",
        "GIT_NAMESPACE": "leaked",
        "GIT_PREFIX": "leaked/",
        "GIT_CEILING_DIRECTORIES": str(toy.folder),
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_EXTERNAL_DIFF": "false",
        "GIT_TRACE": "1",
        "GIT_TEMPLATE_DIR": "/nonexistent",
        "GIT_ATTR_SOURCE": "HEAD",
        "GIT_DEFAULT_HASH": "sha256",
    }
    for verb in ("apply", "apply", "check", "status", "revert", "apply"):
        done = toy.spawn(verb, env=env)
        assert done.code == 0, done.err
    assert {**outcome(toy), "refs": ""} == {**expected, "refs": ""}
    assert snapshot(other) == before
