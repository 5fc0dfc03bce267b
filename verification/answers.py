"""Ask the prompts of configs/prompts.yaml and judge the answers by the words that they must and must not contain.

The judge is a smoke test: it catches an answer about another picture, not a loss of precision. It judges real weights
only; with synthetic ones the answers are noise, and the lines say so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
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
    pictures: Mapping[str, Expectation]


def load_prompts(path: Path) -> Prompts:
    """Read configs/prompts.yaml."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        pictures = [
            Expectation(
                item["file"],
                item["sha256"],
                tuple(tuple(group) for group in item["groups"]),
                tuple(item["forbidden"]),
            )
            for item in content["pictures"]
        ]
        return Prompts(
            questions=tuple(content["questions"]),
            max_new_tokens=int(content["max_new_tokens"]),
            leaks=tuple(content["rules"].pop("leaks")),
            pictures={item.file: item for item in pictures},
            **content["rules"],
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise FixTheProjectFile(f"{path} cannot be read as prompts.", f"{type(error).__name__}: {error}") from error


def judge(text: str, stopped: bool, expected: Expectation, prompts: Prompts) -> tuple[str, ...]:
    """What is wrong with an answer, one phrase each; empty when it passes."""
    problems = list(_form_problems(text, stopped, prompts))
    for group in expected.groups:
        if not any(contains(text, word) for word in group):
            problems.append(f"mentions none of {', '.join(group)}")
    problems += [f'mentions "{word}"' for word in expected.forbidden if contains(text, word)]
    return tuple(problems)


def _form_problems(text: str, stopped: bool, prompts: Prompts) -> Iterator[str]:
    words = text.split()
    if len(words) < prompts.min_words:
        yield f"has {len(words)} words, at least {prompts.min_words} expected"
    if not stopped:
        yield "was cut off by length instead of stopping"
    for leak in prompts.leaks:
        if leak in text:
            yield f'contains "{leak}", a piece of the prompt'
    ascii_share = sum(character.isascii() for character in text) / max(len(text), 1)
    if ascii_share < prompts.min_ascii:
        yield f"is {ascii_share:.0%} ASCII, at least {prompts.min_ascii:.0%} expected"
    repeated = repeated_4grams(words)
    if repeated >= prompts.max_repeated_4grams:
        yield f"repeats itself: {repeated:.0%} of its 4-grams occurred before"


def contains(text: str, word: str) -> bool:
    """Whole word, any case, also with a plural ending."""
    return re.search(rf"\b{re.escape(word)}(?:s|es)?\b", text, re.IGNORECASE) is not None


def repeated_4grams(words: Sequence[str]) -> float:
    grams = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


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


def ask_all(port: Any, embeddings: Mapping[Path, Any], prompts: Prompts, synthetic: bool) -> tuple[Check, ...]:
    """Every question on every picture, greedy. `embeddings`: what the port made of each picture."""
    checks = []
    length = 32 if synthetic else prompts.max_new_tokens  # noise need not be long
    for path, embedding in embeddings.items():
        for question in prompts.questions:
            try:
                answer = port.answer(question, embedding, length)
            except Exception as error:  # whatever a faulty port raises is a finding
                detail = f"{question} -> {type(error).__name__}: {error}"
                checks.append(Check("answers", path.stem[:18], Outcome.FAILED, "error", detail=detail))
                continue
            checks.append(_check_answer(path, question, answer, prompts, synthetic))
    return tuple(checks)


def _check_answer(path: Path, question: str, answer: Any, prompts: Prompts, synthetic: bool) -> Check:
    expected = prompts.pictures.get(path.name)
    shown = answer.text.encode("ascii", "backslashreplace").decode() if synthetic else answer.text
    numbers = {"question": question, "answer": answer.text, "tokens": answer.tokens, "stopped": answer.stopped}
    outcome, shows, said = Outcome.NOT_JUDGED, "", f"{question} -> {shown}"
    if synthetic:
        shows = "not judged: synthetic weights; text comes out, not sense"
    elif expected is None:
        shows = "not judged: prompts.yaml knows no picture of this name"
    else:
        problems = judge(answer.text, answer.stopped, expected, prompts)
        outcome = Outcome.FAILED if problems else Outcome.PASSED
        shows = "the answer is about this picture; word rules only"
        said = f"The answer {'; '.join(problems)}. {said}" if problems else said
    return Check(
        "answers", path.stem[:18], outcome, f"{answer.tokens} tokens", "word groups", shows, said, numbers=numbers
    )
