"""The mail around a patch: author, date and commit message exactly as `git am` would take them.

Only what `git format-patch` writes is read. Everything else that `git am` understands (in-body headers,
base64, other character sets) is refused: two readers of one mail must never disagree.
Source of the rules: git's mailinfo.c (`patchbreak`, `cleanup_subject`) and strbuf's `stripspace`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.utils import parseaddr, parsedate_to_datetime
from types import MappingProxyType

from .errors import FixTheProjectFile

EXPORT_AGAIN = "Write the patch again: git format-patch --full-index --no-renames --no-signature -1 COMMIT"

_ENVELOPE = re.compile(r"From [0-9a-f]{40} ")
_SPLITS_MAIL = re.compile(r"From .*[0-9].[0-9]{2}:[0-9]{2}")  # where `git am` sees the next mail start, and a bit more
_ADDRESS = r"[^\s()<>@,:;?\"\\\udc80-\udcff]+"
_FROM = re.compile(rf'([^()<>@,:;"\\]+|"(?:[^"\\]|\\.)+") <{_ADDRESS}@{_ADDRESS}>')
_COMMENT = re.compile(r"\([^()<>@\"\\]*\)")
_CRUD = re.compile(r"[\x00-\x20.,:;<>\"\\']*")  # git takes a name of nothing else for none
_LONGEST_NAME = 60  # bytes; instead of a longer one git takes the address
_DATE = re.compile(r"[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} (19[7-9]|20\d)\d \d\d:\d\d:\d\d [+-]([01]\d|2[0-3])[0-5]\d")
_ENCODED_WORD = re.compile(r"=\?[\w-]+\?[bq]\?[^?\s]*\?=", re.IGNORECASE)
_SUBJECT_PREFIX = re.compile(r"^(?:[ \t:]|re:|\[[^\]]*\])+", re.IGNORECASE)
_IN_BODY_HEADER = re.compile(r">?from\b|date:|subject:|\[patch", re.IGNORECASE)
_DIFF_STARTS = ("--- ", "+++ ", "@@ -", "diff -", "Index: ")
TRAILER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*):[ \t]*(\S.*)")
_SPACE = " \t\n\r"  # of git: no form feed, and no space of Unicode's


@dataclass(frozen=True)
class Mail:
    """The part of a patch file before its diff."""

    author_name: str
    author_email: str
    author_date: str  # as in the header, RFC 2822
    subject: str  # without "[PATCH n/m]"
    body: str  # the message below the subject, trailers included, no newline at its end
    message: str  # what `git am` commits: subject, blank line, body, newline
    diff_line: int  # 1-based line of the first `diff --git`
    trailers: Mapping[str, tuple[str, ...]] = field(hash=False)  # of the last paragraph, in order, keys as written


def broken(name: str, line: int, what: str, why: str = "", fix: str = EXPORT_AGAIN) -> FixTheProjectFile:
    """An error that points at one line of a project file."""
    return FixTheProjectFile(f"{name}:{line}: {what}", why, fix)


def read_mail(name: str, raw: bytes) -> Mail:
    """Read the mail of patch file `raw`; `name` is for messages. Raises FixTheProjectFile."""
    lines = _text(name, raw).split("\n")
    headers, at = _headers(name, lines)
    author, address = _author(name, headers["from"])
    if not _is_date(headers["date"]):
        raise broken(name, 3, f"'Date: {headers['date']}' is not a date with a time zone, as git writes it")
    subject = _SUBJECT_PREFIX.sub("", _decoded(name, headers["subject"]))
    subject = re.sub(f"[{_SPACE}]+", " ", subject).strip(" ")
    if not subject:
        raise broken(name, 4, "the subject is empty")
    body_end, diff_line = _find_diff(name, lines, at)
    message = stripspace([subject, "", *_body(name, lines, at, body_end)])
    body = message[len(subject) :].strip("\n")
    return Mail(author, address, headers["date"], subject, body, message, diff_line, MappingProxyType(_trailers(body)))


def _author(name: str, value: str) -> tuple[str, str]:
    """Name and address. What git would read in another way is refused."""
    match = _FROM.fullmatch(value)
    author, address = parseaddr(value)
    author = _decoded(name, author)
    # git looks for quotes and comments in an encoded name after it has decoded it.
    unread, looked_at = ('<>@"\\(', _COMMENT.sub("", author)) if "=?" in value else ("<>@", author)
    odd = any(letter in unread or letter < " " for letter in looked_at) or _CRUD.fullmatch(author)
    if not match or odd or (author[0] == "(" and author[-1] == ")") or len(author.encode()) > _LONGEST_NAME:
        why = f"git reads only plain names, of at most {_LONGEST_NAME} bytes, as they are."
        raise broken(name, 2, f"'From: {value}' is not of the form 'Name <address>'", why)
    return author, address


def _is_date(value: str) -> bool:
    try:
        when = parsedate_to_datetime(value) if _DATE.fullmatch(value) else None
    except (TypeError, ValueError):
        return False
    return when is not None and when.tzinfo is not None and when.timestamp() > 0


def _text(name: str, raw: bytes) -> str:
    for bad, what, why in (
        (b"\r", "carriage return (CRLF line ends)", "git am drops them, so the patch would stop fitting."),
        (b"\0", "NUL byte", "Patches are text."),
    ):
        if bad in raw:
            raise broken(name, raw[: raw.index(bad)].count(b"\n") + 1, what, why)
    # Hunks may quote a file that is not UTF-8; the mail itself is checked below.
    return raw.decode("utf-8", "surrogateescape")


def _headers(name: str, lines: list[str]) -> tuple[dict[str, str], int]:
    """The unfolded headers by lower-case name, and the index of the first line of the body."""
    if not _ENVELOPE.match(lines[0]):
        why = "A patch is a mail that starts with 'From <40 hex digits> Mon Sep 17 00:00:00 2001'."
        raise broken(name, 1, "no mail header", why)
    headers: dict[str, str] = {}
    last = ""
    for at, line in enumerate(lines[1:], 1):
        if not line:
            break
        key, colon, value = line.partition(":")
        if line[0] in " \t" and last:
            headers[last] += " " + line.strip(_SPACE)
        elif colon and re.fullmatch(r"[A-Za-z0-9-]+", key):
            last = key.lower()
            if last in headers:
                raise broken(name, at + 1, f"the header '{key}' appears twice")
            headers[last] = value.strip(_SPACE)
        else:
            raise broken(name, at + 1, f"not a mail header: {line!r}")
    for key in ("from", "date", "subject"):
        if key not in headers:
            raise broken(name, 1, f"the mail header has no '{key.title()}:'")
    plain = "utf-8" in headers.get("content-type", "utf-8").lower()
    if not plain or headers.get("content-transfer-encoding", "8bit").lower() not in ("7bit", "8bit"):
        raise broken(name, 1, "the mail is not plain UTF-8 text (Content-Type, Content-Transfer-Encoding)")
    return headers, at + 1


def _decoded(name: str, value: str) -> str:
    """RFC 2047 encoded words, as format-patch writes for names and subjects outside ASCII."""
    try:
        decoded = str(make_header(decode_header(value)))
        decoded.encode("utf-8")
        if "\0" in decoded or not all(_ENCODED_WORD.fullmatch(word) for word in value.split() if "=?" in word):
            raise ValueError("git reads that in another way")
    except (HeaderParseError, LookupError, ValueError) as error:
        raise broken(name, 1, f"unreadable mail header {value!a}: {error}") from error
    return decoded


def _find_diff(name: str, lines: list[str], at: int) -> tuple[int, int]:
    """Where the message ends (index) and where the diff starts (1-based line).

    `git am` hands everything below the message to `git apply`, we only what starts at `diff --git`;
    so nothing in between may look like a diff.
    """
    end = next((i for i in range(at, len(lines)) if _ends_message(lines[i])), None)
    if end is None:
        raise broken(name, len(lines), "the patch holds no diff")
    start = end if lines[end].rstrip(_SPACE) != "---" else end + 1
    for i in range(start, len(lines)):
        if lines[i].startswith("diff --git "):
            return end, i + 1
        if _SPLITS_MAIL.match(lines[i]):
            raise broken(name, i + 1, "a second mail starts here", "One patch file holds one commit.")
        if lines[i].startswith(_DIFF_STARTS):
            raise broken(name, i + 1, f"looks like a diff, but no 'diff --git' precedes it: {lines[i]!r}")
    raise broken(name, len(lines), "the patch holds no diff")


def _ends_message(line: str) -> bool:
    return line.startswith(("diff -", "Index: ")) or bool(re.match(r"---(?:[ \t]*$| [^ \t])", line))


def _body(name: str, lines: list[str], at: int, end: int) -> list[str]:
    for number, line in enumerate(lines[at:end], at + 1):
        if _ENVELOPE.match(line) or _SPLITS_MAIL.match(line):
            raise broken(name, number, "a second mail starts here", "One patch file holds one commit.")
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            raise broken(name, number, "the message is not UTF-8") from None
    first = next((i for i in range(at, end) if lines[i].strip()), None)
    if first is not None and _IN_BODY_HEADER.match(lines[first]):
        why = "git am would take it for the author, the date or the subject."
        raise broken(name, first + 1, "the message starts with a mail header", why, "Reword that line.")
    return lines[at:end]


def stripspace(lines: list[str]) -> str:
    """What git does to every message: no trailing space, no double blank lines, one newline at the end."""
    text = "\n".join(line.rstrip(_SPACE) for line in lines)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def _trailers(body: str) -> dict[str, tuple[str, ...]]:
    """The last paragraph, when every line of it is `Key: value` or an indented continuation."""
    found: dict[str, tuple[str, ...]] = {}
    key = ""
    for line in body.rsplit("\n\n", 1)[-1].split("\n"):
        match = TRAILER.fullmatch(line)
        if match:
            key = match[1]
            found[key] = (*found.get(key, ()), match[2].strip())
        elif key and line[:1] in (" ", "\t"):
            found[key] = (*found[key][:-1], f"{found[key][-1]} {line.strip()}")
        else:
            return {}
    return found
