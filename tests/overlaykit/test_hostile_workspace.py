"""A workspace whose own .git/config, hooks and attributes are hostile: they gain nothing and lose nothing.

Whoever can write to a shared folder can write its .git/config, which names programs that git runs. None may run.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from toys import CLEAN, UPSTREAM, Toy, commit, git, snapshot

HOOKS = (
    *("applypatch-msg", "commit-msg", "fsmonitor-watchman", "post-applypatch", "post-checkout", "post-commit"),
    *("post-index-change", "post-merge", "post-rewrite", "pre-applypatch", "pre-auto-gc", "pre-commit"),
    *("pre-merge-commit", "pre-rebase", "prepare-commit-msg", "reference-transaction"),
)
# Each TRAP(name) leaves a file of that name when it is run.
CONFIG = """
[core]
	fsmonitor = {TRAP(fsmonitor)}
	sshCommand = {TRAP(ssh)}
	gitProxy = {TRAP(gitproxy)}
	askPass = {TRAP(askpass)}
	editor = {TRAP(editor)}
	pager = {TRAP(pager)}
	alternateRefsCommand = {TRAP(alternaterefs)}
	hooksPath = {HOOKS}
	autocrlf = true
	eol = crlf
	safecrlf = true
	attributesFile = {ATTRIBUTES}
[sequence]
	editor = {TRAP(sequence)}
[pager]
	log = {TRAP(pagerlog)}
	diff = {TRAP(pagerdiff)}
[filter "trap"]
	clean = {TRAP(clean)}
	smudge = {TRAP(smudge)}
	required = true
[filter "process"]
	process = {TRAP(process)}
	required = true
[diff]
	external = {TRAP(external)}
	noprefix = true
	orderFile = /nonexistent
[diff "trap"]
	textconv = {TRAP(textconv)}
	command = {TRAP(diffcommand)}
[merge]
	conflictStyle = merge
	renames = false
[merge "trap"]
	driver = {TRAP(merge)} %A
	name = trap
[gpg]
	program = {TRAP(gpg)}
[gpg "ssh"]
	program = {TRAP(gpgssh)}
[commit]
	gpgSign = true
	template = /nonexistent
[tag]
	gpgSign = true
[log]
	showSignature = true
[credential]
	helper = "!{TRAP(credential)}"
[protocol]
	allow = always
[protocol "ext"]
	allow = always
[url "ext::{TRAP(url)} "]
	insteadOf = {UPSTREAM}
[uploadpack]
	packObjectsHook = {TRAP(packobjects)}
[remote "origin"]
	url = ext::{TRAP(remote)}
	uploadpack = {TRAP(uploadpack)}
	promisor = true
	partialclonefilter = blob:none
[trailer "trap"]
	command = {TRAP(trailer)}
[interactive]
	diffFilter = {TRAP(difffilter)}
[alias]
	checkout = "!{TRAP(alias)}"
	rebase = "!{TRAP(alias)}"
[rebase]
	autoStash = true
	autoSquash = true
	forkPoint = true
[submodule]
	recurse = true
[submodule "trap"]
	update = "!{TRAP(submodule)}"
[fetch]
	recurseSubmodules = true
	writeCommitGraph = true
[i18n]
	commitEncoding = UTF-16
[include]
	path = {INCLUDED}
"""
INCLUDED = """
[filter "included"]
	smudge = {TRAP(included)}
	clean = {TRAP(included)}
"""
ATTRIBUTES = """* merge=trap diff=trap
*.py filter=trap
*.md filter=process
*.yaml filter=included
"""


class Traps:
    def __init__(self, toy: Toy, folder: Path) -> None:
        self.ran = folder / "ran"
        self.programs = folder / "programs"
        self.ran.mkdir(parents=True)
        self.programs.mkdir()
        for hook in HOOKS:
            self.program(hook)
        attributes, included = folder / "attributes", folder / "included"
        attributes.write_text(ATTRIBUTES)
        included.write_text(self.fill(INCLUDED, {}))
        words = {"{HOOKS}": self.programs, "{ATTRIBUTES}": attributes, "{INCLUDED}": included}
        text = self.fill(CONFIG, {**words, "{UPSTREAM}": toy.upstream})
        for hook in HOOKS:
            path = toy.workspace / ".git" / "hooks" / hook
            path.write_text((self.programs / hook).read_text())
            path.chmod(0o755)
        with (toy.workspace / ".git" / "config").open("a") as file:
            file.write(text)
        toy.write(".git/info/attributes", ATTRIBUTES.encode())

    def fill(self, text: str, words: dict[str, object]) -> str:
        for word, value in words.items():
            text = text.replace(word, str(value))
        while "{TRAP(" in text:
            name = text.partition("{TRAP(")[2].partition(")")[0]
            text = text.replace("{TRAP(" + name + ")}", str(self.program(name)))
        return text

    def program(self, name: str) -> Path:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\ntouch {self.ran}/{name}\nexit 1\n")
        path.chmod(0o755)
        return path

    @property
    def sprung(self) -> list[str]:
        return sorted(path.name for path in self.ran.iterdir())


def move_upstream(toy: Toy) -> str:
    """A newer upstream: what a patch touches changes too, so a rebase has to merge."""
    manual = b"x = 1\n" + UPSTREAM["minigpt4/base_model.py"]
    return commit(toy.upstream, {**UPSTREAM, "minigpt4/base_model.py": manual, "NEWS.md": b"# New\n"}, "Move on")


@pytest.fixture
def plain(toy: Toy) -> Toy:
    """A clone that nothing was applied to yet."""
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    return toy


def test_the_traps_work(plain: Toy, tmp_path: Path) -> None:
    """Plain git in such a workspace runs them; otherwise the tests below would prove nothing."""
    traps = Traps(plain, tmp_path / "traps")
    for words in (
        ["status"],
        ["hash-object", "--path", "demo.py", "demo.py"],
        ["cat-file", "--filters", "HEAD:demo.py"],
        ["cat-file", "--filters", "HEAD:README.md"],
        ["cat-file", "--filters", "HEAD:eval_configs/eval.yaml"],
        ["tag", "-s", "-m", "x", "signed"],
        ["fetch", str(plain.upstream)],
        ["fetch", "ssh://host/x"],
        ["update-ref", "refs/x", "HEAD"],
    ):
        subprocess.run(["git", *words], cwd=plain.workspace, env=CLEAN, capture_output=True, timeout=20)
    expected = {"fsmonitor", "clean", "smudge", "process", "included", "gpg", "url", "ssh"}
    missing = {*expected, "reference-transaction"} - set(traps.sprung)
    assert not missing, traps.sprung


@pytest.mark.parametrize("verb", ["apply", "check", "status", "revert", "lock", "lint"])
def test_before_and_after_apply_nothing_runs(plain: Toy, tmp_path: Path, verb: str) -> None:
    traps = Traps(plain, tmp_path / "traps")
    fine = {0, 1} if verb == "lint" else {0}  # the toy's patches have no trailers
    assert plain.run(verb).code in fine
    plain.apply()
    done = plain.run(verb, *(["--set", "model_path=/other"] if verb in ("apply", "check") else []))
    assert done.code in fine, done.out + done.err
    assert traps.sprung == []


def test_the_result_is_the_same(plain: Toy, tmp_path: Path) -> None:
    plain.apply()
    expected = {name: seen[0::2] for name, seen in snapshot(plain.workspace, inside_git=False).items()}
    tip = plain.git("rev-parse", "overlay")
    plain.apply("revert")
    plain.git("branch", "-q", "-D", "overlay")
    Traps(plain, tmp_path / "traps")
    config = (plain.workspace / ".git" / "config").read_bytes()
    plain.apply()
    assert {name: seen[0::2] for name, seen in snapshot(plain.workspace, inside_git=False).items()} == expected
    assert plain.workspace.joinpath(".git", "refs", "heads", "overlay").read_text().strip() == tip
    assert (plain.workspace / ".git" / "config").read_bytes() == config
    assert "Nothing to do" in plain.apply().out


def test_edits_and_collisions_are_saved(plain: Toy, tmp_path: Path) -> None:
    traps = Traps(plain, tmp_path / "traps")
    plain.write("demo.py", b"mine\n")
    plain.write("run_predict.py", b"mine too\n")
    assert plain.run().code == 3
    restore = plain.apply("--force", "--json").json["restore"]
    assert traps.sprung == []
    (plain.workspace / ".git" / "config").write_bytes((plain.upstream / ".git" / "config").read_bytes())
    (plain.workspace / ".git" / "info" / "attributes").unlink()
    for hook in HOOKS:
        (plain.workspace / ".git" / "hooks" / hook).unlink()
    subprocess.run(restore[0], shell=True, check=True, env=CLEAN)
    (saved,) = plain.folder.glob("MiniGPT-4-saved-*")
    assert (saved / "demo.py").read_bytes() == b"mine\n"
    assert (saved / "run_predict.py").read_bytes() == b"mine too\n"


def test_fetching_uses_nothing_of_the_workspaces(plain: Toy, tmp_path: Path) -> None:
    traps = Traps(plain, tmp_path / "traps")
    plain.pin = move_upstream(plain)
    plain.write_pin()
    plain.make_patches([("One", {"demo.py": b"print('auto')\n"})])
    rules = (plain.project / "configs" / "paths.yaml").read_text()
    (plain.project / "configs" / "paths.yaml").write_text(rules.replace("    encoder:", "    # encoder:"))
    plain.apply("lock")
    done = plain.apply()
    assert "Fetching" in done.err + done.out
    assert traps.sprung == []


def test_settings_that_were_not_used_are_named_when_they_may_be_missed(plain: Toy) -> None:
    plain.git("config", "core.sshCommand", "ssh -i key")
    plain.git("config", "http.proxy", "http://localhost:9")
    plain.pin = "a" * 40
    plain.write_pin()
    done = plain.run()
    assert (done.code, "core.sshcommand, http.proxy of this clone" in done.err) == (5, True), done.err


def test_a_newer_upstream_is_judged_and_taken_without_running_anything(plain: Toy, tmp_path: Path) -> None:
    plain.apply()
    traps = Traps(plain, tmp_path / "traps")
    move_upstream(plain)
    judged = plain.run("check", "--against", "main")
    assert judged.code == 0, judged.out + judged.err
    done = plain.run("rebase")
    assert done.code == 0, done.out + done.err
    assert (plain.workspace / "NEWS.md").exists()
    assert traps.sprung == []


def test_an_export_runs_nothing(plain: Toy, tmp_path: Path) -> None:
    plain.apply()
    plain.write("demo.py", b"print('exported')\n")
    plain.git("commit", "-q", "-a", "-m", "Say something else\n\nBecause.")
    plain.write("run_predict.py", b"print('port')\n")
    plain.git("commit", "-q", "-a", "-m", "Another answer")
    traps = Traps(plain, tmp_path / "traps")
    for words in (["--check"], []):
        done = plain.run("export", *words)
        assert done.code == (1 if words else 0), done.out + done.err
    assert (plain.project / "overlay" / "run_predict.py").read_bytes() == b"print('port')\n"
    assert traps.sprung == []


@pytest.mark.parametrize(
    "lines",
    [
        "[core]\n\tworktree = {elsewhere}\n",
        "[core]\n\tbare = true\n",
        "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tworktreeConfig = true\n\tpartialClone = origin\n",
        "[core]\n\tsharedRepository = 0660\n",
        "[core]\n\tsplitIndex = true\n\tuntrackedCache = true\n[index]\n\tversion = 4\n",
    ],
)
def test_odd_facts(plain: Toy, tmp_path: Path, lines: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "demo.py").write_bytes(b"not yours\n")
    trap = tmp_path / "ran"
    plain.write(".git/config.worktree", f"[core]\n\tfsmonitor = touch {trap};\n".encode())
    with (plain.workspace / ".git" / "config").open("a") as file:
        file.write(lines.format(elsewhere=elsewhere))
    for verb in ("check", "apply", "apply", "status", "revert"):
        done = plain.run(verb)
        assert done.code == 0, done.out + done.err
    assert sorted(path.name for path in elsewhere.iterdir()) == ["demo.py"]
    assert plain.read("demo.py") == UPSTREAM["demo.py"]
    assert not trap.exists()


def test_a_populated_submodule_runs_nothing(plain: Toy, tmp_path: Path) -> None:
    """Its .git/config is as hostile as its parent's, and git looks into it to say whether it is dirty."""
    inner = plain.workspace / "inner"
    git(plain.folder, "init", "-q", str(inner))
    (inner / "file.py").write_bytes(b"x = 1\n")
    git(inner, "add", "file.py")
    git(inner, "commit", "-q", "-m", "File")
    plain.apply()
    plain.git("add", "inner")
    plain.git("commit", "-q", "-m", "A submodule")
    trap = f"touch {tmp_path}/ran"
    with (inner / ".git" / "config").open("a") as file:
        file.write(f'[core]\n\tfsmonitor = "{trap};"\n[filter "trap"]\n\tclean = "{trap}; cat"\n')
    (inner / ".git" / "info" / "attributes").write_text("* filter=trap\n")
    (inner / "file.py").write_bytes(b"x = 2\n")
    for verb in ("check", "apply", "status"):
        done = plain.run(verb)
        assert done.code == 0, done.out + done.err
    assert not (tmp_path / "ran").exists()
    git(inner, "status")
    assert (tmp_path / "ran").exists(), "the trap works"


def test_settings_of_the_user_still_count_for_the_network(toy: Toy, tmp_path: Path) -> None:
    """Mirrors are configured by url.*.insteadOf: in the user's configuration it must work, also for a fetch."""
    toy.apply()
    toy.pin = move_upstream(toy)
    toy.write_pin(url="https://example.invalid/MiniGPT-4")
    toy.make_patches([("One", {"demo.py": b"print('auto')\n"})])
    rules = (toy.project / "configs" / "paths.yaml").read_text()
    (toy.project / "configs" / "paths.yaml").write_text(rules.replace("    encoder:", "    # encoder:"))
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "{toy.upstream}"]\n\tinsteadOf = https://example.invalid/MiniGPT-4\n')
    for verb in ("lock", "apply"):
        done = toy.spawn(verb, env={"GIT_CONFIG_GLOBAL": str(config), "HOME": str(tmp_path)})
        assert done.code == 0, done.err
    assert os.path.exists(toy.workspace / "NEWS.md")
