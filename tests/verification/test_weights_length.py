"""Servers that lie about a file's length, or do not say it: no half file gets the name."""

from __future__ import annotations

from pathlib import Path

import pytest
from downloading import CONTENT, SUM, get, patience, plain_network, refused, server, target
from hostile_server import HostileServer

from overlaykit.errors import TryAgain
from verification.download.fetch import Wanted, fetch
from verification.download.progress import Quiet

__all__ = ["plain_network", "server", "target"]  # fixtures


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


@pytest.mark.parametrize("known", [True, False])
def test_chunks_say_where_they_end(server: HostileServer, target: Path, known: bool) -> None:
    served = server.serve("/f", CONTENT, chunked=True, cut=[2000, 100, None])
    get(target, server.url + "/f", known=known)
    assert target.read_bytes() == CONTENT
    assert len(served.asked) == 3


def test_no_length_and_cut(server: HostileServer, target: Path) -> None:
    served = server.serve("/f", CONTENT, length=False, cut=[1000, None])
    get(target, server.url + "/f")
    assert target.read_bytes() == CONTENT
    assert served.asked[1]["range"] == "bytes=1000-"


def test_more_than_the_file(server: HostileServer, target: Path) -> None:
    server.serve("/f", CONTENT + b"more", length=False)
    assert "more than the 3,000 bytes" in refused(target, server.url + "/f")
