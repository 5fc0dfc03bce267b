"""One HTTP request for the rest of a file, and what the answer's headers say about the whole of it."""

from __future__ import annotations

import email.utils
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

HUB = "https://huggingface.co"
SHA256 = re.compile(r"[0-9a-f]{64}")
PAGE = "it sends a web page instead of the file (a proxy, a login, or a page that asks to confirm)"
WEB_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head")
POINTER = b"version https://git-lfs.github.com/spec/"
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class Unusable(Exception):
    """This source cannot give the file; another one may."""


class Unanswered(Exception):
    """The request failed in a way that may pass. `after`: seconds that the server asks to wait, or None."""

    def __init__(self, what: str, after: str | None = None) -> None:
        super().__init__(what)
        self.after = after


class TooSlow(Unanswered):
    """It sends, but so little that the file would never be whole."""


@dataclass(frozen=True)
class Answer:
    """An open answer. Close it."""

    status: int  # 200: the file from its beginning; 206: from `start` on; 416: there is nothing from there on
    body: Any
    start: int
    total: int | None  # bytes of the whole file, where the answer says so
    ends: bool  # a cut can be told from the end: by the length, or because the body comes in chunks
    validator: str | None  # for If-Range: a strong ETag, else the date of the last change
    sha256: str | None  # of the file, where the server announces it, as Hugging Face does

    def read(self, limit: int) -> bytes:
        """What has arrived, at most `limit` bytes; b"" at the end. Raises Unanswered when the connection breaks."""
        try:
            return self.body.read1(limit)
        except (http.client.HTTPException, OSError) as error:
            raise Unanswered(f"the connection broke ({describe(error)})") from error


class Pace:
    """Reads answers, and gives up where `span` seconds of waiting bring less than `least` bytes."""

    def __init__(self, least: int, span: float) -> None:
        self.least, self.span = least, span
        self.arrived, self.waited = 0, 0.0

    def read(self, answer: Answer, limit: int) -> bytes:
        """As Answer.read. Counts only the time of reading: a slow disk is not the server's fault."""
        began = time.monotonic()
        piece = answer.read(limit)
        self.waited += time.monotonic() - began
        self.arrived += len(piece)
        if piece and self.waited >= self.span:
            arrived, self.arrived, self.waited = self.arrived, 0, 0.0
            if arrived < self.least:
                raise TooSlow(f"it sent {arrived:,} bytes in {self.span:,.0f} s")
        return piece


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, keeps what an answer on the way announced, and never leaves https for http."""

    def __init__(self) -> None:
        self.announced: str | None = None

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise Unusable(f"it redirects from https to {newurl.split('?')[0]}, which anyone on the way could change")
        self.announced = self.announced or announced(headers)
        again = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        # Hugging Face sends small files of a repository with a licence from another path of its own host.
        if again is not None and token and urlsplit(req.full_url)[:2] == urlsplit(newurl)[:2]:
            again.add_unredirected_header("Authorization", token)
        return again

    def http_error_308(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """urllib knows 308 from Python 3.11 on; for a GET it is as 307."""
        return self.http_error_302(req, fp, 307, msg, headers)


def hub_url(url: str) -> str:
    """`url`, at $HF_ENDPOINT when it is Hugging Face's and that variable names a mirror."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return endpoint + url[len(HUB) :] if endpoint and url.startswith(HUB + "/") else url


def ask(url: str, start: int, validator: str | None, timeout: float) -> Answer:
    """Ask `url` for its bytes from `start` on, if it is still the file of `validator`.

    Raises Unusable (give this source up) and Unanswered (try again). `timeout`: seconds without a byte.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise Unusable(f"{url} is not an http address; is HF_ENDPOINT right?")
    # A compressed answer could not be continued, and its length would not be the file's.
    headers = {"User-Agent": "minigpt4-ascend-overlay", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    request = urllib.request.Request(url, headers=headers)
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and url.startswith(hub_url(HUB + "/")) and url.startswith("https:"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # never sent on to another host
    redirects = Redirects()
    try:
        body = urllib.request.build_opener(redirects).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise_for(error)
        body = error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unanswered(f"no answer ({describe(reason)})") from error
    return read_headers(body, start, redirects.announced)


def read_headers(body: Any, asked: int, told: str | None) -> Answer:
    """`asked`: first byte that was asked for; `told`: the sha256 that a redirect announced."""
    headers, status = body.headers, body.status
    encoding = headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        body.close()
        raise Unusable(f"it sends the file compressed ({encoding}), unasked")
    if status in (200, 206) and headers.get_content_type() == "text/html" and "Content-Type" in headers:
        body.close()
        raise Unusable(PAGE)
    start, total = 0, _number(headers.get("Content-Length"))
    if status == 206:
        found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if not found or found[1] is None or int(found[1]) != asked:
            body.close()
            raise Unusable(f"asked for the bytes from {asked:,} on, it sends {headers.get('Content-Range')}")
        start, total = asked, _number(found[2])
    elif status == 416:
        found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        total = _number(found[2]) if found else None
    elif status != 200:
        body.close()
        raise Unusable(f"it answers {status}, which is no file")
    ends = total is not None or headers.get("Transfer-Encoding", "").lower() == "chunked"
    return Answer(status, body, start, total, ends, _validator(headers), told or announced(headers))


def raise_for(error: urllib.error.HTTPError) -> None:
    error.close()
    if error.code in (408, 425, 429) or error.code >= 500:
        raise Unanswered(f"it answers {error.code} {error.reason}", error.headers.get("Retry-After")) from error
    if error.code in (401, 403):
        hint = "it wants an account: accept the licence on its page and set HF_TOKEN to a read token"
        raise Unusable(f"it answers {error.code} {error.reason}; {hint}") from error
    raise Unusable(f"it answers {error.code} {error.reason}") from error


def announced(headers: Message) -> str | None:
    """The sha256 in X-Linked-ETag, which Hugging Face sends for large files before it redirects to them."""
    value = headers.get("X-Linked-ETag", "").strip('"').lower()
    return value if SHA256.fullmatch(value) else None


def _validator(headers: Message) -> str | None:
    """RFC 9110, 13.1.5: If-Range takes a strong ETag or a date; a weak ETag does not say that bytes are equal."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def describe(error: object) -> str:
    return str(error) or type(error).__name__


def refuse_page(piece: bytes) -> None:
    """A page that logs in, asks to confirm or reports an error is often sent with 200."""
    head = piece.lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.lower().startswith(WEB_PAGE):
        raise Unusable(PAGE)
    if head.startswith(POINTER):
        raise Unusable("it sends a git-LFS pointer instead of the file")


def seconds(text: str | None) -> float | None:
    """Retry-After: seconds or a date (RFC 9110, 10.2.3)."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None
