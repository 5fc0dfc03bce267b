"""A Hugging Face folder: is it the model that is meant, is every part of it there, and did no part change?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from verification.present import WHOLE_OR_INDEX
from verification.report import Outcome
from verification.weightfiles.facts import Entry, FileFacts
from verification.weightfiles.files import SYNTHETIC, Finding, Sums, how_to_get, look
from verification.weightfiles.pins import Pin, Pins
from verification.weightfiles.recognise import Trouble
from verification.weightfiles.tensors import compare, is_delta, shapes

SHARD = (".bin", ".safetensors")
UNOPENED = Trouble(
    "unopened",
    "there, but not looked into: that takes torch, and with torch before 2.1 as much free memory as the file has bytes",
    "Install what inference needs (pip install '.[cpu]') and run this again",
)


def check_folder(entry: Entry, folder: Path, sums: Sums, synthetic: bool) -> list[Finding]:
    """A line for every file, and for the folder as a whole where what is wrong is no single file's."""
    get = how_to_get(entry, folder)
    if not folder.is_dir():
        what = "not there" if not folder.exists() else "a file, where a folder should be"
        outcome = Outcome.NOT_RUN if not folder.exists() else Outcome.FAILED
        return [Finding(entry.key, folder, outcome, "missing" if not folder.exists() else "file", what, get)]
    names = [*entry.files, *(FileFacts(name) for name in shard_names(entry, folder))]
    found = [look(entry, facts, folder / facts.name, get) for facts in names]
    found = [_nested(line, folder, get) if line.kind == "missing" else line for line in found]
    if synthetic:
        return [_synthetic(line) if line.outcome is Outcome.PASSED else line for line in found]
    checked = [
        _content(entry, line, facts) if line.outcome is Outcome.PASSED else line for line, facts in zip(found, names)
    ]
    return _with_sums(entry, folder, list(zip(checked, names)), sums)


def _synthetic(line: Finding) -> Finding:
    return replace(line, outcome=Outcome.NOTE, kind=SYNTHETIC, told_by=SYNTHETIC)


def _nested(line: Finding, folder: Path, get: str) -> Finding:
    """The usual reason for a missing file: the folder lies one level deeper."""
    inner = next(iter(sorted(folder.glob(f"*/{line.path.name}"))), None)
    if inner is None or line.outcome is Outcome.NOTE:
        return line
    return replace(line, what=f"not there, but in {inner.parent}", fix=f"Name that folder, or move its files up. {get}")


def shard_names(entry: Entry, folder: Path) -> list[str]:
    """The index and the shards that it names, or the one file that holds everything; for a folder without tensors none.

    Names that would lead out of the folder are left out; `_index` reports them.
    """
    if not entry.index:
        return []
    for whole in WHOLE_OR_INDEX:
        if (folder / whole).exists():
            return [whole]
        index = folder / f"{whole}.index.json"
        if index.exists():
            return [index.name, *safe_names(index)]
    return [entry.index]


def safe_names(index: Path) -> list[str]:
    """The shards that an index names, without those that are no plain file names."""
    return sorted(name for name in set(weight_map(index).values()) if _plain(name))


def weight_map(index: Path) -> Mapping[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return content if isinstance(content, dict) else {}


def _plain(name: Any) -> bool:
    return isinstance(name, str) and name == Path(name).name and name.endswith(SHARD)


def _content(entry: Entry, line: Finding, facts: FileFacts) -> Finding:
    name, trouble = line.path.name, None
    if name == "config.json":
        trouble = _config(entry, line.path)
    elif name.endswith(".index.json"):
        trouble = _index(entry, line.path)
    elif name.endswith(SHARD):
        trouble = _shard(entry, line.path)
    if trouble is None:
        return line
    if trouble is UNOPENED:
        return replace(line, kind=trouble.kind)
    fix = trouble.fix or f"It is another model: move {line.path.parent} away. {how_to_get(entry, line.path.parent)}"
    return replace(line, outcome=Outcome.FAILED, kind=trouble.kind, what=trouble.what, fix=fix)


def _config(entry: Entry, path: Path) -> Trouble | None:
    content = json.loads(path.read_text(encoding="utf-8"))  # `look` has read it
    if not isinstance(content, dict):
        return Trouble("damaged", "it holds no configuration", how_to_get(entry, path.parent))
    wrong = {key: content.get(key) for key, value in entry.config.items() if content.get(key) != value}
    if not wrong:
        return None
    for other in entry.others:
        if other.config and all(content.get(key) == value for key, value in other.config.items()):
            return Trouble("other", other.what)
    return Trouble("other", ", ".join(f"{key} is {value}, not {entry.config[key]}" for key, value in wrong.items()))


def _index(entry: Entry, path: Path) -> Trouble | None:
    get = how_to_get(entry, path.parent)
    names = weight_map(path)
    if not names:
        return Trouble("damaged", "it names no shards", get)
    strange = sorted({str(name) for name in names.values() if not _plain(name)})
    if strange:
        return Trouble("unsafe", f"it names {strange[0]!r}, which is no shard in this folder", get)
    wanted = [*entry.tensors, *entry.vocabulary_tensors]
    missing = [name for name in wanted if name not in names]
    if missing:
        return Trouble("other", f"{len(missing)} of {len(wanted)} tensors are in no shard, {missing[0]} first")
    return None


def _shard(entry: Entry, path: Path) -> Trouble | None:
    inside = shapes(path)
    if inside is None:
        return UNOPENED
    if isinstance(inside, Trouble):
        return replace(inside, fix=how_to_get(entry, path.parent))
    wrong = compare(inside, {name: shape for name, shape in entry.tensors.items() if name in inside})
    if wrong:
        return Trouble("other", f"shapes of another model: {wrong}")
    rows, width = entry.config["vocab_size"], entry.config["hidden_size"]
    for name in entry.vocabulary_tensors:
        if name in inside and inside[name] != (rows, width):
            what = f"{name} is {list(inside[name])}, not {[rows, width]}: the words of another version of the model"
            return Trouble("other", f"{what}, whatever config.json says")
    lost = [name for name in _named_here(path) if name not in inside]
    if lost:
        return Trouble("other", f"the index says that {lost[0]} is in it: a shard of another download")
    if "model.norm.weight" in inside and is_delta(path):
        what = "a delta: the difference to LLaMA, which must be added to LLaMA's weights before use"
        return Trouble("other", what)
    return None


def _named_here(path: Path) -> list[str]:
    """The tensors that the folder's index puts into this shard."""
    indexes = [path.parent / f"{whole}.index.json" for whole in WHOLE_OR_INDEX]
    return [name for index in indexes for name, shard in weight_map(index).items() if shard == path.name]


def _with_sums(entry: Entry, folder: Path, lines: list[tuple[Finding, FileFacts]], sums: Sums) -> list[Finding]:
    """Compare every sum with the published or pinned one; pin the new ones when nothing is wrong with the folder."""
    pins, new, result = Pins(folder), {}, []
    for line, facts in lines:
        if line.outcome is not Outcome.PASSED:
            result.append(line)
            continue
        digest, name = sums.of(line.path), line.path.name
        line = replace(line, sha256=digest)
        if facts.sha256:
            result.append(_published(entry, line, facts))
        elif name in pins.pins:
            result.append(_pinned(entry, line, pins))
        elif line.kind == UNOPENED.kind and digest not in entry.known_shards:
            result.append(replace(line, outcome=Outcome.NOT_RUN, what=UNOPENED.what, fix=UNOPENED.fix))
        else:
            new[name] = Pin(digest)
            result.append(replace(line, told_by=entry.known_shards.get(digest, "seen for the first time")))
    if not any(line.outcome in (Outcome.FAILED, Outcome.NOT_RUN) for line in result):
        pins.add(new)
    return result


def _published(entry: Entry, line: Finding, facts: FileFacts) -> Finding:
    if line.sha256 == facts.sha256:
        return replace(line, told_by="published")
    what = f"its sha256 is {line.sha256}, not {facts.sha256}"
    if line.path.name == "tokenizer.model":
        what = f"{tokenizer_kind(line.path)}, not LLaMA's tokenizer; {what}"
    fix = f"Move it away. {how_to_get(entry, line.path.parent)}"
    return replace(line, outcome=Outcome.FAILED, kind="other", what=what, fix=fix)


def tokenizer_kind(path: Path) -> str:
    """What kind of tokenizer a wrong tokenizer.model is."""
    head = path.read_bytes()[:64]
    if head.startswith(b"IQ== 0"):
        return "the tokenizer of Llama 3"
    if head.lstrip().startswith(b"{"):
        return "a tokenizer.json under this name"
    try:
        import sentencepiece

        words = sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()
    except ImportError:
        return "another one"
    except (RuntimeError, OSError):
        return "no SentencePiece model"
    return f"a SentencePiece model of {words:,} words"


def _pinned(entry: Entry, line: Finding, pins: Pins) -> Finding:
    pin = pins.pins[line.path.name]
    if pin.sha256 == line.sha256:
        line = replace(line, kind="ok")
        told = "announced by its server" if pin.announced else "as first seen"
        return replace(line, told_by=entry.known_shards.get(pin.sha256, told))
    what = f"it has changed: its sha256 is {line.sha256}, and was {pin.sha256} when it was first seen ({pins.path})"
    get = how_to_get(entry, line.path.parent)
    fix = f"If you changed it, delete its entry there. If not, delete the file. {get}"
    return replace(line, outcome=Outcome.FAILED, kind="changed", what=what, fix=fix)
