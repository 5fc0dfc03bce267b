"""configs/upstream.yaml promises a tree; patches and overlay must give it, by our build and by plain git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from overlaykit.build import build
from overlaykit.gitrepo import Repo
from overlaykit.gitrun import isolated
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
    # A developer's own git configuration (hooks, signing, line ends) must not decide.
    clean = {**{name: value for name, value in os.environ.items() if not name.startswith("GIT_")}, **isolated()}
    command = ["git", "clone", "--quiet", "--no-checkout", str(upstream_repo), str(clone)]
    subprocess.run(command, env=clean, check=True)
    repo = Repo(clone / ".git", clone)
    files = repo.tree(project.upstream.commit)
    # A mirror may lack blobs that no patch touches (a PDF); git am insists on all, so leave those out on both sides.
    found = repo.resolve(*(entry.id for entry in files.values()))
    missing = [path for path, blob in zip(files, found) if blob is None]

    def git(*args: str) -> None:
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@localhost", *args]
        subprocess.run(command, cwd=clone, env=clean, check=True)

    git("read-tree", project.upstream.commit)
    if missing:
        git("rm", "--quiet", "--cached", "--", *missing)
        git("commit", "--quiet", "-m", "Leave out what this mirror lacks")
    git("checkout", "--quiet", "--force", "HEAD")
    git("am", "--quiet", *(str(ROOT / "patches" / patch.name) for patch in project.series))

    built = build(repo, project.upstream.commit, project.series, project.overlay, project.rules, {}, scratch)
    expected = {path: entry for path, entry in repo.tree(built.patches[-1].id).items() if path not in missing}
    assert repo.tree("HEAD") == expected
