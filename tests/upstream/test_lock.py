"""configs/upstream.yaml promises a tree; patches and overlay must give it, by our build and by plain git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from overlaykit.build import build
from overlaykit.gitrepo import Repo
from overlaykit.project import read_project

pytestmark = pytest.mark.upstream
ROOT = Path(__file__).resolve().parents[2]


def test_the_lock_is_fresh(upstream_repo: Path, tmp_path: Path) -> None:
    project = read_project(ROOT)
    built = build(
        Repo(upstream_repo), project.upstream.commit, project.series, project.overlay, project.rules, {}, tmp_path
    )
    assert built.overlay.tree == project.upstream.result, "patches/ or overlay/ changed: run `python apply.py lock`"


def test_git_am_gives_the_tree_before_the_overlay(upstream_repo: Path, tmp_path: Path) -> None:
    project = read_project(ROOT)
    clone, scratch = tmp_path / "clone", tmp_path / "scratch"
    scratch.mkdir()

    def git(*args: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@localhost", "-c", "core.sparseCheckout=true"]
        return subprocess.run(
            ["git", *identity, "-C", str(clone), *args], check=True, capture_output=True, text=True
        ).stdout.strip()

    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(upstream_repo), str(clone)], check=True)
    # The mirror may lack the pictures' blobs, which no patch touches.
    (clone / ".git" / "info" / "sparse-checkout").write_text("/*\n!/figs/\n!/examples/\n!/MiniGPTv2.pdf\n")
    git("checkout", "--quiet", "--detach", project.upstream.commit)
    git("am", "--quiet", *(str(ROOT / "patches" / patch.name) for patch in project.series))
    built = build(
        Repo(clone / ".git"), project.upstream.commit, project.series, project.overlay, project.rules, {}, scratch
    )
    assert git("rev-parse", "HEAD^{tree}") == built.patches[-1].tree
