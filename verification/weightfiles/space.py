"""How much disk the missing files take, and how much memory the model takes once they are loaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from overlaykit.errors import TryAgain
from verification.memory import available_memory

RESERVE = 256 * 1024**2  # bytes that stay free
IMAGE_HALF = 986e6 + 105e6  # parameters: ViT-g to its 39th block, and the Q-Former with llama_proj


def check_disk(missing: Iterable[tuple[Path, int]]) -> str:
    """One sentence on the disk. `missing`: a file's path, and its bytes, of which a .part may hold some already.

    Raises TryAgain where a disk has too little room, before anything is fetched.
    """
    needed: dict[int, int] = {}
    roots: dict[int, Path] = {}
    for path, size in missing:
        part = path.with_name(path.name + ".part")
        root = next(parent for parent in path.absolute().parents if os.path.isdir(parent))
        device = os.stat(root).st_dev
        roots[device] = root
        needed[device] = needed.get(device, 0) + max(size - (part.stat().st_size if os.path.exists(part) else 0), 0)
    sentences = []
    for device, size in needed.items():
        free = shutil.disk_usage(roots[device]).free
        sentence = f"{size / 1e9:,.2f} GB to fetch, {free / 1e9:,.2f} GB free on the disk of {roots[device]}"
        if size + RESERVE > free:
            raise TryAgain(
                f"The disk is too small: {sentence}.",
                f"Nothing was fetched; {RESERVE / 1e9:.2f} GB must stay free.",
                "Free some, name another folder with --model-path, or fetch less with --only.",
            )
        sentences.append(sentence)
    return "; ".join(sentences)


def describe_memory(config: Mapping[str, Any]) -> str:
    """What the model takes in each precision, against what is free. `config`: the language model's config.json."""
    try:
        total, wide = parameters(config)
    except (KeyError, TypeError, ValueError):
        return "config.json does not say how large the language model is"
    sizes = {
        "float32": 4 * (total + IMAGE_HALF),
        "float16": 2 * (total + IMAGE_HALF),
        "int8": total + wide + 2 * IMAGE_HALF,  # int8 matrices; words, head and the image half stay float16
    }
    listed = ", ".join(f"{size / 1e9:,.1f} GB in {name}" for name, size in sizes.items())
    free = available_memory()
    if free is None:
        return listed
    fits = [name for name, size in sizes.items() if size < free] or ["none of them"]
    return f"{listed}; {free / 1e9:,.1f} GB of this host's are free: {', '.join(fits)} would fit"


def parameters(config: Mapping[str, Any]) -> tuple[int, int]:
    """Parameters of a Llama, and how many of them are in its words and its head, which int8 leaves as they are."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads = config.get("num_attention_heads") or 1
    narrow = hidden * (config.get("num_key_value_heads") or heads) // heads
    layer = 2 * hidden * hidden + 2 * hidden * narrow + 3 * hidden * inner + 2 * hidden
    wide = 2 * config["vocab_size"] * hidden
    return layers * layer + wide + hidden, wide
