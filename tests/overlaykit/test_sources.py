"""Where upstream may come from, and what is said when it cannot be had."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from toys import ROOT, Toy, git, heed_interrupts, snapshot

from overlaykit.sources import CLONING

NOBODY = "https://127.0.0.1:9/MiniGPT-4.git"  # refused at once


def files_of(toy: Toy) -> dict[str, object]:
    return {name: seen[2] for name, seen in snapshot(toy.workspace, inside_git=False).items()}


@pytest.fixture
def away(toy: Toy) -> Toy:
    """A toy whose pinned URL and mirror cannot be reached."""
    result = git(toy.upstream, "rev-parse", "HEAD^{tree}").decode().strip()
    locked = next(
        line.split('"')[1]
        for line in (toy.project / "configs" / "upstream.yaml").read_text().split("\n")
        if line.startswith("result")
    )
    assert locked != result
    toy.write_pin(url=NOBODY, mirrors=["https://127.0.0.1:9/mirror.git"], result=f'"{locked}"')
    return toy


def test_no_network_names_every_address_and_the_ways_out(away: Toy) -> None:
    before = snapshot(away.folder)
    for verb in ("apply", "check", "lock"):
        done = away.run(verb)
        assert done.code == 5
        for word in (NOBODY, "https://127.0.0.1:9/mirror.git", "--upstream", "mirror", "folder", "bundle create"):
            assert word in done.err
    assert snapshot(away.folder) == before


def test_a_mirror_is_used_when_the_first_address_fails(toy: Toy) -> None:
    locked = (toy.project / "configs" / "upstream.yaml").read_text().split('result: "')[1].split('"')[0]
    toy.write_pin(url=NOBODY, mirrors=[f"file://{toy.upstream}"], result=f'"{locked}"')
    toy.apply()
    assert toy.read("run_predict.py")


def bundle(toy: Toy) -> str:
    git(toy.upstream, "bundle", "create", "-q", str(toy.folder / "up.bundle"), "--all")
    return "up.bundle"


def bundle_of_a_branch_without_head(toy: Toy) -> str:
    git(toy.upstream, "bundle", "create", "-q", str(toy.folder / "up.bundle"), "main")
    return "up.bundle"


def bare_folder(toy: Toy) -> str:
    git(toy.folder, "clone", "-q", "--mirror", str(toy.upstream), str(toy.folder / "up.git"))
    return "./up.git"


def folder_with_worktree(toy: Toy) -> str:
    return "upstream/"


def mirror_url(toy: Toy) -> str:
    return f"file://{toy.upstream}"


def shallow_clone(toy: Toy) -> str:
    git(toy.folder, "clone", "-q", "--depth=1", f"file://{toy.upstream}", str(toy.folder / "shallow"))
    return "shallow"


def mirror_that_lacks_a_picture(toy: Toy) -> str:
    source = toy.folder / "up.git"
    git(toy.folder, "clone", "-q", "--bare", str(toy.upstream), str(source))
    blob = git(source, "rev-parse", "HEAD:figs/picture.png").decode().strip()
    for pack in list((source / "objects" / "pack").glob("*.pack")):
        data = pack.read_bytes()
        for file in pack.parent.glob(f"{pack.stem}.*"):
            file.unlink()
        git(source, "unpack-objects", "-q", stdin=data)
    lost = source / "objects" / blob[:2] / blob[2:]
    assert lost.exists()
    lost.unlink()
    return "up.git"


@pytest.mark.parametrize(
    "make",
    [
        bundle,
        bundle_of_a_branch_without_head,
        bare_folder,
        folder_with_worktree,
        mirror_url,
        shallow_clone,
        mirror_that_lacks_a_picture,
    ],
)
def test_what_upstream_may_be(away: Toy, make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(make)
    monkeypatch.chdir(away.folder)
    source = make(away)
    assert away.run("check", "--upstream", source).code == 0
    away.apply("--upstream", source)
    assert away.read("run_predict.py")
    assert not (away.workspace / "figs").exists(), "left out by sparse checkout"
    assert away.dirty() == []
    assert sorted(path.name for path in away.folder.glob(".*")) == [], "nothing is left beside the workspace"
    away.apply("revert")
    assert away.git("symbolic-ref", "HEAD") == "refs/heads/main"
    assert away.dirty() == []


def a_zip(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder / "MiniGPT-4-main"), "zip", folder / "unpacked"))


def a_tarball(folder: Path) -> Path:
    with tarfile.open(folder / "MiniGPT-4-main.tar.gz", "w:gz") as tar:
        tar.add(folder / "unpacked", "MiniGPT-4-main")
    return folder / "MiniGPT-4-main.tar.gz"


def an_unpacked_zip(folder: Path) -> Path:
    return folder / "unpacked"


@pytest.mark.parametrize("make", [a_zip, a_tarball, an_unpacked_zip])
def test_a_downloaded_archive_is_refused_with_the_reason(toy: Toy, make: object) -> None:
    assert callable(make)
    shutil.copytree(toy.upstream, toy.folder / "unpacked", ignore=shutil.ignore_patterns(".git"))
    done = toy.run("--upstream", str(make(toy.folder)))
    assert done.code == 2
    assert "not the commits" in done.err
    assert "bundle create" in done.err
    assert not toy.workspace.exists()


def test_an_unpacked_zip_as_workspace_is_refused_with_the_reason(toy: Toy) -> None:
    shutil.copytree(toy.upstream, toy.workspace, ignore=shutil.ignore_patterns(".git"))
    before = snapshot(toy.folder)
    for verb in ("apply", "check", "status", "revert"):
        done = toy.run(verb)
        assert (done.code, "unpacked ZIP" in done.err) == (2, True)
    assert snapshot(toy.folder) == before


@pytest.mark.parametrize("what", ["file", "broken bundle"])
def test_other_files_are_refused(toy: Toy, what: str) -> None:
    path = toy.folder / "notes.txt"
    path.write_bytes(b"# v2 git bundle\nnonsense\n" if what == "broken bundle" else b"hello\n")
    assert toy.run("--upstream", str(path)).code == (5 if what == "broken bundle" else 2)
    assert not toy.workspace.exists()


def test_another_repository_does_not_hold_the_pin(toy: Toy) -> None:
    other = toy.folder / "other"
    git(toy.folder, "init", "-q", str(other))
    git(other, "commit", "-q", "--allow-empty", "-m", "Other")
    done = toy.run("--upstream", str(other))
    assert (done.code, "does not hold commit" in done.err) == (5, True)
    assert not toy.workspace.exists()


def test_an_empty_folder_may_become_the_workspace(toy: Toy) -> None:
    """It may be a mount point: then it cannot be replaced. So it must stay the same folder."""
    toy.workspace.mkdir()
    same = toy.workspace.stat().st_ino
    assert toy.run("--upstream", f"{NOBODY}x").code == 5
    assert list(toy.workspace.iterdir()) == []
    toy.apply()
    assert toy.read("run_predict.py")
    assert toy.workspace.stat().st_ino == same


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount")
def test_a_mount_point_may_become_the_workspace(toy: Toy) -> None:
    toy.workspace.mkdir()
    command = ["mount", "-t", "tmpfs", "none", str(toy.workspace)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mount is not allowed here")
    try:
        toy.apply()
        assert toy.dirty() == []
    finally:
        subprocess.run(["umount", "-l", str(toy.workspace)], check=True)


def test_a_place_that_cannot_be_written_to_is_refused_before_the_clone(toy: Toy) -> None:
    (toy.folder / "file").write_text("not a folder\n")  # holds for root too, whom modes do not stop
    toy.workspace = toy.folder / "file" / "MiniGPT-4"
    done = toy.run()
    assert (done.code, "cannot be written to" in done.err, "Cloning" in done.err) == (2, True, False)


def test_what_a_killed_clone_left_is_cleared_away(toy: Toy) -> None:
    rest = toy.workspace / CLONING / "repo" / "half"
    rest.mkdir(parents=True)
    (rest / "file").write_text("half\n")
    assert toy.apply("status", "--json").json["outcome"] == "absent"
    toy.apply()
    assert toy.dirty() == []


@pytest.mark.parametrize("moved", [0, 2, 100])
def test_a_clone_killed_while_it_moved_into_place_is_finished(toy: Toy, moved: int) -> None:
    done = toy.workspace / CLONING / "done"
    git(toy.folder, "clone", "-q", str(toy.upstream), str(done))
    for path in sorted(done.iterdir(), key=lambda path: path.name == ".git")[:moved]:
        path.rename(toy.workspace / path.name)
    toy.apply()
    assert toy.dirty() == []


def test_a_file_that_appears_during_the_clone_is_kept(toy: Toy) -> None:
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace / CLONING / "done"))
    toy.write("demo.py", b"mine\n")
    assert toy.run().code == 3
    assert toy.read("demo.py") == b"mine\n"
    (toy.workspace / "demo.py").unlink()
    toy.apply()
    assert toy.dirty() == []


def test_progress_is_shown_on_a_terminal_and_not_in_a_pipe(toy: Toy) -> None:
    assert "Receiving" not in toy.spawn("--upstream", f"file://{toy.upstream}").err
    shutil.rmtree(toy.workspace)
    leader, follower = pty.openpty()
    words = toy.arguments("--upstream", f"file://{toy.upstream}")
    done = subprocess.run([sys.executable, str(ROOT / "apply.py"), *words], stderr=follower, stdout=subprocess.PIPE)
    os.close(follower)
    shown = os.read(leader, 65536)
    os.close(leader)
    assert done.returncode == 0
    assert b"Receiving objects: 100%" in shown
    assert b"Receiving" not in done.stdout


def test_an_interrupted_clone_leaves_nothing_and_restarts(toy: Toy, tmp_path: Path) -> None:
    real = shutil.which("git")
    script = f'#!/bin/sh\ncase "$1" in clone) touch {tmp_path}/cloning; sleep 30;; esac\nexec {real} "$@"\n'
    (tmp_path / "git").write_text(script)
    (tmp_path / "git").chmod(0o755)
    command = [sys.executable, str(ROOT / "apply.py"), *toy.arguments()]
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        command, env=env, start_new_session=True, preexec_fn=heed_interrupts, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "cloning").exists():
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches the whole group
    _, told = process.communicate()
    assert process.returncode == 130
    assert "Interrupted" in told
    assert "Traceback" not in told
    assert not toy.workspace.exists()
    toy.apply()
