"""Read single files out of wheels on a package index, without downloading the wheels.

A wheel is a zip archive: its directory stands at the end, and both the directory and a file can be read with HTTP
range requests. A server that ignores ranges makes this download the whole wheel once, with a progress line.
"""

from __future__ import annotations

import html.parser
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from typing import IO

TIMEOUT = 180  # seconds
BLOCK = 1 << 18  # bytes per range request: a wheel's directory is smaller than that
HELP = "Set PIP_INDEX_URL (or pass --index) to an index that has torch-npu, and check the network and the proxy."


class IndexProblem(RuntimeError):
    """The index, or a wheel on it, could not be read; the message says what to do."""


def configured_index() -> str:
    """The index that pip uses here: PIP_INDEX_URL, then pip's configuration, then PyPI."""
    if os.environ.get("PIP_INDEX_URL"):
        return os.environ["PIP_INDEX_URL"]
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "https://pypi.org/simple"


def wheels(index: str, project: str) -> dict[str, str]:
    """{file name: URL} of a project's wheels, from the simple API (PEP 691 JSON, or PEP 503 HTML)."""
    page = f"{index.rstrip('/')}/{project}/"
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
    with _open(page, {"Accept": accept}) as answer:
        body, kind = answer.read(), answer.headers.get_content_type()
        page = answer.url
    if kind.endswith("json"):
        files = {entry["filename"]: urllib.parse.urljoin(page, entry["url"]) for entry in json.loads(body)["files"]}
    else:
        files = _links(body.decode(), page)
    found = {name: url for name, url in files.items() if name.endswith(".whl")}
    if not found:
        raise IndexProblem(f"{page} lists no wheels. {HELP}")
    return found


def open_wheel(url: str) -> zipfile.ZipFile:
    """The wheel at `url`, read as far as it is asked for."""
    with _open(url, {"Range": "bytes=0-0"}) as answer:
        if answer.status == 206:
            size = int(answer.headers["Content-Range"].rpartition("/")[2])
            return zipfile.ZipFile(io.BufferedReader(_Ranges(url, size), BLOCK))
    return zipfile.ZipFile(_download(url))


class _Ranges(io.RawIOBase):
    """A remote file that can be sought and read."""

    def __init__(self, url: str, size: int) -> None:
        super().__init__()
        self._url, self._size, self._at = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        with _open(self._url, {"Range": f"bytes={self._at}-{end - 1}"}) as answer:
            data = answer.read()
        if len(data) != end - self._at:
            raise IndexProblem(f"{self._url}: {len(data)} bytes instead of {end - self._at}. Try again.")
        buffer[: len(data)] = data
        self._at = end
        return len(data)


def _download(url: str) -> IO[bytes]:
    print(f"  the server ignores range requests: downloading {url}", file=sys.stderr)
    target = tempfile.TemporaryFile()  # noqa: SIM115  the caller reads it
    with _open(url, {}) as answer:
        shutil.copyfileobj(answer, target)
    return target


def _open(url: str, headers: dict[str, str]) -> urllib.request.addinfourl:
    if "@" in urllib.parse.urlsplit(url).netloc:
        raise IndexProblem("The index URL holds a user and a password, which this script does not send. " + HELP)
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise IndexProblem(f"{url}: {error}. {HELP}") from error


def _links(body: str, page: str) -> dict[str, str]:
    """{text: target} of the links of an HTML index page."""
    found: dict[str, str] = {}

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            target = dict(attributes).get("href")
            if tag == "a" and target:
                url = re.sub(r"#.*", "", urllib.parse.urljoin(page, target))
                found[urllib.parse.unquote(url.rpartition("/")[2])] = url

    Parser().feed(body)
    return found
