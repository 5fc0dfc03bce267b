"""Judge an answer by its form, and by the words that it must and must not contain.

A smoke test: it catches an answer about another picture, in another language, cut off or repeating itself. It cannot
tell a list of the right words from a description, or a wrong colour from the right one, and it knows no words that
configs/prompts.yaml does not list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from verification.prompts import Expectation, Prompts

WORD = re.compile(r"\w+(?:['’-]\w+)*")
# "no laptop", "isn't a laptop", "without any open laptop"; but "not only a laptop" says that there is one. Up to two
# words may stand between, no more: in "no laptop on the desk" there is a desk.
NEGATION = re.compile(
    r"\b(?:no|not|without|never|neither|nor|cannot|\w+n['’]t)\b"
    r"(?!\s+(?:only|just|merely|simply|doubt)\b)(?:\s+[\w'’-]+){0,2}\s+$",
    re.IGNORECASE,
)
BEFORE = 80  # characters before a word in which its negation is looked for


def judge(text: str, stopped: bool, expected: Expectation, prompts: Prompts) -> tuple[str, ...]:
    """What is wrong with an answer, one phrase each; empty when it passes."""
    problems = list(_form_problems(text, stopped, prompts))
    for group in expected.groups:
        if not any(contains(text, word) for word in group):
            problems.append(f"mentions none of {', '.join(group)}")
    problems += [f'mentions "{word}"' for word in expected.forbidden if contains(text, word)]
    return tuple(problems)


def fits(text: str, expected: Expectation) -> bool:
    """Whether a word of every group is there: whatever was asked, this text could be about that picture."""
    return all(any(contains(text, word) for word in group) for group in expected.groups)


def _form_problems(text: str, stopped: bool, prompts: Prompts) -> Iterator[str]:
    words = WORD.findall(text.lower())
    if len(words) < prompts.min_words:
        yield f"has {len(words)} words, at least {prompts.min_words} expected"
    if not stopped:
        yield "was cut off by length instead of stopping"
    for leak in prompts.leaks:
        if leak in text:
            yield f'contains "{leak}", a piece of the prompt'
    ascii_share = sum(character.isascii() for character in text) / len(text) if text else 1.0
    if ascii_share < prompts.min_ascii:
        yield f"is {ascii_share:.0%} ASCII, at least {prompts.min_ascii:.0%} expected"
    repeated = repeated_4grams(words)
    if repeated >= prompts.max_repeated_4grams:
        yield f"repeats itself: {repeated:.0%} of its 4-grams occurred before"


def contains(text: str, word: str) -> bool:
    """Whole word, any case, also with a plural ending, and not only to say that there is none."""
    found = re.finditer(rf"\b{re.escape(word)}(?:s|es)?\b", text, re.IGNORECASE)
    return any(not NEGATION.search(text, max(0, match.start() - BEFORE), match.start()) for match in found)


def repeated_4grams(words: Sequence[str]) -> float:
    """Share of the runs of four words that occurred before, 0 to 1."""
    grams = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
