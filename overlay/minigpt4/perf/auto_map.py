"""Make a weights folder load this decoder through transformers' AutoModelForCausalLM, and undo it.

    install(folder, models)    remove(folder)

Installing copies modeling_vicuna_ascend_performance.py into the folder and inserts one key, auto_map, into its
config.json, whose other bytes stay as they are. What was there before is kept beside it under BACKUP. Every file is
replaced in one step, backups come first, and both functions go on from wherever an earlier call was killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

FILE = "modeling_vicuna_ascend_performance.py"
AUTO_MAP = {"AutoModelForCausalLM": "modeling_vicuna_ascend_performance.LlamaForCausalLM"}
BACKUP = ".before-auto-map"
_PLACE = re.compile(rb"^INSTALLED_FROM = .*$", re.MULTILINE)  # also tells our file from others of its name
_SPACE = re.compile(r"[ \t\r\n]*")


class Refusal(Exception):
    """The folder is not as it must be; nothing was changed. The message says what to do."""


def install(folder: Path, models: Path, force: bool = False) -> str:
    """Install from `models`, the folder that holds FILE and the decoder; returns what was done, for the user.

    force: replace another auto_map, or another file of the same name; the backup keeps it.
    """
    config, target = folder / "config.json", folder / FILE
    text, found = _read_config(config)
    content = _PLACE.sub(b"INSTALLED_FROM = " + _literal(models), (models / FILE).read_bytes())
    foreign = target.is_file() and not _PLACE.search(target.read_bytes())
    if foreign and not force:
        raise Refusal(f"{target} is another file of that name. With --force it is replaced and kept as *{BACKUP}.")
    mapped = found.get("auto_map") == AUTO_MAP
    if "auto_map" in found and not mapped and not force:
        raise Refusal(
            f"{config} has another auto_map: {json.dumps(found['auto_map'])}. With --force it is replaced, and "
            f"{config.name}{BACKUP} keeps it."
        )
    if mapped and target.is_file() and target.read_bytes() == content:
        return f"{folder}: nothing to do, auto_map is installed."
    if not mapped:
        _keep(config)
    if foreign:
        _keep(target)
    _replace(target, content)
    if mapped:
        return f"{folder}: {FILE} renewed; auto_map was in config.json already."
    _replace(config, _with_auto_map(text).encode())
    return f"{folder}: {FILE} copied, auto_map written into config.json (before: {config.name}{BACKUP})."


def remove(folder: Path) -> str:
    """Undo `install`. What was changed in config.json since then stays."""
    config, target = folder / "config.json", folder / FILE
    text, found = _read_config(config)
    backup, done = _backup(config), []
    original, before = _read_config(backup) if backup.is_file() else ("{}", {})
    mapped = found.get("auto_map") == AUTO_MAP
    if not mapped and Path(FILE).stem + "." in json.dumps(found.get("auto_map")):
        raise Refusal(
            f"auto_map in {config} was edited since and still names {FILE}: {json.dumps(found['auto_map'])}. Take that "
            "entry out, then call this again."
        )
    if mapped:
        text = _before(text, original)
        if backup.is_file() and backup.read_bytes() == text.encode():
            os.replace(backup, config)  # the file itself, with its date, or the link that it was
        else:
            _replace(config, text.encode())
        done.append("auto_map taken out of config.json")
    if target.is_file() and _PLACE.search(target.read_bytes()):
        if _backup(target).is_file():
            os.replace(_backup(target), target)
        else:
            target.unlink()
        done.append(f"{FILE} removed")
    if not mapped and found.get("auto_map") != before.get("auto_map"):
        done.append(f"auto_map is another one today and stays, the one before is in {backup.name}")
    elif backup.is_file() or backup.is_symlink():
        backup.unlink()
    return f"{folder}: {', '.join(done) if done else 'nothing to do, auto_map is not installed'}."


def _backup(path: Path) -> Path:
    return path.with_name(path.name + BACKUP)


def _keep(path: Path) -> None:
    """Copy to the backup's name; a link stays a link. A backup that is there is the same file or a reason to stop."""
    backup = _backup(path)
    if backup.is_file():
        if backup.read_bytes() == path.read_bytes():
            return
        raise Refusal(
            f"{backup} is left from an earlier install, and {path.name} has changed since. Look at both, then move "
            "one of them away."
        )
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    shutil.copy2(path, partial, follow_symlinks=False)
    os.replace(partial, backup)


def _replace(path: Path, content: bytes) -> None:
    """Write all of it or nothing, with the permissions that the file had."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        shutil.copymode(path, partial)
    os.replace(partial, path)


def _literal(path: Path) -> bytes:
    """A path as Python source, doubled backslashes for re.sub."""
    return ascii(str(path.resolve())).replace("\\", "\\\\").encode()


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        raise Refusal(f"{path} does not exist: give the folder of Vicuna's weights (config.json, *.bin, tokenizer).")
    try:
        text = path.read_bytes().decode()
        content = json.loads(text.lstrip("\ufeff"))
    except ValueError as error:
        raise Refusal(f"{path} is not valid JSON ({error}): download it again.") from error
    if not isinstance(content, dict):
        raise Refusal(f"{path} is not a JSON object: download it again.")
    return text, content


def _entries(text: str) -> dict[str, tuple[int, int, int]]:
    """Where each key of the JSON object begins, and where its value begins and ends."""
    decode, places = json.JSONDecoder().raw_decode, {}
    at = _space(text, text.index("{") + 1)
    while text[at] != "}":
        start = at
        key, at = decode(text, at)
        value = _space(text, _space(text, at) + 1)
        end = decode(text, value)[1]
        places[key] = (start, value, end)
        at = _space(text, end)
        if text[at] == ",":
            at = _space(text, at + 1)
    return places


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _with_auto_map(text: str) -> str:
    """Insert auto_map as the first key, in the layout of the others; one that is there gets the new value."""
    first = text.index("{") + 1
    indent = text[first : _space(text, first)]
    inner = indent + indent.rpartition("\n")[2] if "\n" in indent else ""
    entries = ("," + (inner or " ")).join(f"{json.dumps(key)}: {json.dumps(item)}" for key, item in AUTO_MAP.items())
    written = "{" + inner + entries + (indent if inner else "") + "}"
    places = _entries(text)
    if "auto_map" in places:
        _, start, end = places["auto_map"]
        return text[:start] + written + text[end:]
    follows = ("," + (indent or " ")) if places else ""
    at = first + len(indent)
    return text[:at] + f'"auto_map": {written}{follows}' + text[at:]


def _before(text: str, original: str) -> str:
    """`text` with the auto_map that `original` had, or without one."""
    places = _entries(original)
    if "auto_map" not in places:
        return _without_auto_map(text)
    value = original[slice(*places["auto_map"][1:])]
    _, start, end = _entries(text)["auto_map"]
    return text[:start] + value + text[end:]


def _without_auto_map(text: str) -> str:
    places = _entries(text)
    start, _, end = places["auto_map"]
    after = [begin for begin, _, _ in places.values() if begin > end]
    if after:
        return text[:start] + text[min(after) :]
    before = [stop for _, _, stop in places.values() if stop < start]  # it is the last one: its comma stands before it
    return text[: max(before, default=start)] + text[end:]
