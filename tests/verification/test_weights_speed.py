"""Sums cost next to nothing: the disk or the network is what takes the time. And what a user sees meanwhile."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from verification.download.fetch import Wanted, fetch
from verification.download.progress import Bar, Lines, Quiet, shower
from verification.download.sums import PIECE, Sum, sha256_of

SIZE = 2_000_000_000


def test_pieces_in_order_and_again_after_the_sum() -> None:
    with Sum() as total:
        assert total.finish() == hashlib.sha256().hexdigest()
        for number in range(100):
            total.add(bytes([number]) * number)
        first = total.finish()
        total.add(b"more")
        second = total.finish()
    content = b"".join(bytes([number]) * number for number in range(100))
    assert first == hashlib.sha256(content).hexdigest()
    assert second == hashlib.sha256(content + b"more").hexdigest()


def test_lines_for_a_log() -> None:
    now, stream = [0.0], io.StringIO()
    lines = Lines(stream, lambda: now[0])
    lines.start("small.json", 500, 0)
    lines.start("eva.pth", 2_000_000_000, 500_000_000)
    for _ in range(100):
        now[0] += 1
        lines.advance(10_000_000)
    lines.start("unknown", None, 0)
    now[0] += 60
    lines.advance(1_000_000)
    assert stream.getvalue().splitlines() == [
        "verify: eva.pth: 500 of 2,000 MB (25%)",
        "verify: eva.pth: 800 of 2,000 MB (40%)",
        "verify: eva.pth: 1,100 of 2,000 MB (55%)",
        "verify: eva.pth: 1,400 of 2,000 MB (70%)",
        "verify: unknown: 1 MB",
    ]


def test_a_bar_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    bar = shower(stream)
    assert isinstance(bar, Bar)
    bar.start("eva.pth", 1000, 250)
    bar.advance(750)
    bar.say("a mirror is of no use")
    bar.stop()
    bar.advance(1)  # nothing is shown any more
    assert "100%" in stream.getvalue()
    assert "verify: a mirror is of no use" in stream.getvalue()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert isinstance(shower(stream), Lines)
    assert isinstance(shower(io.StringIO()), Lines)


def seconds(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def cold(path: Path) -> None:
    """Out of the page cache, so that it is the disk that is read."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.slow
def test_a_sum_is_as_fast_as_the_disk(tmp_path: Path) -> None:
    """The best of six each, one after the other: what a disk does varies twofold.

    A sum is computed byte after byte, by one core: where the disk is faster, the core is what to keep up with.
    """
    path, block = tmp_path / "large", os.urandom(PIECE)
    with path.open("wb") as file:
        for _ in range(SIZE // PIECE):
            file.write(block)

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            while file.read(PIECE):
                pass

    def compute() -> None:
        digest = hashlib.sha256()
        for _ in range(SIZE // PIECE):
            digest.update(block)

    reading, summing = [], []
    for _ in range(6):
        cold(path)
        reading.append(seconds(read))
        cold(path)
        summing.append(seconds(lambda: sha256_of(path)))
    computing = [seconds(compute) for _ in range(3)]
    disk, both, core = (path.stat().st_size / min(times) / 1e6 for times in (reading, summing, computing))
    most = min(disk, core)
    print(f"read {disk:,.0f} MB/s, summed {core:,.0f} MB/s, read and summed {both:,.0f} MB/s: {both / most:.0%}")
    assert both >= 0.7 * most


SERVER = """
import http.server, sys
class Large(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", sys.argv[1])
        self.end_headers()
        block = bytes(1 << 20)
        for _ in range(int(sys.argv[1]) >> 20):
            self.wfile.write(block)
    def log_message(self, *values): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Large)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.mark.slow
def test_a_download_is_as_fast_with_its_sum(tmp_path: Path) -> None:
    """Against the same bytes read and written by the standard library alone; the best of six pairs."""
    size, digest = SIZE // PIECE * PIECE, hashlib.sha256()
    for _ in range(size // PIECE):
        digest.update(bytes(PIECE))
    command = [sys.executable, "-c", SERVER, str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/"

        def plain() -> None:
            with urllib.request.urlopen(url) as answer, (tmp_path / "plain").open("wb", buffering=0) as file:
                while piece := answer.read1(PIECE):
                    file.write(piece)
                os.fsync(file.fileno())

        def summed() -> None:
            fetch(Wanted(tmp_path / "summed", (url,), size, digest.hexdigest()), Quiet())

        try:
            pairs = []
            for _ in range(6):
                times = []
                for what in (plain, summed):  # each into a new file: rewriting an old one takes half the time
                    times.append(seconds(what))
                    (tmp_path / what.__name__).unlink()
                pairs.append(times)
        finally:
            server.kill()
    alone, both = max(pairs, key=lambda pair: pair[0] / pair[1])
    print(f"without a sum {size / alone / 1e6:,.0f} MB/s, with it {size / both / 1e6:,.0f} MB/s: {alone / both:.0%}")
    assert alone >= 0.7 * both
