"""Today's patches come out of the real workspace byte for byte, whatever the settings."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from test_export import commit
from test_export_hostile import SETTINGS, bait, contents
from toys import CLEAN, ROOT, Toy

from overlaykit.gitrepo import Repo
from overlaykit.patchwrite import write_patch
from overlaykit.project import read_project
from overlaykit.sterile import sterile

__all__ = ["bait"]  # a fixture


@pytest.mark.upstream
@pytest.mark.parametrize("group", SETTINGS)
def test_todays_patches_come_out_byte_for_byte(
    workspace: Path, bait: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    """From the workspace's own commits, with the settings in both places at once."""
    config = tmp_path / "home" / ".gitconfig"
    config.parent.mkdir()
    config.write_text(SETTINGS[group].format(**bait))
    monkeypatch.setenv("HOME", str(config.parent))
    git_dir = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--shared", "--bare", str(workspace), str(git_dir)], env=CLEAN, check=True)
    with (git_dir / "config").open("a") as file:
        file.write(SETTINGS[group].format(**bait))
    (tmp_path / "sterile").mkdir()
    clean = sterile(Repo(git_dir), tmp_path / "sterile")
    project = read_project(ROOT)
    commits = clean.line("rev-list", "--reverse", f"{project.upstream.commit}..{head(workspace)}").split()
    for patch, made in zip(project.series, commits):
        assert write_patch(clean, made) == patch.raw, patch.name


@pytest.mark.upstream
def test_a_fixup_and_its_opposite_give_todays_patches(
    workspace: Path, bait: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of the real workspace, with every setting at once."""
    toy = object.__new__(Toy)
    toy.folder, toy.project, toy.workspace = tmp_path, tmp_path / "project", tmp_path / "MiniGPT-4"
    shutil.copytree(workspace, toy.workspace, symlinks=True)
    for part in ("patches", "overlay", "configs"):
        shutil.copytree(ROOT / part, toy.project / part)
    toy.apply("lock")
    toy.apply()
    toy.git("config", "remote.origin.promisor", "true")  # mirrors may lack pictures, and then git would not commit
    config = tmp_path / "home" / ".gitconfig"
    config.parent.mkdir()
    config.write_text("".join(text.format(**bait) for text in SETTINGS.values()))
    monkeypatch.setenv("HOME", str(config.parent))
    before, path = contents(toy), "minigpt4/models/minigpt_base.py"
    assert "Nothing to export" in toy.apply("export").out
    old = toy.read(path)
    commit(toy, "fixup! Choose autocast and dtype by device", {path: old + b"\n\nADDED = True\n"})
    toy.apply("export")
    changed = {name for name, data in contents(toy).items() if data != before[name]}
    changed.remove("patches/0008-Choose-autocast-and-dtype-by-device.patch")
    assert {name for name in changed if b"a/" + path.encode() not in before[name]} == set(), "only patches of that file"
    commit(toy, "fixup! Choose autocast and dtype by device", {path: old})
    toy.apply("export")
    assert contents(toy) == before


def head(workspace: Path) -> str:
    command = ["git", "-C", str(workspace), "rev-parse", "refs/overlay/tip"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=CLEAN).stdout.strip()
