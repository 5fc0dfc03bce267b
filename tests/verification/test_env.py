"""`verify.py env` on machines made of files. WRITE_GOLDEN=1 writes golden_env/ anew: read the difference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import verify
from tests.verification.env_machines import BENCH, MACHINES, PACKAGES, Fake
from verification import env, env_source, env_system
from verification.env_source import Source

PROJECT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden_env"


def look(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    make, _ = MACHINES[name]
    fake = Fake(tmp_path / "root")
    make(fake)
    code = env.main(["--root", str(fake.root), *options], fake.env)
    return code, capsys.readouterr().out


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_gives_its_golden_output(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = look(tmp_path, name, capsys)
    place = GOLDEN / f"{name}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        place.write_text(out, encoding="utf-8")
    assert out == place.read_text(encoding="utf-8")
    assert code == MACHINES[name][1]
    assert str(tmp_path) not in out
    assert "SECRET" not in out


def test_json_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = look(tmp_path, "seed", capsys, "--json")
    content = json.loads(out)
    assert content["exit_code"] == code == 1
    assert {found["name"] for found in content["findings"] if found["outcome"] == "FAILED"} == {
        "torch_npu",
    }
    assert content["machine"].startswith("8 NPUs (Ascend910B3)")


def test_a_folder_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["env", "--root", str(tmp_path / "no")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_it_says_what_this_machine_is_and_imports_no_torch_itself() -> None:
    """As a user runs it, whatever this machine has."""
    script = "import sys, verify; code = verify.main(['env']); assert 'torch' not in sys.modules; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=250)
    assert done.returncode in (0, 1, 5), done.stderr
    assert done.stdout.startswith("machine  ")
    assert not done.stderr


def test_a_container_has_the_memory_of_its_limit(tmp_path: Path) -> None:
    fake = Fake(tmp_path).system("x", "x86_64", "2.35", free=500, total=800)
    assert env_system.memory(Source(tmp_path, {})) == (800_000, 500_000)
    fake.file("sys/fs/cgroup/memory.max", str(32 * 10**9))
    fake.file("sys/fs/cgroup/memory.current", str(30 * 10**9))
    assert env_system.memory(Source(tmp_path, {})) == (32_000, 2_000)
    fake.file("sys/fs/cgroup/memory.max", "max\n")
    assert env_system.memory(Source(tmp_path, {})) == (800_000, 500_000)


def test_a_driver_that_hangs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(env_source, "TIMEOUT", 0.3)
    fake = Fake(tmp_path / "root").system("x", "aarch64", "2.35").program("npu-smi", "sleep 60 & sleep 60")
    started = time.monotonic()
    assert env.main(["--root", str(fake.root)], fake.env) == 1
    assert time.monotonic() - started < 10
    assert "npu-smi info did not answer in 0.3 s: the driver hangs" in capsys.readouterr().out


def test_a_container_without_npu_smi_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Serving images often run like that: what is not known is said, and nothing is called wrong."""
    fake = Fake(tmp_path / "root").system("x", "aarch64", "2.35").container().driver("25.5.0", cards=1)
    fake.cann("8.5.0").python("3.11.13", {**PACKAGES, **BENCH, "torch": "2.9.0", "torch_npu": "2.9.0"})
    assert env.main(["--root", str(fake.root)], fake.env) == 5
    out = capsys.readouterr().out
    assert "npu-smi is not here, so processor, health and free memory are not known." in out
    assert "FAILED" not in out


def test_device_files_of_another_user(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(tmp_path / "root")
    MACHINES["current"][0](fake)
    closed = fake.root / "dev" / "davinci0"
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and may(path, mode))
    assert env.main(["--root", str(fake.root)], fake.env) == 1
    out = capsys.readouterr().out
    assert "This user may not open davinci0" in out
    assert "usermod -aG HwHiAiUser" in out


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("https_proxy", "http://me:pw@host:3128", "http://…@host:3128"),
        ("HTTP_PROXY", "me:pw@host:3128", "…@host:3128"),
        ("HF_ENDPOINT", "https://host/api?sig=pw#pw", "https://host/api?…"),
        ("HF_TOKEN", "pw", "(set, not shown)"),
        ("HF_ENDPOINT", "https://hf-mirror.com", "https://hf-mirror.com"),
        ("all_proxy", "socks5://u:p@w@host", "socks5://…@host"),
    ],
)
def test_secrets_are_not_shown(name: str, value: str, shown: str) -> None:
    assert env_source.redacted(name, value) == shown


def test_latest_and_its_release_are_one_toolkit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to CANN 8.3 `latest` is a folder of links into the release's folder."""
    fake = Fake(tmp_path / "root")
    MACHINES["exchangeable"][0](fake)
    kit = fake.root / "usr/local/Ascend/ascend-toolkit"
    (kit / "8.3.RC1").mkdir()
    (kit / "latest" / "lib64").rename(kit / "8.3.RC1" / "lib64")
    (kit / "latest" / "lib64").symlink_to("../8.3.RC1/lib64")
    fake.env["LD_LIBRARY_PATH"] += f":{kit}/8.3.RC1/lib64"
    assert env.main(["--root", str(fake.root)], fake.env) == 0
    assert "Libraries of two CANN releases" not in capsys.readouterr().out


def test_memory_is_that_of_the_visible_npus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another program fills one card; the run that shall use it is told."""
    fake = Fake(tmp_path / "root")
    MACHINES["current"][0](fake)
    table = fake.root / "tmp" / "info"
    table.write_text(table.read_text().replace("3362 / 65536", "60000/ 65536"))
    for visible, code, shown in (
        ("2", 1, "5.5 of 65.5 GB free on npu:0"),
        ("2,3", 0, "62.2 of 65.5 GB free on npu:1, at least 5.5 on all 2"),
    ):
        fake.env["ASCEND_RT_VISIBLE_DEVICES"] = visible
        assert env.main(["--root", str(fake.root)], fake.env) == code
        assert shown in capsys.readouterr().out


def test_an_old_glibc_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = Fake(tmp_path / "root").system("CentOS Linux 7 (Core)", "x86_64", "2.17").python("3.9.18", PACKAGES)
    assert env.main(["--root", str(fake.root)], fake.env) == 1
    assert "1 wrong: glibc." in capsys.readouterr().out
