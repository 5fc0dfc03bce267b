"""A workspace cloned with --filter=blob:none: what it left out is fetched with the user's settings, or named."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import CLEAN, OVERLAY, UPSTREAM, Toy, commit, git, snapshot


@pytest.fixture
def partial(toy: Toy) -> Toy:
    """Upstream's branch is ahead of the pin, so the pin's own files are not in the clone."""
    for key in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        git(toy.upstream, "config", key, "true")
    newer = {"old.py": b"x = 2\n", "README.md": b"# Newer\n", "figs/picture.png": b"other\n"}
    commit(toy.upstream, {**UPSTREAM, **newer}, "Move on", executable=["eval_configs/eval.yaml"])
    git(toy.folder, "clone", "-q", "--filter=blob:none", f"file://{toy.upstream}", str(toy.workspace))
    return toy


def lacks(toy: Toy) -> int:
    missing = git(toy.workspace, "rev-list", "--objects", "--missing=print", toy.pin).decode().split("\n")
    return sum(row.startswith("?") for row in missing)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_pinned_files_are_fetched(partial: Toy, sparse: bool) -> None:
    if sparse:
        partial.git("sparse-checkout", "set", "--no-cone", "/*", "!/figs/")
    assert lacks(partial) == 3
    before = snapshot(partial.workspace)
    assert "would change" in partial.apply("check").out
    assert snapshot(partial.workspace) == before
    partial.apply("lock")
    assert snapshot(partial.workspace) == before
    done = partial.apply()
    assert f"Fetching {2 if sparse else 3} files" in done.err
    assert lacks(partial) == sparse, "the picture is left out"
    assert partial.read("README.md") == UPSTREAM["README.md"]
    assert partial.read("run_predict.py") == OVERLAY["run_predict.py"]
    again = partial.apply()
    assert ("Nothing to do" in again.out, "Fetching" in again.err) == (True, False)
    partial.apply("revert")
    assert partial.dirty() == []


def test_what_cannot_be_fetched_is_said(partial: Toy) -> None:
    partial.upstream.rename(partial.folder / "away")
    before = snapshot(partial.workspace, inside_git=False)
    for verb in ("check", "apply"):
        done = partial.run(verb)
        assert (done.code, str(partial.upstream) in done.err, "--upstream" in done.err) == (5, True, True)
    assert snapshot(partial.workspace, inside_git=False) == before
    partial.apply("--upstream", str(partial.folder / "away"))


def test_the_users_settings_count_and_the_workspaces_do_not(partial: Toy, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    trap.chmod(0o755)
    for key in ("remote.origin.uploadpack", "core.sshCommand", "core.fsmonitor", "core.alternateRefsCommand"):
        partial.git("config", key, str(trap))
    locked = (partial.project / "configs" / "upstream.yaml").read_text().split('result: "')[1].split('"')[0]
    partial.write_pin(url="https://example.invalid/MiniGPT-4", result=f'"{locked}"')
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "file://{partial.upstream}"]\n\tinsteadOf = https://example.invalid/MiniGPT-4\n')
    done = partial.spawn(env={**CLEAN, "GIT_CONFIG_GLOBAL": str(config), "HOME": str(tmp_path)})
    assert done.code == 0, done.err
    assert not (tmp_path / "ran").exists()


def test_status_and_revert_fetch_nothing(partial: Toy, tmp_path: Path) -> None:
    partial.apply()
    (partial.upstream).rename(partial.folder / "away")
    for verb in ("status", "check", "apply", "revert"):
        partial.apply(verb)
    assert partial.read("README.md") == b"# Newer\n"


LONG = b"".join(b"x%d = %d\n" % (number, number) for number in range(3000))


@pytest.fixture
def behind(partial: Toy) -> Toy:
    """A partial clone at its pin. Upstream has moved on, and would send a long file as a difference from one of it."""
    modes = {"executable": ["eval_configs/eval.yaml"]}
    commit(partial.upstream, {**UPSTREAM, "long.py": LONG}, "Long", **modes)
    commit(partial.upstream, {**UPSTREAM, "long.py": LONG + b"y = 1\n"}, "Longer", **modes)
    git(partial.workspace, "fetch", "-q")
    partial.git("checkout", "-q", partial.pin)
    partial.apply()
    commit(partial.upstream, {**UPSTREAM, "long.py": LONG + b"y = 2\n"}, "Other", **modes)
    return partial


def test_a_newer_upstream_is_judged_and_taken(behind: Toy) -> None:
    judged = behind.run("check", "--against", "main")
    assert judged.code == 0, judged.out + judged.err
    behind.apply("rebase")
    assert behind.read("long.py") == LONG + b"y = 2\n"


def test_a_moved_pin(behind: Toy) -> None:
    behind.pin = git(behind.upstream, "rev-parse", "HEAD").decode().strip()
    behind.write_pin(url=f"file://{behind.upstream}")
    behind.apply("lock")
    behind.apply()
    assert behind.read("long.py") == LONG + b"y = 2\n"
    assert behind.dirty() == []
