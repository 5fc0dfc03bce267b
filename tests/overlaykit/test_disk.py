"""A full disk and an interrupted transfer: nothing is lost, the state has a name, and the next run repairs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import OVERLAY, Toy, git, snapshot

from overlaykit.project import read_upstream

SSH = """# Stands for ssh: runs the command here, and breaks off after $MUCH bytes of its answer.
import os, subprocess, sys
far = subprocess.Popen(sys.argv[-1], shell=True, stdout=subprocess.PIPE)
left = int(os.environ["MUCH"])
while left > 0 and (data := os.read(far.stdout.fileno(), min(left, 4096))):
    left -= os.write(1, data)
far.kill()
"""
MINE = b"# Toy, and my notes\n"


def mount(folder: Path, size: str) -> None:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mount is not allowed here")


def resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@pytest.fixture
def mounted() -> Iterator[list[Path]]:
    """Folders to unmount at the end."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Take all of the disk but `left` bytes."""
    filler = folder / ".git" / "filler"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize
    with filler.open("wb") as file:
        file.write(b"\1" * (free - left))
    return filler


def readable(done: object) -> bool:
    told = getattr(done, "err", "")
    return "Traceback" not in told and any(word in told.lower() for word in ("space", "failed", "did not", "unable"))


@pytest.mark.parametrize("kilobytes", [40, 120, 200, 260, 300])
def test_a_disk_too_small_for_the_clone(toy: Toy, mounted: list[Path], kilobytes: int) -> None:
    mount(toy.workspace, f"{kilobytes}k")
    mounted.append(toy.workspace)
    done = toy.run()
    if done.code:
        assert (done.code in (5, 70), readable(done)) == (True, True), done.err
        assert toy.apply("status", "--json").json["outcome"] in ("absent", "interrupted", "not_applied")
    resize(toy.workspace, "8m")
    toy.apply()
    assert toy.read("run_predict.py") == OVERLAY["run_predict.py"]
    assert toy.dirty() == []


@pytest.mark.parametrize("verb", ["apply", "apply --set model_path=/b", "revert"])
def test_a_disk_that_fills_up(toy: Toy, mounted: list[Path], verb: str) -> None:
    """With more and more room, until it is enough: at every size the run fails whole or works."""
    mount(toy.workspace, "8m")
    mounted.append(toy.workspace)
    git(toy.folder, "clone", "-q", "--no-hardlinks", str(toy.upstream), str(toy.workspace))
    if verb != "apply":
        toy.apply()
    toy.write("README.md", MINE)
    outcomes = []
    for blocks in range(0, 40, 2):
        before = {name: seen[0::2] for name, seen in snapshot(toy.workspace, inside_git=False).items()}
        filler = fill(toy.workspace, blocks * 4096)
        done = toy.run(*verb.split())
        outcomes.append(done.code)
        filler.unlink()
        assert toy.read("README.md") == MINE
        if done.code == 0:
            break
        assert (done.code, readable(done)) == (70, True), done.out + done.err
        assert toy.run("status").code == 0
        after = {name: seen[0::2] for name, seen in snapshot(toy.workspace, inside_git=False).items()}
        if after != before:  # then it is said, and repaired by the next run
            assert toy.run("status", "--json").json["outcome"] == "interrupted"
    assert outcomes[0] == 70
    assert outcomes[-1] == 0, "there was enough room in the end"
    assert toy.dirty() == ["M README.md"]
    toy.apply()
    assert toy.read("run_predict.py") == OVERLAY["run_predict.py"]
    assert toy.dirty() == ["M README.md"]


def test_a_full_disk_under_the_project_keeps_the_lock_file(toy: Toy, mounted: list[Path]) -> None:
    configs = toy.project / "configs"
    files = {path.name: path.read_bytes() for path in configs.iterdir()}
    mount(configs, "16k")
    mounted.append(configs)
    for name, data in files.items():
        (configs / name).write_bytes(data)
    toy.write_overlay({"more.py": b"y = 1\n"})
    free = os.statvfs(configs).f_bavail * os.statvfs(configs).f_bsize
    (configs / "filler").write_bytes(b"\1" * free)
    done = toy.run("lock")
    assert (done.code, readable(done)) == (70, True), done.err
    assert (configs / "upstream.yaml").read_bytes() == files["upstream.yaml"]
    (configs / "filler").unlink()
    toy.apply("lock")
    assert read_upstream(configs / "upstream.yaml").result != read_upstream_of(files["upstream.yaml"], toy.folder)


def read_upstream_of(data: bytes, folder: Path) -> str:
    (folder / "then.yaml").write_bytes(data)
    return read_upstream(folder / "then.yaml").result


def test_no_room_for_temporary_files_where_they_should_go(toy: Toy, mounted: list[Path], tmp_path: Path) -> None:
    toy.apply()
    mount(tmp_path / "tmp", "4k")
    mounted.append(tmp_path / "tmp")
    (tmp_path / "tmp" / "filler").write_bytes(b"\1" * 4096)
    done = toy.spawn("--set", "model_path=/b", env={"TMPDIR": str(tmp_path / "tmp")})
    assert done.code == 0, done.err
    assert b"/b/ckpt.pth" in toy.read("eval_configs/eval.yaml")


def test_a_fetch_that_breaks_off_changes_nothing(toy: Toy, tmp_path: Path) -> None:
    """The far end dies in the middle of the pack."""
    toy.apply()
    (toy.upstream / "big.bin").write_bytes(os.urandom(1 << 20))
    git(toy.upstream, "add", "big.bin")
    git(toy.upstream, "commit", "-q", "-m", "Big")
    toy.pin = git(toy.upstream, "rev-parse", "HEAD").decode().strip()
    toy.write_pin(url=f"ssh://host{toy.upstream}")
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!{sys.executable}\n{SSH}")
    ssh.chmod(0o755)
    config = tmp_path / "gitconfig"
    config.write_text(f"[core]\n\tsshCommand = {ssh}\n")
    env = {"GIT_CONFIG_GLOBAL": str(config), "HOME": str(tmp_path), "MUCH": "300000"}
    before = snapshot(toy.workspace, inside_git=False)
    done = toy.spawn(env=env)
    assert (done.code, f"ssh://host{toy.upstream}" in done.err) == (5, True), done.err
    assert snapshot(toy.workspace, inside_git=False) == before
    assert toy.apply("status", "--json").json["outcome"] == "outdated"
    for verb in ("lock", "apply"):
        done = toy.spawn(verb, env={**env, "MUCH": "9999999"})
        assert done.code == 0, done.err
    assert (toy.workspace / "big.bin").exists()
