"""What a file is by its bytes alone, whatever its name says. Reads the head and the end; executes nothing."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

HEAD = 4096
ARCHIVES = {  # first bytes -> what they begin
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
HEADER = 100_000_000  # bytes; safetensors refuses more
OLD_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # its magic number, pickled
MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml")
POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/[^\n]*\noid sha256:([0-9a-f]{64})\nsize (\d+)")


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a file and what to do. `kind` is one word for programs."""

    kind: str
    what: str
    fix: str = ""  # "" for: fetch it again


def recognise(path: Path, name: str = "") -> Trouble | None:
    """What this file is, if by its bytes it is no weight file at all, or only a part of one. None: it may be right.

    `name`: what it is to be called, where it has another name now.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return Trouble("empty", "the file is empty: a download that never began, or a full disk")
    name = name or path.name
    return _text(head, size) or _archive(name, head) or _cut_off(path, name, head, size)


def is_old_torch(path: Path) -> bool:
    """Does it begin as torch.save wrote before version 1.6? Such a file does not say where it ends."""
    with path.open("rb") as file:
        return file.read(len(OLD_TORCH)) == OLD_TORCH


def _text(head: bytes, size: int) -> Trouble | None:
    pointer = POINTER.match(head)
    if pointer:
        what = f"a git-LFS pointer ({size:,} bytes) that stands for a file of {int(pointer[2]):,} bytes"
        fix = "In that clone: git lfs install && git lfs pull"
        return Trouble("lfs-pointer", what, fix)
    begin = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if begin.lower().startswith(MARKUP):
        if b"Google Drive" in head or b"drive.google.com" in head:
            what = "Google Drive's page that asks to confirm a large download, saved under the file's name"
            return Trouble("drive-page", what, "In a browser press `Download anyway` there, or use a mirror")
        return Trouble("web-page", "a web page (a login, a proxy or an error) saved under the file's name")
    if begin.startswith(b'{"error"'):
        return Trouble("web-page", "an error message of the server saved under the file's name")
    return None


def _archive(name: str, head: bytes) -> Trouble | None:
    kind = next((kind for magic, kind in ARCHIVES.items() if head.startswith(magic)), None)
    if kind is None and head[257:262] == b"ustar":
        kind = "tar"
    if kind is None:
        return None
    return Trouble("archive", f"a {kind} archive under the file's name", f"Unpack it: {name} is inside")


def _cut_off(path: Path, name: str, head: bytes, size: int) -> Trouble | None:
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as content:
                inside = content.namelist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return Trouble("truncated", "the end is missing: the download was cut off, or its middle is damaged")
        if not any(entry.endswith("data.pkl") for entry in inside):
            return Trouble("archive", "a zip archive and no PyTorch file", f"Unpack it: perhaps {name} is inside")
    elif name.endswith(".safetensors"):
        return _cut_off_safetensors(path, head, size)
    elif name.endswith(".json"):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            return Trouble("damaged", f"not readable as JSON ({str(error).splitlines()[0]})")
    return None


def _cut_off_safetensors(path: Path, head: bytes, size: int) -> Trouble | None:
    """Eight bytes give the length of a JSON header, and that the end of every tensor."""
    try:
        length = struct.unpack("<Q", head[:8])[0]
        if length > HEADER:
            raise ValueError
        with path.open("rb") as file:
            header = json.loads(file.read(8 + length)[8:])
        end = 8 + length + max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return Trouble("truncated", "its header cannot be read: cut off, or no safetensors file")
    if end != size:
        return Trouble("truncated", f"it has {size:,} bytes and its header speaks of {end:,}")
    return None
