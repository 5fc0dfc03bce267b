"""What is asked about which pictures, and what a right answer mentions: configs/prompts.yaml and --images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from overlaykit.errors import FixTheCommand, FixTheProjectFile
from verification.report import Check, Outcome

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class Expectation:
    """What a right answer about one picture says: at least one word of every group, and no forbidden word."""

    file: str
    sha256: str
    words_from: str  # what the groups were written from: answers that somebody published, or a look at the picture
    ask: bool  # by default; the others are asked when --images names them
    groups: tuple[tuple[str, ...], ...]
    forbidden: tuple[str, ...]


@dataclass(frozen=True)
class Prompts:
    questions: tuple[str, ...]
    max_new_tokens: int
    min_words: int
    min_ascii: float
    max_repeated_4grams: float
    leaks: tuple[str, ...]
    seeds: tuple[int, ...]  # one sampled answer from each
    passing: int  # of the seeds, at least
    pictures: Mapping[str, Expectation]


def load_prompts(path: Path) -> Prompts:
    """Read configs/prompts.yaml. Raises FixTheProjectFile where it cannot be one."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        pictures = [_expectation(item) for item in content["pictures"]]
        prompts = Prompts(
            questions=tuple(content["questions"]),
            max_new_tokens=int(content["max_new_tokens"]),
            leaks=tuple(content["rules"].pop("leaks")),
            seeds=tuple(content["sampling"]["seeds"]),
            passing=int(content["sampling"]["passing"]),
            pictures={item.file: item for item in pictures},
            **content["rules"],
        )
        if not 0 < prompts.passing <= len(set(prompts.seeds)) == len(prompts.seeds):
            raise ValueError("sampling: `passing` is no number of the seeds, or a seed is there twice")
        return prompts
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FixTheProjectFile(f"{path} cannot be read as prompts.", f"{type(error).__name__}: {error}") from error


def _expectation(item: Mapping[str, Any]) -> Expectation:
    groups = tuple(tuple(group) for group in item["groups"])
    if not groups or not all(groups):  # any answer would meet them, also one about nothing
        raise ValueError(f"{item['file']}: it needs groups, and each of them words")
    file, forbidden = item["file"], tuple(item["forbidden"])
    return Expectation(file, item["sha256"], item["words_from"], bool(item.get("ask", False)), groups, forbidden)


def find_pictures(images: str, workspace: Path, prompts: Prompts) -> tuple[Path, ...]:
    """The pictures of --images, tried as given and then inside the workspace.

    Of a folder: those that prompts.yaml knows, or all pictures when it knows none of them.
    """
    found = next((path for path in (Path(images), workspace / images) if path.exists()), None)
    if found is None:
        raise FixTheCommand(
            f"--images {images} does not exist.",
            f"Looked in {Path.cwd()} and in {workspace}.",
            "Name a picture or a folder of pictures.",
        )
    inside = [found] if found.is_file() else sorted(path for path in found.iterdir() if path.suffix.lower() in PICTURES)
    known = [path for path in inside if path.name in prompts.pictures]
    if not inside:
        raise FixTheCommand(f"{found} holds no picture.", f"Looked for {', '.join(PICTURES)}.")
    for path in known or inside:
        check_readable(path)
    return tuple(known or inside)


def asked_about(pictures: Iterable[Path], prompts: Prompts) -> tuple[Path, ...]:
    """Those that prompts.yaml marks with `ask`, or all when it marks none of them.

    An answer takes minutes on a CPU, so of all of upstream's pictures only three are asked about.
    """
    every = tuple(pictures)
    marked = tuple(path for path in every if path.name in prompts.pictures and prompts.pictures[path.name].ask)
    return marked or every


def check_readable(path: Path) -> None:
    try:
        from PIL import Image
    except ModuleNotFoundError:  # then nothing can be loaded either, which has a line of its own
        return
    try:
        with Image.open(path) as picture:
            picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FixTheCommand(f"--images: {path} cannot be read as a picture.", str(error)) from error


def check_pictures(pictures: Sequence[Path], prompts: Prompts) -> tuple[Check, ...]:
    """A picture that prompts.yaml describes must be that picture, byte for byte, or its answer is judged wrongly."""
    checks = []
    for path in pictures:
        expected = prompts.pictures.get(path.name)
        if expected is None:
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        same = digest == expected.sha256
        checks.append(
            Check(
                "pictures",
                path.stem[:18],
                Outcome.PASSED if same else Outcome.FAILED,
                f"sha256 {digest[:8]}",
                expected.sha256[:8],
                "the picture that prompts.yaml describes; nothing of the model",
                "" if same else f"{path} is another picture under this name. Restore it from upstream.",
            )
        )
    return tuple(checks)
