"""What this project says: the pin, the patches, the overlay and the rules, read together and given one fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .configs import Rules, load_rules
from .errors import FixTheProjectFile
from .install import refuse_pending
from .journal import write_file
from .patchfile import Patch
from .series import read_series
from .yamltext import Document

# Litter that Python, editors and file managers leave in overlay/ and that must not reach the tree.
_LITTER = re.compile(r"__pycache__|.*\.py[co]|\.DS_Store|.*~|\..*\.sw[a-p]|#.*#")


@dataclass(frozen=True)
class Upstream:
    """configs/upstream.yaml. `result` is the tree that the overlay must give, "" before the first `lock`."""

    url: str
    mirrors: tuple[str, ...]
    branch: str
    commit: str
    result: str
    exclude: tuple[str, ...]


@dataclass(frozen=True)
class Project:
    root: Path
    upstream: Upstream
    series: tuple[Patch, ...]
    overlay: Mapping[str, Path]  # path in the tree -> file in overlay/
    rules: Rules
    fingerprint: str  # of all of the above that can change the built tree, and of the code that builds it

    @property
    def lock_file(self) -> Path:
        return self.root / "configs" / "upstream.yaml"


def read_project(root: Path) -> Project:
    """Read the project at `root`. Raises FixTheProjectFile, and TryAgain while its files are being replaced."""
    root = root.resolve()
    refuse_pending(root)
    upstream = read_upstream(root / "configs" / "upstream.yaml")
    series = read_series(root / "patches")
    overlay = overlay_files(root / "overlay")
    rules_file = root / "configs" / "paths.yaml"
    rules = load_rules(rules_file)
    code = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(upstream.commit.encode())
    for name, data in (
        *((patch.name, patch.raw) for patch in series),
        *((path, file.read_bytes()) for path, file in overlay.items()),
        *((file.name, file.read_bytes()) for file in (rules_file, *code)),
    ):
        digest.update(json.dumps([name, len(data)]).encode() + data)
    refuse_pending(root)
    return Project(root, upstream, series, overlay, rules, digest.hexdigest())


def read_upstream(path: Path) -> Upstream:
    try:
        raw = path.read_bytes()
        Document(str(path), raw)  # names the line of what is no YAML
        data = yaml.safe_load(raw)
    except OSError as error:
        raise FixTheProjectFile(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise FixTheProjectFile(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise FixTheProjectFile(f"{path} holds no keys", fix="It needs url, branch, commit and result.")
    upstream = Upstream(
        url=_text(path, data, "url", r"[^-\s].*"),
        mirrors=_list(path, data, "mirrors"),
        branch=_text(path, data, "branch", r"[\w][\w./-]*"),
        commit=_text(path, data, "commit", r"[0-9a-f]{40}"),
        result=_text(path, data, "result", r"([0-9a-f]{40})?"),
        exclude=_list(path, data, "exclude"),
    )
    unknown = sorted(set(data) - set(Upstream.__dataclass_fields__))
    if unknown:
        raise FixTheProjectFile(
            f"{path}: unknown key {unknown[0]}", fix=f"Known: {', '.join(Upstream.__dataclass_fields__)}"
        )
    return upstream


def write_result(path: Path, tree: str) -> None:
    """Replace the `result` of configs/upstream.yaml; every other byte stays."""
    write_file(path, with_result(path, path.read_bytes(), tree), sync=True)


def with_result(path: Path, data: bytes, tree: str) -> bytes:
    """`data`, the bytes of `path`, with another `result`."""
    changed, count = re.subn(rb"(?m)^result:[^\S\r\n]*[^\s#]*", b'result: "%s"' % tree.encode(), data)
    if count != 1:
        raise FixTheProjectFile(f"{path} has no line that starts with 'result:'", fix='Add the line: result: ""')
    return changed


def with_commit(path: Path, data: bytes, commit: str) -> bytes:
    """`data`, the bytes of `path`, with another pin."""
    changed, count = re.subn(rb"(?m)^(commit:[^\S\r\n]*)[^\s#]+", lambda match: match[1] + commit.encode(), data)
    if count != 1:
        raise FixTheProjectFile(f"{path} has no line that starts with 'commit:' and holds one")
    return changed


def overlay_files(folder: Path) -> dict[str, Path]:
    """The files of overlay/ by their path in the tree, sorted. Raises FixTheProjectFile for a symlink or device."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if is_litter(inside):
            continue
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise FixTheProjectFile(f"{path} is no plain file", "Symlinks and devices can point outside the tree.")
        if path.is_file():
            files[inside.as_posix()] = path
    return dict(sorted(files.items()))


def is_litter(inside: Path) -> bool:
    """True for a path inside overlay/ that is not part of it, but left there by Python, an editor or a file manager."""
    return any(_LITTER.fullmatch(part) for part in inside.parts)


def _text(path: Path, data: Mapping[str, Any], key: str, pattern: str) -> str:
    value = data.get(key)
    value = "" if value is None else value
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise FixTheProjectFile(f"{path}: {key} is {value!r}", f"It must match {pattern}.")
    return value


def _list(path: Path, data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = data.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise FixTheProjectFile(f"{path}: {key} must be a list of words")
    return tuple(value)
