"""Redirects, tokens, proxies and busy servers: where a request goes, and what is sent along."""

from __future__ import annotations

import email.utils
import time
import urllib.request
from pathlib import Path

import pytest
from downloading import CONTENT, SUM, get, plain_network, refused, server, target
from hostile_server import HostileServer

from verification.download.request import Redirects, Unusable

__all__ = ["plain_network", "server", "target"]  # fixtures


def test_redirects_are_followed_with_the_range(server: HostileServer, target: Path) -> None:
    announced = {"Location": "/cdn", "X-Linked-ETag": f'"{SUM}"'}
    server.serve("/f", b"", status=[302], headers=announced)
    served = server.serve("/cdn", CONTENT, cut=[1000, None])
    done = get(target, server.url + "/f", known=False)
    assert done.announced
    assert served.asked[1]["range"] == "bytes=1000-"
    server.serve("/moved", b"", status=[308], headers={"Location": "/cdn"})
    get(target.with_name("moved"), server.url + "/moved")
    server.serve("/loop", b"", status=[302], headers={"Location": "/loop"})
    assert "302" in refused(target.with_name("g"), server.url + "/loop")
    server.serve("/file", b"", status=[302], headers={"Location": "file:///etc/hostname"})
    assert refused(target.with_name("g"), server.url + "/file")


def test_https_is_never_left_for_http() -> None:
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


@pytest.mark.parametrize(("place", "carried"), [("huggingface.co/api/f", True), ("cdn.huggingface.co/f", False)])
def test_the_token_follows_to_another_path_of_its_host(place: str, carried: bool) -> None:
    """Small files of a repository with a licence come from such a path, and ask for the token again."""
    request = urllib.request.Request("https://huggingface.co/f")
    request.add_unredirected_header("Authorization", "Bearer secret")
    again = Redirects().redirect_request(request, None, 307, "", {}, f"https://{place}")
    assert again.unredirected_hdrs == ({"Authorization": "Bearer secret"} if carried else {})
    assert not again.headers


def test_a_proxy_is_asked(server: HostileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    server.serve("http://example.invalid/f", CONTENT)
    get(target, "http://example.invalid/f")
    assert target.read_bytes() == CONTENT
