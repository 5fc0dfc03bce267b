"""One patch file, read strictly. unidiff reads and judges, and nothing else imports it.

git and unidiff both skip what they do not understand: surplus lines of a hunk, text between files, old-style
diffs. So every line from the first `diff --git` on is accounted for here: each header, hunk and file must start
exactly where the one before it ended. What cannot be checked or could do harm is refused (`FixTheProjectFile`):
renames and binary changes (no blob ids or no lines to compare), symlinks and submodules, paths that leave the tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import unidiff

from .errors import FixTheProjectFile
from .gitrepo import NO_BLOB, on_disk
from .hunk import Hunk
from .mail import broken, read_mail
from .patchrules import check_modes, check_order, check_path, miscounted


@dataclass(frozen=True)
class FileChange:
    """What a patch does to one file. A new file has no old path and mode, a deleted one no new path and mode."""

    line: int  # of its `diff --git` line in the patch file
    old_path: str | None
    new_path: str | None
    old_blob: str  # 40 hex digits; NO_BLOB where there is no file
    new_blob: str
    old_mode: str | None
    new_mode: str | None
    hunks: tuple[Hunk, ...]

    @property
    def path(self) -> str:
        return self.new_path or self.old_path or ""


@dataclass(frozen=True)
class Patch:
    """A patch file: the mail as `git am` reads it, and its diff. Surrogates in hunks stand for non-UTF-8 bytes."""

    name: str  # file name
    raw: bytes
    author_name: str
    author_email: str
    author_date: str  # as in the header
    subject: str  # without "[PATCH n/m]"
    body: str  # below the subject, trailers included
    message: str  # what `git am` would commit
    trailers: Mapping[str, tuple[str, ...]] = field(hash=False)
    files: tuple[FileChange, ...]
    diff: bytes  # from the first `diff --git` on

    @property
    def why(self) -> str:
        """The first paragraph below the subject; "" where that is the trailers' already."""
        paragraphs = self.body.split("\n\n")
        return paragraphs[0] if len(paragraphs) > 1 or not self.trailers else ""


def read_patch(path: str | Path) -> Patch:
    """Read one patch file. Raises FixTheProjectFile, naming file and line, for anything malformed or dangerous."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise FixTheProjectFile(f"{path}: cannot be read: {error.strerror}") from error
    return parse_patch(str(path), raw)


def parse_patch(name: str, raw: bytes) -> Patch:
    """As `read_patch`, for bytes; `name` is the path that messages show."""
    mail = read_mail(name, raw)
    diff = b"\n".join(raw.split(b"\n")[mail.diff_line - 1 :])
    files = _read_diff(name, mail.diff_line, diff.decode("utf-8", "surrogateescape"))
    return Patch(
        name=Path(name).name,
        raw=raw,
        author_name=mail.author_name,
        author_email=mail.author_email,
        author_date=mail.author_date,
        subject=mail.subject,
        body=mail.body,
        message=mail.message,
        trailers=mail.trailers,
        files=files,
        diff=diff,
    )


def _read_diff(name: str, first_line: int, text: str) -> tuple[FileChange, ...]:
    # Not splitlines(): a form feed or U+2028 inside a line is no line end to git.
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    files: list[FileChange] = []
    at = 0  # index of the first line that is not accounted for yet
    for parsed in _unidiff(name, first_line, lines):
        start = (parsed.diff_line_no or 0) - 1
        if start != at:
            raise _stray(name, first_line + at, lines[at])
        header, at = _read_header(name, first_line, lines, at)
        hunks: list[Hunk] = []
        for block in parsed:
            hunk, at = _read_hunk(name, first_line, lines, at, block)
            hunks.append(hunk)
        change = _file_change(name, first_line + start, header, tuple(hunks))
        if any(change.path == other.path for other in files):
            raise broken(name, change.line, f"{change.path} appears twice", "One patch changes a file once.")
        files.append(change)
    rest = "".join(lines[at:])
    if rest.strip("\n") and not re.fullmatch(r"-- \n[^\n]*\n*", rest):
        raise _stray(name, first_line + at, lines[at])
    return tuple(files)


def _unidiff(name: str, first_line: int, lines: list[str]) -> unidiff.PatchSet:
    """Parse; unidiff's errors carry no line: a hunk's is found by counting, else it is the file being read."""
    reading = 0

    def watched() -> Iterator[str]:
        nonlocal reading
        for number, line in enumerate(lines):
            if line.startswith("diff --git "):
                reading = number
            yield line

    try:
        return unidiff.PatchSet(watched())
    except unidiff.UnidiffParseError as error:
        at = miscounted(lines)
        if at is None:
            raise broken(name, first_line + reading, str(error).strip(), "File headers name one file.") from error
        what = f"the lines below are not those that {lines[at].rstrip()} counts"
        raise broken(name, first_line + at, what, "A hunk was edited by hand, or cut.") from error


def _stray(name: str, line: int, text: str) -> FixTheProjectFile:
    if text.startswith(("GIT binary patch", "Binary files ")):
        return broken(name, line, "binary change", "It cannot be reviewed as text.", "Put the file into overlay/.")
    if text.startswith(("rename ", "copy ", "similarity ", "dissimilarity ")):
        return broken(name, line, "rename or copy", "Each side of a change needs its own blob id.")
    why = "git would skip it silently: a hunk with wrong line counts, or text between two files."
    return broken(name, line, f"this line belongs to no hunk: {text.rstrip()[:60]!r}", why)


_NO_NEWLINE = "\\ No newline at end of file"
_HEADER_LINES = (
    ("paths", re.compile(r"diff --git (a/.+ b/.+)")),
    ("old_mode", re.compile(r"old mode (\d+)")),
    ("new_mode", re.compile(r"new mode (\d+)")),
    ("created", re.compile(r"new file mode (\d+)")),
    ("deleted", re.compile(r"deleted file mode (\d+)")),
    ("index", re.compile(r"index ([0-9a-f]+\.\.[0-9a-f]+(?: \d+)?)")),
    ("source", re.compile(r"--- ([^\t]+)\t?")),
    ("target", re.compile(r"\+\+\+ ([^\t]+)\t?")),
)


def _read_header(name: str, first_line: int, lines: list[str], at: int) -> tuple[dict[str, str], int]:
    """The lines between `diff --git` and the first hunk: each kind at most once and in git's order."""
    header: dict[str, str] = {}
    start = at
    for kind, pattern in _HEADER_LINES:
        match = pattern.fullmatch(lines[at].rstrip("\n")) if at < len(lines) else None
        if match:
            header[kind] = match[1]
            at += 1
        elif kind == "paths":
            found = lines[at].strip()
            if '"' in found:
                what = f"paths with special characters are not supported: {found}"
                raise broken(name, first_line + at, what, fix="Rename the file.")
            raise broken(name, first_line + at, f"the paths do not begin with a/ and b/ (diff.noprefix?): {found}")
    # A hunk follows; or, behind an empty file, the next file or the end.
    follows = "".join(lines[at : at + 1]).strip("\n")
    if follows and follows != "-- " and not follows.startswith(("@@ ", "diff --git ")):
        raise _stray(name, first_line + at, follows)
    if not re.fullmatch(r"[0-9a-f]{40}\.\.[0-9a-f]{40}(?: \d+)?", header.get("index", "")):
        why = "Without both full blob ids nobody can tell whether the file is the one the patch was made for."
        raise broken(name, first_line + start, "no index line with two full blob ids", why)
    return header, at


def _read_hunk(name: str, first_line: int, lines: list[str], at: int, block: unidiff.Hunk) -> tuple[Hunk, int]:
    """Check that `block` starts at index `at`, has the lines its header promises; return the index behind it."""
    body = [line for line in block if line.is_context or line.is_added or line.is_removed]
    if not body or body[0].diff_line_no != at + 2 or not lines[at].startswith("@@ "):
        raise _stray(name, first_line + at, lines[at])
    kept: list[str] = []
    end = at + 1
    while end < len(lines) and (len(kept) < len(body) or lines[end].startswith("\\")):
        line = lines[end]
        if line.startswith(_NO_NEWLINE) and kept:
            kept[-1] = kept[-1].rstrip("\n")
        elif line[0] in " +-" and line.endswith("\n"):
            kept.append(line)
        else:
            why = "An editor may have stripped the space of an empty context line, or cut the file."
            raise broken(name, first_line + end, "a line of a hunk must start with ' ', '+' or '-'", why)
        end += 1
    hunk = Hunk(
        line=first_line + at,
        old_start=block.source_start,
        old_len=block.source_length,
        new_start=block.target_start,
        new_len=block.target_length,
        section=block.section_header.rstrip("\n"),
        lines=tuple(kept),
    )
    return hunk, end


def _file_change(name: str, line: int, header: dict[str, str], hunks: tuple[Hunk, ...]) -> FileChange:
    created, deleted = header.get("created"), header.get("deleted")
    path = _path(name, line, header, bool(created), bool(deleted))
    blobs, _, same_mode = header["index"].partition(" ")
    old_blob, new_blob = blobs.split("..")
    old_mode = None if created else deleted or header.get("old_mode") or same_mode
    new_mode = None if deleted else created or header.get("new_mode") or same_mode
    check_modes(name, line, path, old_mode, new_mode)
    if (old_blob == NO_BLOB) != bool(created) or (new_blob == NO_BLOB) != bool(deleted):
        raise broken(name, line, f"{path}: the index line and 'new file' or 'deleted file' disagree")
    named = {"source", "target"} & header.keys()
    if len(named) != (2 if hunks else 0) or not (hunks or created or deleted):
        raise broken(name, line, f"{path}: it needs '---', '+++' and a hunk")
    check_order(name, hunks)
    old_path, new_path = None if created else path, None if deleted else path
    return FileChange(line, old_path, new_path, old_blob, new_blob, old_mode, new_mode, hunks)


def _path(name: str, line: int, header: dict[str, str], created: bool, deleted: bool) -> str:
    """The one path that `diff --git`, `---` and `+++` agree on."""
    half = len(header["paths"]) // 2
    path = header["paths"][2:half]
    if header["paths"] != f"a/{path} b/{path}":
        why = "Each side of a change needs its own blob id."
        raise broken(name, line, f"rename, copy or foreign prefix: {header['paths']}", why)
    source = "/dev/null" if created else f"a/{path}"
    target = "/dev/null" if deleted else f"b/{path}"
    if (header.get("source", source), header.get("target", target)) != (source, target):
        raise broken(name, line, f"'diff --git' names {path}, but '---' and '+++' name something else")
    check_path(name, line, path)
    return on_disk(path)
