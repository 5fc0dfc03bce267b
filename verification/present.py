"""Are the weight files there, whole, and the published ones? Asked before anything is loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verification.download.sums import sha256_of
from verification.report import Check, Outcome
from verification.weightfiles.facts import Entry, read_facts
from verification.weights import WeightFiles

WHOLE_OR_INDEX = ("model.safetensors", "pytorch_model.bin")  # in this order; the index is called NAME.index.json


def check_present(files: WeightFiles, known: Path) -> tuple[Check, ...]:
    """One line per file: there or not, of the published size and sum. `known`: configs/weights.yaml."""
    facts = read_facts(known)
    return tuple(
        _check_file(key, path, _facts_of(key, files, facts), bool(files.marker)) for key, path in files.items.items()
    )


def _facts_of(key: str, files: WeightFiles, facts: Mapping[str, Entry]) -> Entry:
    llama2 = {"llama_model": "llama2_model", "ckpt": "llama2_ckpt"} if files.model_type == "pretrain_llama2" else {}
    return facts[llama2.get(key, key)]


def _check_file(key: str, path: Path, facts: Entry, synthetic: bool) -> Check:
    name, shows = f"file {key}", "it is there; not what is in it"
    missing = missing_of(key, path)
    if missing:
        detail = f"{missing.absolute()} does not exist. It is of {facts.name}: {facts.source}"
        return Check("weights", name, Outcome.NOT_RUN, "missing", shows=shows, detail=detail)
    if not path.is_file():
        return Check("weights", name, Outcome.PASSED, "folder", shows=shows, numbers={"path": str(path), "bytes": None})
    size = path.stat().st_size
    again = f"Download it again: {facts.source}"
    if not synthetic and facts.file.bytes and size != facts.file.bytes:
        detail = f"{path} is cut off or another file. {again}"
        return Check("weights", name, Outcome.FAILED, f"{size:,} bytes", f"{facts.file.bytes:,} bytes", shows, detail)
    numbers: dict[str, Any] = {"path": str(path), "bytes": size}
    if synthetic or not facts.file.sha256:
        return Check("weights", name, Outcome.PASSED, f"{size:,} bytes", shows=shows, numbers=numbers)
    numbers["sha256"] = digest = sha256(path)
    measured, allowed = f"sha256 {digest[:8]}", facts.file.sha256[:8]
    if digest != facts.file.sha256:
        detail = f"{path} has the right size and the wrong content: its sha256 is {digest}. {again}"
        return Check("weights", name, Outcome.FAILED, measured, allowed, "", detail, numbers=numbers)
    return Check("weights", name, Outcome.PASSED, measured, allowed, "it is the published file", numbers=numbers)


def missing_of(key: str, path: Path) -> Path | None:
    """The first file behind `key` that is not there."""
    needed = {"llama_model": llama_needs, "bert": lambda folder: [folder / "config.json"]}.get(key, lambda file: [file])
    return next((file for file in needed(path) if not file.exists()), None)


def llama_needs(folder: Path) -> list[Path]:
    """Configuration, tokenizer, and every shard that the index names."""
    needed = [folder / "config.json", folder / "tokenizer.model"]
    for whole in WHOLE_OR_INDEX:
        index = folder / f"{whole}.index.json"
        if (folder / whole).exists():
            return needed
        if index.exists():
            try:
                names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (ValueError, KeyError, AttributeError):
                return needed  # a broken index is for the loader to say
            return needed + [folder / name for name in sorted(names)]
    return [*needed, folder / f"{WHOLE_OR_INDEX[-1]}.index.json"]


def sha256(path: Path) -> str:
    """Of 2 GB in seconds, so say on standard error what takes them."""
    print(f"verify: sha256 of {path} ({path.stat().st_size / 1e6:,.0f} MB) ...", file=sys.stderr, flush=True)
    return sha256_of(path)
