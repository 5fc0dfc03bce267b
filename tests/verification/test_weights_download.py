"""Downloads against a server that lies, cuts, stalls and changes: the file is right and whole, or not there."""

from __future__ import annotations

import email.utils
import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_server import Behaviour, HostileServer, hostile_server, sha256

from overlaykit.errors import TryAgain
from verification.download import part as parts
from verification.download.fetch import Fetched, Patience, Wanted, fetch
from verification.download.part import Part
from verification.download.progress import Quiet

PROJECT = Path(__file__).resolve().parents[2]
CONTENT = random.Random(0).randbytes(3000)
SUM = sha256(CONTENT)
PAGE = b"<!DOCTYPE html><html><body>Google Drive can't scan this file for viruses.</body></html>"


class Heard(Quiet):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "file.pth"


def patience(slept: list[float] | None = None, **others: Any) -> Patience:
    return Patience(**{"timeout": 5.0, "sleep": (slept if slept is not None else []).append, **others})


def get(target: Path, *urls: str, known: bool = True, show: Quiet | None = None, **how: Any) -> Fetched:
    wanted = Wanted(target, urls, len(CONTENT) if known else None, SUM if known else None)
    return fetch(wanted, show or Quiet(), patience(**how))


def leftovers(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} if target.parent.exists() else set()


def refused(target: Path, *urls: str, **how: Any) -> str:
    with pytest.raises(TryAgain) as caught:
        get(target, *urls, **how)
    assert not target.exists()
    assert "Run the same command again" in caught.value.fix
    return caught.value.why


@pytest.mark.parametrize("known", [True, False])
def test_a_file_arrives_whole_and_alone(server: HostileServer, target: Path, known: bool) -> None:
    server.serve("/f", CONTENT)
    done = get(target, server.url + "/f", known=known)
    assert target.read_bytes() == CONTENT
    assert (done.sha256, done.bytes, done.announced) == (SUM, len(CONTENT), False)
    assert leftovers(target) == {"file.pth"}


@pytest.mark.parametrize("known", [True, False])
def test_the_connection_is_cut_again_and_again(server: HostileServer, target: Path, known: bool) -> None:
    """Also after 0 bytes, and so often that only going on from the part can end it."""
    cuts = random.Random(1)
    served = server.serve("/f", CONTENT, cut=[0, 1, *(cuts.randrange(200) for _ in range(60)), None])
    get(target, server.url + "/f", known=known)
    assert target.read_bytes() == CONTENT
    asked = [int(headers["range"][6:-1]) for headers in served.asked if "range" in headers]
    assert asked == sorted(asked)
    assert asked[-1] > 2000
    assert all(headers["if-range"] == '"a"' for headers in served.asked if "range" in headers)


def test_every_single_byte_is_a_good_place_to_cut(server: HostileServer, tmp_path: Path) -> None:
    content = CONTENT[:40]
    for cut in range(len(content)):
        served = server.serve("/f", content, cut=[cut, None])
        fetch(Wanted(tmp_path / str(cut), (server.url + "/f",), 40, sha256(content)), Quiet(), patience())
        assert (tmp_path / str(cut)).read_bytes() == content
        assert len(served.asked) == 2


@pytest.mark.parametrize("size", [0, 1, 1500, 2999, 3000])
def test_a_part_of_an_earlier_run_is_continued(server: HostileServer, target: Path, size: int) -> None:
    served = server.serve("/f", CONTENT)
    target.parent.mkdir()
    target.with_name("file.pth.part").write_bytes(CONTENT[:size])
    get(target, server.url + "/f")
    assert target.read_bytes() == CONTENT
    ranges = [headers.get("range") for headers in served.asked]
    assert ranges == ([] if size == 3000 else [f"bytes={size}-" if size else None])


@pytest.mark.parametrize("part", [b"x" * 1500, b"x" * 3000, CONTENT + b"more"])
def test_a_part_of_something_else_is_given_up(server: HostileServer, target: Path, part: bytes) -> None:
    server.serve("/f", CONTENT)
    target.parent.mkdir()
    target.with_name("file.pth.part").write_bytes(part)
    get(target, server.url + "/f")
    assert target.read_bytes() == CONTENT


def test_an_unpublished_file_is_not_continued_without_knowing_its_source(server: HostileServer, target: Path) -> None:
    served = server.serve("/f", CONTENT)
    target.parent.mkdir()
    target.with_name("file.pth.part").write_bytes(b"x" * 1500)
    target.with_name("file.pth.part.json").write_text('{"url": ')  # cut off
    get(target, server.url + "/f", known=False)
    assert target.read_bytes() == CONTENT
    assert "range" not in served.asked[0]


def test_a_server_that_ignores_ranges(server: HostileServer, target: Path) -> None:
    """It sends everything from the start: what is here already is skipped, not lost."""
    served = server.serve("/f", CONTENT, cut=[2000, 1000, None], ranges=False)
    get(target, server.url + "/f")
    assert target.read_bytes() == CONTENT
    assert len(served.asked) == 3
    server.serve("/g", CONTENT, cut=[2000, 1000, None], ranges=False)
    get(target.with_name("other"), server.url + "/g", known=False)
    assert target.with_name("other").read_bytes() == CONTENT


@pytest.mark.parametrize("if_range", [True, False])
def test_the_file_changes_between_two_requests(server: HostileServer, target: Path, if_range: bool) -> None:
    """Old and new bytes are never mixed, also where the server ignores If-Range."""
    old = bytes(reversed(CONTENT))
    served = server.serve("/f", old, cut=[1000, None], etag=['"old"', '"new"'], if_range=if_range)
    served.after = lambda: setattr(served, "content", CONTENT)
    get(target, server.url + "/f", known=False)
    assert target.read_bytes() == CONTENT


def test_without_an_etag_the_date_is_used(server: HostileServer, target: Path) -> None:
    date = "Wed, 01 May 2024 00:00:00 GMT"
    served = server.serve("/f", CONTENT, cut=[1000, None], etag=[None], headers={"Last-Modified": date})
    served.if_range = False
    get(target, server.url + "/f", known=False)
    assert served.asked[1]["if-range"] == date
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("tag", [None, 'W/"a"'])
def test_without_a_strong_validator_it_starts_again(server: HostileServer, target: Path, tag: str | None) -> None:
    served = server.serve("/f", CONTENT, cut=[1000, None], etag=[tag])
    get(target, server.url + "/f", known=False)
    assert "range" not in served.asked[1]
    assert target.read_bytes() == CONTENT


def test_a_length_that_is_too_long(server: HostileServer, target: Path) -> None:
    server.serve("/f", CONTENT, claim=10)
    assert "has 3,010 bytes, not the 3,000" in refused(target, server.url + "/f")
    assert "ended after 3,000 of 3,010 bytes" in refused(target.with_name("g"), server.url + "/f", known=False)


def test_a_length_that_is_too_short(server: HostileServer, target: Path) -> None:
    server.serve("/f", CONTENT, claim=-10)
    assert "has 2,990 bytes, not the 3,000" in refused(target, server.url + "/f")
    server.serve("/g", CONTENT, claim=-10, headers={"X-Linked-ETag": f'"{SUM}"'})
    assert "sha256" in refused(target.with_name("g"), server.url + "/g", known=False)


def test_content_that_is_cut_off_is_seen_before_it_gets_its_name(server: HostileServer, target: Path) -> None:
    """No size, no sum: only what the file itself says about its end."""
    server.serve("/f", CONTENT, claim=-10)
    whole = Wanted(target, (server.url + "/f",), trouble=lambda path: "" if path.stat().st_size == 3000 else "cut off")
    with pytest.raises(TryAgain, match="could not be fetched") as caught:
        fetch(whole, Quiet(), patience())
    assert caught.value.why.endswith("cut off")
    assert not target.exists()


def test_no_length_at_all(server: HostileServer, target: Path) -> None:
    server.serve("/f", CONTENT, length=False)
    get(target, server.url + "/f")
    assert "does not say how long" in refused(target.with_name("g"), server.url + "/f", known=False)


def test_no_length_and_cut(server: HostileServer, target: Path) -> None:
    served = server.serve("/f", CONTENT, length=False, cut=[1000, None])
    get(target, server.url + "/f")
    assert target.read_bytes() == CONTENT
    assert served.asked[1]["range"] == "bytes=1000-"


def test_more_than_the_file(server: HostileServer, target: Path) -> None:
    server.serve("/f", CONTENT + b"more", length=False)
    assert "more than the 3,000 bytes" in refused(target, server.url + "/f")


def test_a_web_page_with_200(server: HostileServer, target: Path) -> None:
    server.serve("/typed", PAGE, headers={"Content-Type": "text/html; charset=utf-8"})
    server.serve("/untyped", PAGE)
    server.serve("/padded", b"\xef\xbb\xbf\n  " + PAGE.ljust(len(CONTENT) - 6))
    for path in ("/typed", "/untyped", "/padded"):
        assert "web page" in refused(target, server.url + path, known=False), path
        assert refused(target, server.url + path)
    assert "web page" in refused(target, server.url + "/padded")
    server.serve("/f", CONTENT)
    get(target, server.url + "/typed", server.url + "/f")
    assert target.read_bytes() == CONTENT


def test_a_web_page_does_not_cost_the_part(server: HostileServer, target: Path) -> None:
    server.serve("/page", PAGE.ljust(len(CONTENT)), ranges=False)
    served = server.serve("/f", CONTENT)
    target.parent.mkdir()
    target.with_name("file.pth.part").write_bytes(CONTENT[:2500])
    get(target, server.url + "/page", server.url + "/f")
    assert served.asked[0]["range"] == "bytes=2500-"


def test_a_git_lfs_pointer(server: HostileServer, target: Path) -> None:
    server.serve("/f", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3000\n")
    assert "LFS pointer" in refused(target, server.url + "/f", known=False)


def test_a_wrong_sum_goes_to_the_next_mirror(server: HostileServer, target: Path) -> None:
    wrong = server.serve("/wrong", CONTENT[:-1] + b"?")
    server.serve("/f", CONTENT)
    heard = Heard()
    done = get(target, server.url + "/wrong", server.url + "/f", show=heard)
    assert done.url.endswith("/f")
    assert target.read_bytes() == CONTENT
    assert len(wrong.asked) == 1
    assert any("has the sha256" in text and "/wrong" in text for text in heard.said)


def test_a_part_goes_on_from_another_mirror(server: HostileServer, target: Path) -> None:
    server.serve("/a", CONTENT, cut=[2000, 0])
    second = server.serve("/b", CONTENT, etag=['"b"'])
    get(target, server.url + "/a", server.url + "/b")
    assert target.read_bytes() == CONTENT
    assert second.asked[0]["range"] == "bytes=2000-"
    assert "if-range" not in second.asked[0]


def test_without_a_known_sum_two_mirrors_are_not_mixed(server: HostileServer, target: Path) -> None:
    server.serve("/a", bytes(reversed(CONTENT)), cut=[2000, 0])
    second = server.serve("/b", CONTENT)
    get(target, server.url + "/a", server.url + "/b", known=False)
    assert target.read_bytes() == CONTENT
    assert "range" not in second.asked[0]


def test_416_for_ever(server: HostileServer, target: Path) -> None:
    served = server.serve("/f", CONTENT, status=[416])
    assert "nothing after the part" in refused(target, server.url + "/f")
    assert len(served.asked) == 4


def test_redirects_are_followed_with_the_range(server: HostileServer, target: Path) -> None:
    announced = {"Location": "/cdn", "X-Linked-ETag": f'"{SUM}"'}
    server.serve("/f", b"", status=[302], headers=announced)
    served = server.serve("/cdn", CONTENT, cut=[1000, None])
    done = get(target, server.url + "/f", known=False)
    assert done.announced
    assert served.asked[1]["range"] == "bytes=1000-"
    server.serve("/loop", b"", status=[302], headers={"Location": "/loop"})
    assert "302" in refused(target.with_name("g"), server.url + "/loop")
    server.serve("/file", b"", status=[302], headers={"Location": "file:///etc/hostname"})
    assert refused(target.with_name("g"), server.url + "/file")


def test_https_is_never_left_for_http() -> None:
    import urllib.request

    from verification.download.request import Redirects, Unusable

    request = urllib.request.Request("https://example.org/f")
    with pytest.raises(Unusable, match="from https to http://"):
        Redirects().redirect_request(request, None, 302, "Found", {}, "http://example.org/f?key=1")


def test_another_file_is_refused_by_what_the_hub_announces(server: HostileServer, target: Path) -> None:
    served = server.serve("/f", CONTENT, headers={"X-Linked-ETag": f'"{"0" * 64}"'}, cut=[0])
    assert "sha256 0000" in refused(target, server.url + "/f")
    assert len(served.asked) == 1


def test_busy_servers_are_given_the_time_they_ask_for(server: HostileServer, target: Path) -> None:
    slept: list[float] = []
    server.serve("/f", CONTENT, status=[429, 503, 200], headers={"Retry-After": "7"})
    get(target, server.url + "/f", slept=slept)
    assert slept == [7.0, 7.0]
    later = email.utils.formatdate(time.time() + 60, usegmt=True)
    server.serve("/g", CONTENT, status=[503, 200], headers={"Retry-After": later})
    get(target.with_name("g"), server.url + "/g", slept=slept)
    assert 50 < slept[2] <= 60
    server.serve("/h", CONTENT, status=[503], headers={"Retry-After": "3600"})
    assert "asks to wait 3,600 s" in refused(target.with_name("h"), server.url + "/h", slept=slept)
    server.serve("/i", CONTENT, status=[500], headers={"Retry-After": "soon"})
    assert "500" in refused(target.with_name("h"), server.url + "/i", slept=slept)
    assert slept[3:] == [2.0, 4.0, 8.0]


def test_who_is_not_let_in_is_told_about_the_token(server: HostileServer, target: Path) -> None:
    served = server.serve("/f", CONTENT, status=[401])
    assert "HF_TOKEN" in refused(target, server.url + "/f")
    assert len(served.asked) == 1


def test_the_token_goes_to_the_hub_alone(server: HostileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not over plain http, and to no other host: neither by a mirror's address nor by a redirect."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    served = server.serve("/f", CONTENT)
    get(target, server.url + "/f")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    hub = server.serve("/r/resolve/main/f", CONTENT)
    get(target.with_name("g"), "https://huggingface.co/r/resolve/main/f")
    assert len(hub.asked) == 1  # HF_ENDPOINT is honoured
    assert not any("authorization" in headers for headers in served.asked + hub.asked)


def test_a_token_is_not_carried_along_a_redirect(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    sent: list[urllib.request.Request] = []

    class Opener:
        def open(self, request: urllib.request.Request, timeout: float) -> None:
            sent.append(request)
            raise OSError("no network here")

    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(urllib.request, "build_opener", lambda *handlers: Opener())
    refused(target, "https://huggingface.co/f", "https://example.org/f", "https://huggingface.co.evil.org/f", tries=1)
    assert [request.unredirected_hdrs for request in sent] == [{"Authorization": "Bearer secret"}, {}, {}]
    assert not any("Authorization" in request.headers for request in sent)


def test_a_stalling_server(server: HostileServer, target: Path) -> None:
    served = server.serve("/f", CONTENT, cut=[1000, None], stall=30)
    began = time.monotonic()
    get(target, server.url + "/f", timeout=0.3)
    assert time.monotonic() - began < 10
    assert served.asked[1]["range"] == "bytes=1000-"
    server.serve("/g", CONTENT, cut=[0], stall=30)
    assert "4 times in a row" in refused(target.with_name("g"), server.url + "/g", timeout=0.1)


def test_a_server_of_crumbs_is_given_up(server: HostileServer, target: Path) -> None:
    served = server.serve("/f", CONTENT, cut=[1])
    assert "broke 20 times" in refused(target, server.url + "/f", crumbs=20)
    assert len(served.asked) == 20


def test_nobody_there(target: Path) -> None:
    with hostile_server() as gone:
        url = gone.url
    why = refused(target, url + "/f", "ftp://example.org/f")
    assert "no answer" in why
    assert "not an http address" in why
    assert leftovers(target) == set()


def test_compressed_unasked(server: HostileServer, target: Path) -> None:
    served = server.serve("/f", CONTENT, headers={"Content-Encoding": "gzip"})
    assert "compressed" in refused(target, server.url + "/f")
    assert served.asked[0]["accept-encoding"] == "identity"


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
    lock, moved = parts._lock, []

    def late(file: Any) -> None:
        if not moved:
            moved.append(os.replace(target.with_name("file.pth.part"), target.with_name("finished")))
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
