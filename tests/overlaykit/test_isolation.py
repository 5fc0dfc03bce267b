"""Whatever the user's machine looks like, the result is the same, and nothing outside the workspace is touched."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from toys import ROOT, Toy, copy_toy, git, snapshot

from overlaykit.gitrun import git_version

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


@pytest.fixture(scope="module")
def expected(toy_master: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Refs and files of a workspace made on a tidy machine."""
    toy = copy_toy(toy_master, tmp_path_factory.mktemp("tidy") / "toy")
    toy.apply()
    return outcome(toy)


def outcome(toy: Toy, **env: str) -> dict[str, str]:
    listing = ["for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/overlay"]
    refs = git(toy.workspace, *listing, **env)
    files = {name: str((seen[0], seen[2])) for name, seen in snapshot(toy.workspace, inside_git=False).items()}
    return {"refs": refs.decode(), **files}


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


def test_inside_another_repository_only_the_workspace_changes(toy: Toy, expected: dict[str, str]) -> None:
    """`git apply` in a folder of another repository does nothing and says nothing: ds300/patch-package#11."""
    outer = toy.folder
    git(outer, "init", "-q", "-b", "main")
    git(outer, "add", "project")
    git(outer, "commit", "-q", "-m", "Outer")
    before = git(outer, "rev-parse", "HEAD"), (outer / ".git" / "index").read_bytes()
    assert toy.spawn(cwd=toy.project).code == 0
    assert outcome(toy) == expected
    assert toy.spawn("revert", cwd=toy.workspace / "minigpt4").code == 0
    assert (git(outer, "rev-parse", "HEAD"), (outer / ".git" / "index").read_bytes()) == before
    assert git(outer, "for-each-ref", "refs/overlay") == b""


def test_a_folder_of_another_repository_is_not_a_workspace(toy: Toy) -> None:
    git(toy.folder, "init", "-q", "-b", "main")
    toy.workspace.mkdir()
    toy.write("demo.py", b"mine\n")
    done = toy.run()
    assert (done.code, "no .git of its own" in done.err) == (2, True)


def test_a_broken_repository_inside_another_one(toy: Toy) -> None:
    """git itself would walk up to the outer repository."""
    git(toy.folder, "init", "-q", "-b", "main")
    git(toy.folder, "commit", "-q", "--allow-empty", "-m", "Outer")
    (toy.workspace / ".git").mkdir(parents=True)
    for verb in ("apply", "check", "status", "revert"):
        done = toy.run(verb)
        assert (done.code, "git cannot read" in done.err) == (2, True)


@pytest.mark.parametrize("cwd", ["/", "folder", "workspace", "deleted"])
def test_any_working_directory(toy: Toy, expected: dict[str, str], cwd: str) -> None:
    toy.apply()
    gone = toy.folder / "gone"
    gone.mkdir()
    where = {"/": Path("/"), "folder": toy.folder, "workspace": toy.workspace / "minigpt4", "deleted": gone}[cwd]
    command = f"rmdir {gone}; " if cwd == "deleted" else ""
    words = " ".join([*toy.arguments("--set", "model_path=/b")])
    done = subprocess.run(["sh", "-c", f"{command}exec {sys.executable} {ROOT}/apply.py {words}"], cwd=where)
    assert done.returncode == 0
    assert b"/b/ckpt.pth" in toy.read("eval_configs/eval.yaml")


def test_relative_paths_are_taken_from_the_working_directory(toy: Toy) -> None:
    command = [sys.executable, str(ROOT / "apply.py"), "--project", "project", "--workspace", "there/W"]
    done = subprocess.run([*command, "--upstream", "./upstream"], cwd=toy.folder, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (toy.folder / "there" / "W" / "run_predict.py").exists()


@pytest.mark.parametrize("verb", ["apply", "check"])
def test_names_that_the_locale_cannot_spell(toy: Toy, verb: str) -> None:
    """With LC_ALL=C and without Python's UTF-8 mode, as in bare containers."""
    toy.write_overlay({"minigpt4/你好.py": b"y = 1\n"})
    toy.apply("lock")
    toy.workspace = toy.folder / "ü"
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = toy.spawn(verb, env=env)
    assert (done.code, "Traceback" in done.err) == (0, False), done.err
    if verb == "apply":
        assert toy.read("minigpt4/你好.py") == b"y = 1\n"
        assert "Nothing to do" in toy.apply().out
        assert "Nothing to do" in toy.spawn(env=env).out
        assert toy.spawn("check", "--set", "model_path=/x", env=env).code == 0
        assert toy.spawn("revert", env=env).code == 0
        assert toy.dirty() == []


def test_odd_names(toy: Toy) -> None:
    toy.workspace = toy.folder / 'a b\'c "d" $e ü\tf' / "-W"
    done = toy.apply()
    assert toy.read("run_predict.py")
    log = next(line for line in done.out.split("\n") if line.strip().startswith("log"))
    assert subprocess.run(shlex.split(log)[1:], capture_output=True).returncode == 0
    assert "Nothing to do" in toy.apply().out


@pytest.mark.skipif(git_version() < (2, 36), reason="before 2.35.2 git does not ask who owns a repository")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("allowed", ["the folder", "*", "nothing"])
def test_a_workspace_of_another_user(toy: Toy, tmp_path: Path, expected: dict[str, str], allowed: str) -> None:
    git(toy.folder, "clone", "-q", "--no-checkout", str(toy.upstream), str(toy.workspace))
    toy.git("config", "core.sparseCheckout", "true")
    toy.write(".git/info/sparse-checkout", b"/*\n!/figs/\n")
    toy.git("checkout", "-q", "main")
    for path in (toy.workspace, *toy.workspace.rglob("*")):
        os.chown(path, 12345, 12345)
    home = tmp_path / "home"
    home.mkdir()
    if allowed != "nothing":
        value = "*" if allowed == "*" else str(toy.workspace)
        (home / ".gitconfig").write_text(f'[safe]\n\tdirectory = "{value}"\n')
    env = {"HOME": str(home)}
    before = snapshot(toy.workspace)
    done = toy.spawn(env=env)
    if allowed == "nothing":
        assert (done.code, "safe.directory" in done.err) == (2, True)
        assert snapshot(toy.workspace) == before
        return
    assert done.code == 0, done.err
    assert outcome(toy, GIT_CONFIG_GLOBAL=str(home / ".gitconfig")) == expected
    for verb in ("apply", "status", "check", "revert"):
        assert toy.spawn(verb, env=env).code == 0
    # The repository's own word for itself must not count.
    with (toy.workspace / ".git" / "config").open("a") as file:
        file.write("[safe]\n\tdirectory = *\n")
    assert toy.spawn(env={"HOME": str(tmp_path)}).code == 2


def test_a_missing_git_is_said(toy: Toy, tmp_path: Path) -> None:
    done = toy.spawn(env={"PATH": str(tmp_path)})
    assert (done.code, "git was not found" in done.err) == (2, True)
