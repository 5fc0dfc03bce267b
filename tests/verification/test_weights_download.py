"""Downloads against a server that lies, cuts, stalls and changes: the file is right and whole, or not there."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from downloading import CONTENT, SUM, Heard, get, leftovers, patience, plain_network, refused, server, target
from hostile_server import HostileServer, hostile_server, sha256

from verification.download.fetch import Wanted, fetch
from verification.download.progress import Quiet

__all__ = ["plain_network", "server", "target"]  # fixtures

PAGE = b"<!DOCTYPE html><html><body>Google Drive can't scan this file for viruses.</body></html>"


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


def test_another_range_than_asked(server: HostileServer, target: Path) -> None:
    served = server.serve("/f", CONTENT, cut=[1000, None])
    served.after = lambda: served.headers.update({"Content-Range": "bytes 900-2999/3000"})
    assert "asked for the bytes from 1,000 on, it sends bytes 900-2999/3000" in refused(target, server.url + "/f")


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


def test_a_server_that_drips(server: HostileServer, target: Path) -> None:
    """A byte now and then keeps every timeout from ending it; the next mirror goes on from what has come."""
    drips = server.serve("/drips", CONTENT, drip=0.02, burst=600)
    assert "it sent" in refused(target, server.url + "/drips", least=400, span=0.1)
    assert len(drips.asked) == 4
    size = target.with_name("file.pth.part").stat().st_size
    assert size >= 600
    drips.status = [404]
    second = server.serve("/f", CONTENT)
    get(target, server.url + "/drips", server.url + "/f")
    assert target.read_bytes() == CONTENT
    assert second.asked[0]["range"] == f"bytes={size}-"


def test_what_is_slow_and_not_dripping_is_left_in_peace(server: HostileServer, target: Path) -> None:
    served = server.serve("/f", CONTENT[:60], drip=0.01)
    fetch(Wanted(target, (server.url + "/f",), 60, sha256(CONTENT[:60])), Quiet(), patience(least=2, span=0.1))
    assert len(served.asked) == 1


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
