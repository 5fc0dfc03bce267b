"""An HTTP server on this machine that does what servers, proxies and networks do to large downloads."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Behaviour:
    """How one path is served. Every list is used up request by request; its last entry stays."""

    content: bytes
    cut: list[int | None] = field(default_factory=lambda: [None])  # bytes of the body before the connection ends
    claim: int = 0  # added to Content-Length
    ranges: bool = True
    etag: list[str | None] = field(default_factory=lambda: ['"a"'])
    status: list[int] = field(default_factory=lambda: [200])
    headers: dict[str, str] = field(default_factory=dict)
    length: bool = True
    chunked: bool = False  # and without a length
    stall: float = 0.0  # seconds of silence where the cut is, before the connection ends
    drip: float = 0.0  # seconds between two bytes of the body, after `burst` bytes
    burst: int = 0
    if_range: bool = True  # honours it
    after: Callable[[], None] = lambda: None
    asked: list[dict[str, str]] = field(default_factory=list)

    def next(self, values: list[Any]) -> Any:
        return values[min(len(self.asked) - 1, len(values) - 1)]


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        behaviour = self.server.paths.get(self.path)
        if behaviour is None:
            self.answer(404, {}, b"", None)
            return
        behaviour.asked.append({name.lower(): value for name, value in self.headers.items()})
        status, etag = behaviour.next(behaviour.status), behaviour.next(behaviour.etag)
        content, start = behaviour.content, 0
        asked = self.headers.get("Range")
        if status == 200 and asked and behaviour.ranges:
            fits = self.headers.get("If-Range") in (None, etag) or not behaviour.if_range
            first = int(asked[len("bytes=") : -1])
            if fits and first >= len(content):
                self.answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"", None)
                return
            if fits:
                status, start = 206, first
        body = content[start:]
        headers = {}
        if behaviour.chunked:
            headers["Transfer-Encoding"] = "chunked"
            body = b"".join(
                b"%x\r\n%s\r\n" % (len(body[i : i + 99]), body[i : i + 99]) for i in range(0, len(body), 99)
            )
            body += b"0\r\n\r\n"
        elif behaviour.length:
            headers["Content-Length"] = str(len(body) + behaviour.claim)
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content) + behaviour.claim}"
        if etag:
            headers["ETag"] = etag
        headers.update(behaviour.headers)
        self.answer(status, headers, body if status in (200, 206) else b"", behaviour)

    def answer(self, status: int, headers: dict[str, str], body: bytes, behaviour: Behaviour | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        cut = behaviour.next(behaviour.cut) if behaviour else None
        with contextlib.suppress(OSError):
            body = body if cut is None else body[:cut]
            if behaviour and behaviour.drip:
                self.wfile.write(body[: behaviour.burst])
                for number in range(behaviour.burst, len(body)):
                    self.wfile.write(body[number : number + 1])
                    if self.server.stopping.wait(behaviour.drip):
                        break
            else:
                self.wfile.write(body)
            if behaviour and behaviour.stall and cut is not None:
                self.server.stopping.wait(behaviour.stall)
        if behaviour:
            behaviour.after()
        self.close_connection = True

    def log_message(self, format: str, *values: Any) -> None:
        """Silence."""


class HostileServer:
    def __init__(self) -> None:
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.paths = {}  # type: ignore[attr-defined]
        self.http.stopping = threading.Event()  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def serve(self, path: str, content: bytes, **how: Any) -> Behaviour:
        behaviour = Behaviour(content, **how)
        self.http.paths[path] = behaviour  # type: ignore[attr-defined]
        return behaviour


@contextlib.contextmanager
def hostile_server() -> Iterator[HostileServer]:
    server = HostileServer()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.stopping.set()  # type: ignore[attr-defined]
        server.http.shutdown()
        thread.join()
        server.http.server_close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
