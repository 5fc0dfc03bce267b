"""What the environment doctor must survive: odd files, odd programs, odd variables, and files of another machine."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.verification.env_machines import ASCEND, MACHINES, Fake
from verification import env, env_python, env_source, env_system
from verification.env_machine import read_machine
from verification.env_source import HIDDEN, Source, redacted, run_child
from verification.overlay_modules import import_overlay

PROJECT = Path(__file__).resolve().parents[2]
SITE = "usr/local/lib/python3.11/site-packages"


@pytest.fixture
def good(tmp_path: Path) -> Fake:
    fake = Fake(tmp_path / "root")
    MACHINES["current"][0](fake)
    return fake


def report(fake: Fake) -> env.EnvReport:
    return env.examine(PROJECT, Source(fake.root, fake.env))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://me:p/w@host:3128", "http://…@host:3128"),
        ("http://me:p w@host", "http://…@host"),
        ("me:p/w@host:3128", "…@host:3128"),
        ("http://me:p?w@host:3128", HIDDEN),
        ("http://me:p#w@host:3128", HIDDEN),
        ("https://host/?sig=p@w", HIDDEN),
        ("hf-mirror.com?sig=pw", "hf-mirror.com?…"),
        ("hf-mirror.com/x\n?sig=pw", "hf-mirror.com/x\n?…"),
    ],
)
def test_no_part_of_a_secret_is_shown(value: str, shown: str) -> None:
    assert redacted("https_proxy", value) == shown


def test_secrets_of_every_variable_that_is_shown(good: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is printed about variables goes through the one function that hides."""
    names = ("HF_ENDPOINT", "http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY")
    for name in names:
        good.env[name] = "http://me:SECRET/SECRET@host?SECRET#SECRET"
    good.env["HF_TOKEN"] = "SECRET"
    for options in ((), ("--json",)):
        env.main(["--root", str(good.root), *options], good.env)
        assert "SECRET" not in capsys.readouterr().out


def test_metadata_that_cannot_be_read(good: Fake) -> None:
    """Old packages name their author in Latin-1; a killed pip leaves folders without METADATA."""
    for name, content in (("author", b"Name: author\nVersion: 1\nAuthor: J\xf6rg\n"), ("empty", b""), ("gone", None)):
        folder = good.root / SITE / f"{name}-1.dist-info"
        folder.mkdir()
        if content is not None:
            (folder / "METADATA").write_bytes(content)
    (good.root / SITE / "folder-1.dist-info" / "METADATA").mkdir(parents=True)
    assert report(good).exit_code == 0


def test_pipes_folders_and_huge_files_are_no_files(good: Fake) -> None:
    (good.root / "etc/os-release").unlink()
    os.mkfifo(good.root / "etc/os-release")
    (good.root / "proc/meminfo").unlink()
    (good.root / "proc/meminfo").mkdir()
    with open(good.root / "proc" / "version", "wb") as file:
        file.truncate(10 * 2**30)  # with holes: no such room is taken
    started = time.monotonic()
    found = report(good)
    assert "an unknown system" in found.machine
    assert "host memory" not in {it.name for it in found.findings}
    assert len(Source(good.root, good.env).text("/proc/version")) == env_source.LARGEST
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("place", ["/" + "x" * 5000, "loop", "\udcff", "/root/no"])
def test_variables_that_name_impossible_folders(good: Fake, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Path.exists raises errors for some of them, and Path.resolve for a link to itself."""
    if place == "loop":
        place = str(good.root / "loop")
        os.symlink(place, place)
    for name in ("LD_LIBRARY_PATH", "PYTHONPATH"):
        good.env[name] += f":{place}/lib64"
    good.env["ASCEND_HOME_PATH"] = place
    assert env.main(["--root", str(good.root)], good.env) == 0
    assert "These do not exist" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["²", "0,²", "9" * 5000, "-1", ","])
def test_numbers_that_are_none(good: Fake, value: str) -> None:
    good.env["ASCEND_RT_VISIBLE_DEVICES"] = value
    assert [it.name for it in report(good).wrong] == ["ASCEND_RT_VISIBLE_DEVICES"]


def test_npu_smi_that_prints_anything(good: Fake) -> None:
    """Its table with characters changed, lines lost, cut off: never a crash."""
    table = (good.root / "tmp" / "info").read_text()
    chance = random.Random(5)
    for _ in range(25):
        text = list(table)
        for _ in range(chance.choice((1, 30, 600))):
            text[chance.randrange(len(text))] = chance.choice("|²٣ \n\0x90/:\x1b")
        (good.root / "tmp" / "info").write_text("".join(text)[: chance.randrange(len(text))])
        found = report(good)
        assert found.exit_code in (0, 1, 5)
        assert "\x1b" not in env.to_table(found)


def test_npu_smi_that_prints_without_end(good: Fake) -> None:
    good.program("npu-smi", "yes '| 0 910B3 | OK |'")
    started = time.monotonic()
    found = report(good)
    assert time.monotonic() - started < 15
    assert any("npu-smi info prints without end" in it.why for it in found.wrong)


def test_npu_smi_is_not_asked_again_after_it_hung(good: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table comes, and each card's board would take the whole time limit."""
    monkeypatch.setattr(env_source, "TIMEOUT", 0.4)
    good.npu_smi("a3", board="a3.board")
    good.program("npu-smi", f"case \"$*\" in *board*) sleep 60;; *) cat '{good.root}/tmp/info';; esac")
    started = time.monotonic()
    assert "NPUs (Ascend910)" in report(good).machine
    assert time.monotonic() - started < 1.5


def test_npu_smi_of_this_machine_is_found_on_path(good: Fake) -> None:
    live = Source(Path("/"), {"PATH": f"{good.root}/usr/local/bin:/usr/bin:/bin"})
    assert len(read_machine(live, import_overlay(PROJECT / "overlay"), good.root).npus) == 8


def test_a_closed_pipe_is_no_traceback(good: Fake) -> None:
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "verify.py"), "env", "--root", str(good.root)], env={**os.environ, **good.env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_programs_that_cannot_be_started(good: Fake) -> None:
    (good.root / "usr/local/bin/npu-smi").write_bytes(b"\x7fELF of another processor")
    (good.root / "usr/local/bin/nvidia-smi").mkdir()
    assert "npu-smi info failed (exit code 126)" in report(good).wrong[0].why


def test_no_place_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full or read-only: just then the doctor is needed."""
    monkeypatch.setattr(env_source.tempfile, "TemporaryFile", None)
    assert run_child(["echo", "it works"], 10, os.environ) == (0, "it works\n")


def test_links_stay_below_the_root(good: Fake) -> None:
    """As in an unpacked container image, where they mean that image's own /usr."""
    kit = good.root / ASCEND
    (kit / "cann").rename(kit / "cann-9.1.0")
    (kit / "cann").symlink_to(f"/{ASCEND}/cann-9.1.0")
    good.env.clear()
    (good.root / "usr/lib").mkdir(exist_ok=True)
    (good.root / "etc/os-release").rename(good.root / "usr/lib/os-release")
    (good.root / "etc/os-release").symlink_to("../../../../../../../../../../usr/lib/os-release")
    found = report(good)
    assert "Ubuntu 22.04.5" in found.machine
    assert found.exit_code == 0, env.to_table(found)
    os.unlink(good.root / "etc/os-release")
    (good.root / "etc/os-release").symlink_to(__file__)
    assert Source(good.root, {}).text("/etc/os-release") == ""
    loop = good.root / "etc/loop"
    loop.symlink_to("loop")
    assert Source(good.root, {}).text("/etc/loop") == ""


def test_another_machines_files_seen_from_this_shell(good: Fake, capsys: Any, tmp_path: Path) -> None:
    """A good machine stays good: this shell has not sourced its CANN, and has one of its own, which is not shown."""
    here = Fake(tmp_path / "here").system("x", "aarch64", "2.35").cann("7.0.0", "ascend-toolkit/latest")
    assert env.main(["--root", str(good.root)], {**here.env, "PWD": str(good.root)}) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "toolkit ok 9.1.0 in /usr/local/Ascend/cann" in out
    assert "variables note not looked at" in out
    assert "7.0.0" not in out


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_terminal_without_utf8(good: Fake, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    good.file("etc/os-release", 'PRETTY_NAME="Système É"\n')
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert env.main(["--root", str(good.root), *options], good.env) == 0
    terminal.seek(0)
    said = terminal.read()
    assert "Système É" in json.loads(said)["machine"] if options else "Syst\\xe8me" in said


def test_a_container_limit_that_is_no_number(tmp_path: Path) -> None:
    fake = Fake(tmp_path).system("x", "x86_64", "2.35", free=500, total=800)
    fake.file("sys/fs/cgroup/memory.max", "²")
    fake.file("sys/fs/cgroup/memory.current", "²")
    assert env_system.memory(Source(tmp_path, {})) == (800_000, 500_000)


def test_a_trial_that_prints_like_ours(good: Fake, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("print('TRIAL 3')\nprint('TRIAL {')\nraise ImportError('no')")
    found = env_python.try_torch(Source(Path("/"), {**os.environ, "PYTHONPATH": str(tmp_path)}), 20)
    assert (found.step, found.said) == ("import torch", "ImportError: no")
