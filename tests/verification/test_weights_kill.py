"""Downloads that are killed, interrupted, out of disk or started twice: no half file has its name, the next goes on."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from downloading import CONTENT, SUM, get, leftovers, plain_network, refused, server, target
from hostile_server import Behaviour, HostileServer

from overlaykit.errors import TryAgain
from verification.download import part as parts
from verification.download.part import Part

__all__ = ["plain_network", "server", "target"]  # fixtures
PROJECT = Path(__file__).resolve().parents[2]


def test_the_disk_is_full(server: HostileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fitted is kept, and the next run goes on from there."""
    served = server.serve("/f", CONTENT, cut=[1000, None])
    write = Part._write

    def full(part: Part, piece: bytes) -> None:
        if part.size >= 1000:
            write(part, piece[:100])  # a last write may be a short one
            raise OSError(errno.ENOSPC, "No space left on device")
        write(part, piece)

    monkeypatch.setattr(Part, "_write", full)
    with pytest.raises(TryAgain, match="No space left") as caught:
        get(target, server.url + "/f")
    assert "goes on from there" in caught.value.fix
    assert not target.exists()
    monkeypatch.setattr(Part, "_write", write)
    get(target, server.url + "/f")
    assert target.read_bytes() == CONTENT
    assert served.asked[-1]["range"] == "bytes=1100-"


RUN = """
import sys
from pathlib import Path
from verification.download.fetch import Wanted, fetch
from verification.download.progress import Quiet
url, target, size, sum = sys.argv[1:]
fetch(Wanted(Path(target), (url,), int(size) or None, sum or None), Quiet())
"""


def start(url: str, target: Path, known: bool = True, limit: int = 0) -> subprocess.Popen[str]:
    def before() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it, and so would this
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    command = [sys.executable, "-c", RUN, url, str(target), str(len(CONTENT) if known else 0), SUM if known else ""]
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True, preexec_fn=before)


def wait_for(size: int, path: Path) -> None:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.stat().st_size >= size):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [600, 1234, 2999])
def test_a_run_that_is_killed_is_continued(server: HostileServer, target: Path, size: int, known: bool) -> None:
    served = server.serve("/f", CONTENT, cut=[size, None], stall=30)
    run = start(server.url + "/f", target, known)
    wait_for(size, target.with_name("file.pth.part"))
    run.kill()
    run.communicate()
    assert not target.exists()
    get(target, server.url + "/f", known=known)
    assert target.read_bytes() == CONTENT
    assert served.asked[-1]["range"] == f"bytes={size}-"


def test_killed_again_and_again(server: HostileServer, target: Path) -> None:
    """Five kills at five places, and the sixth run has it."""
    places = [530, 777, 1500, 1501, 2900]
    steps = [after - before for before, after in zip([0, *places], places)]
    served = server.serve("/f", CONTENT, cut=[*steps, None], stall=30)
    for place in places:
        run = start(server.url + "/f", target)
        wait_for(place, target.with_name("file.pth.part"))
        run.kill()
        run.communicate()
        assert leftovers(target) == {"file.pth.part", "file.pth.part.json"}
    get(target, server.url + "/f")
    assert target.read_bytes() == CONTENT
    assert [headers["range"] for headers in served.asked[1:]] == [f"bytes={place}-" for place in places]


def test_ctrl_c_keeps_the_part(server: HostileServer, target: Path) -> None:
    server.serve("/f", CONTENT, cut=[1000, None], stall=30)
    run = start(server.url + "/f", target)
    wait_for(1000, target.with_name("file.pth.part"))
    run.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in run.communicate(timeout=20)[1]
    assert target.with_name("file.pth.part").read_bytes() == CONTENT[:1000]
    assert not target.exists()


def test_a_file_system_with_a_limit(server: HostileServer, target: Path) -> None:
    """A real short write and a real EFBIG."""
    server.serve("/f", CONTENT)
    run = start(server.url + "/f", target, limit=2000)
    assert "cannot grow: File too large" in run.communicate(timeout=20)[1]
    assert target.with_name("file.pth.part").read_bytes() == CONTENT[:2000]


def test_two_runs_do_not_fight(server: HostileServer, target: Path) -> None:
    server.serve("/f", CONTENT, cut=[1000, None], stall=30)
    run = start(server.url + "/f", target)
    wait_for(1000, target.with_name("file.pth.part"))
    try:
        with pytest.raises(TryAgain, match="another run"):
            get(target, server.url + "/f")
    finally:
        run.kill()
        run.communicate()
    get(target, server.url + "/f")  # the lock went with the process
    assert target.read_bytes() == CONTENT


def test_a_lock_on_a_file_that_was_just_renamed_is_no_lock(
    target: Path, monkeypatch: pytest.MonkeyPatch, server: HostileServer
) -> None:
    """The other run finishes between our open and our lock: what we opened is its finished file."""
    lock = parts._lock
    moved: list[bool] = []

    def late(file: Any) -> None:
        if not moved:
            os.replace(target.with_name("file.pth.part"), target.with_name("finished"))
            moved.append(True)
        lock(file)

    monkeypatch.setattr(parts, "_lock", late)
    server.serve("/f", CONTENT)
    get(target, server.url + "/f")
    assert target.with_name("finished").read_bytes() == b""
    assert target.read_bytes() == CONTENT


def test_a_file_that_appeared_meanwhile_is_left_alone(server: HostileServer, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"theirs")
    with pytest.raises(TryAgain, match="appeared meanwhile"):
        get(target, server.url + "/f")
    assert target.read_bytes() == b"theirs"
    assert leftovers(target) == {"file.pth"}


def test_the_state_says_where_the_bytes_come_from(server: HostileServer, target: Path) -> None:
    served: Behaviour = server.serve("/f", CONTENT, cut=[1000, 0])
    refused(target, server.url + "/f")
    state = json.loads(target.with_name("file.pth.part.json").read_text())
    assert state == {"url": server.url + "/f", "validator": '"a"', "sha256": None}
    assert len(served.asked) == 5
