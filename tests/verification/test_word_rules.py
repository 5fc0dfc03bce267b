"""The judge, on published answers, on answers with one thing wrong each, and on answers that try to deceive it."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from published import GPU, NPU, WRITTEN

from verification.decoding import read_answer
from verification.prompts import Expectation, load_prompts
from verification.word_rules import contains, fits, judge

PROJECT = Path(__file__).resolve().parents[2]
PROMPTS = load_prompts(PROJECT / "configs" / "prompts.yaml")
TROPHY, NUGGETS, OFFICE, *LOOKED_AT = PROMPTS.pictures.values()
RIGHT = [*zip(GPU[:2], (TROPHY, NUGGETS)), *zip(NPU, (TROPHY, NUGGETS, OFFICE))]
RIGHT += [(WRITTEN[picture.file], picture) for picture in LOOKED_AT]


# Right and wrong pictures


@pytest.mark.parametrize(("text", "picture"), RIGHT)
def test_an_answer_passes_on_its_own_picture_alone(text: str, picture: Expectation) -> None:
    assert judge(text, True, picture, PROMPTS) == ()
    assert [item.file for item in PROMPTS.pictures.values() if not judge(text, True, item, PROMPTS)] == [picture.file]


def test_the_published_answer_about_the_wrong_picture_is_caught() -> None:
    problems = " ".join(judge(GPU[2], True, OFFICE, PROMPTS))
    assert "mentions none of laptop, computer, desk" in problems
    assert 'mentions "trophy"' in problems
    assert 'mentions "jersey"' in problems


def test_the_words_of_pictures_that_were_only_looked_at_are_marked() -> None:
    assert len(PROMPTS.pictures) == 8
    assert {item.words_from for item in (TROPHY, NUGGETS, OFFICE)} == {"published answers"}
    assert {item.words_from for item in LOOKED_AT} == {"a look at the picture"}
    assert [item.file for item in PROMPTS.pictures.values() if item.ask] == [TROPHY.file, NUGGETS.file, OFFICE.file]


# Form


@pytest.mark.parametrize(
    ("text", "stopped", "problem"),
    [
        ("A man at a desk in an office.", True, "has 8 words"),
        ("A man, a desk, an office " + "- * ... " * 10, True, "has 6 words"),  # signs are no words
        (NPU[2], False, "cut off by length"),
        (NPU[2] + " ###", True, 'contains "###"'),
        (NPU[2] + " Human: and?", True, 'contains "Human:"'),
        (NPU[2] + " Assistant: well", True, 'contains "Assistant:"'),
        (NPU[2] + "好" * 60, True, "ASCII"),
        ("A man sits at a desk in an office. " * 5, True, "repeats itself"),
        ("A man sits at a desk in an office. A MAN SITS, at a desk, in an office! " * 2, True, "repeats itself"),
        ("man laptop suit " * 10, True, "repeats itself"),
        ("", True, "has 0 words"),
        (" \n\t", True, "has 0 words"),
    ],
)
def test_one_thing_wrong_in_the_form_is_named(text: str, stopped: bool, problem: str) -> None:
    assert any(problem in found for found in judge(text, stopped, OFFICE, PROMPTS))


def test_an_empty_answer_misses_everything() -> None:
    problems = judge("", False, OFFICE, PROMPTS)
    assert len(problems) == 2 + len(OFFICE.groups)


class Words:
    """A tokenizer of whole words; 0 is the end."""

    eos_token_id = 0
    words = ("</s>", "A man at a desk.", "###", "Human: more?", "##", "#")

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(self.words[i] for i in ids if i)


@pytest.mark.parametrize(
    ("ids", "text", "stopped"),
    [
        ([1, 2], "A man at a desk.", True),
        ([1, 4, 5], "A man at a desk.", True),
        ([1, 0], "A man at a desk.", True),
        ([1], "A man at a desk.", False),
        ([2], "", True),
        ([], "", False),
        ([1, 2, 3], "A man at a desk.###Human: more?", False),  # the stop word did not stop it
        ([1, 2, 3, 2], "A man at a desk.###Human: more?", True),
    ],
)
def test_only_the_stop_word_that_ended_an_answer_is_cut(ids: list[int], text: str, stopped: bool) -> None:
    answer = read_answer(Words(), ids)
    assert (answer.text, answer.stopped) == (text, stopped)
    problems = judge(answer.text, stopped, OFFICE, PROMPTS)
    assert any('contains "###"' in problem for problem in problems) is (3 in ids)
    assert any("at least 20 expected" in problem for problem in problems)  # a stop word far too early is no answer


# Words


@pytest.mark.parametrize(
    ("text", "word", "there"),
    [
        ("Two MEN and three players.", "player", True),
        ("two boxes", "box", True),
        ("the man's laptop", "man", True),
        ("“Laptop”, he said", "laptop", True),
        ("a laptop\non a desk", "desk", True),
        ("a 20-nugget box", "nugget", True),
        ("He mentions a menu.", "men", False),
        ("a deskless place", "desk", False),
        ("the woman smiles", "man", False),
        ("a cupboard", "cup", False),
        ("foodie", "food", False),
        ("", "food", False),
        # denied
        ("There is no laptop.", "laptop", False),
        ("There is NO visible laptop on the desk.", "laptop", False),
        ("There is no laptop on the desk.", "desk", True),
        ("It isn't a laptop", "laptop", False),
        ("It isn’t a laptop", "laptop", False),
        ("without any open laptop", "laptop", False),
        ("Neither a laptop nor a desk", "laptop", False),
        ("Neither a laptop nor a desk", "desk", False),
        ("There is no laptop. The laptop is closed.", "laptop", True),
        ("This is not only a laptop, it is a work of art.", "laptop", True),
        ("He is not smiling. Laptops are everywhere.", "laptop", True),
        ("He is not smiling, laptops are everywhere.", "laptop", True),
        ("A knot and a laptop", "laptop", True),
        ("Nothing is said of the piano laptop", "laptop", True),
    ],
)
def test_a_word_counts_whole_in_any_case_and_number_and_not_when_denied(text: str, word: str, there: bool) -> None:
    assert contains(text, word) is there


@pytest.mark.parametrize(
    "text",
    [
        # The right answer in another language: all of it about the office, one word that English has too.
        "Das Bild zeigt einen Mann im Anzug, der in einem hellen Raum an einem Schreibtisch sitzt und auf einem Laptop "
        "tippt. Neben ihm steht ein Becher Kaffee, im Hintergrund sind Lampen und Fenster.",
        "L'image montre un homme en costume assis devant un ordinateur portable. Il regarde son travail et sourit, "
        "et derrière lui on voit les lumières d'une grande salle.",
        "图中一名身穿西装的男子坐在办公桌前,正在使用笔记本电脑。" * 3,
    ],
)
def test_an_answer_in_another_language_fails(text: str) -> None:
    assert judge(text, True, OFFICE, PROMPTS)


def test_an_answer_that_denies_everything_is_about_nothing() -> None:
    text = (
        "The picture is entirely grey. There is no man, no laptop, no desk and no office, there are no players without "
        "a trophy, and I cannot see any food or anything else that could be described."
    )
    assert [item.file for item in PROMPTS.pictures.values() if fits(text, item)] == []


def test_an_answer_that_lists_every_word_fails_on_every_picture() -> None:
    words = dict.fromkeys(itertools.chain(*(itertools.chain(*item.groups) for item in PROMPTS.pictures.values())))
    text = f"There are {', '.join(words)}."
    assert all(fits(text, item) for item in PROMPTS.pictures.values())
    for picture in PROMPTS.pictures.values():
        problems = judge(text, True, picture, PROMPTS)
        assert problems, picture.file
        assert all(problem.startswith("mentions ") for problem in problems)  # not by its form


@pytest.mark.parametrize(
    "text",
    [
        # A list of the right words, sense or not.
        "person computer suit window cup chair light shirt tie wall grey blue hair room lamp white beard table man eye",
        # Wrong in every detail that no rule names.
        "A person with green hair in a swimming suit is sitting under a palm tree and eats a computer with a fork, "
        "while three purple horses are looking on from the moon.",
    ],
)
def test_what_word_rules_cannot_see_is_known(text: str) -> None:
    """Not what anybody wants, but what these rules are worth: the README says so."""
    assert judge(text, True, OFFICE, PROMPTS) == ()


def test_no_picture_forbids_a_word_that_it_needs() -> None:
    for picture in PROMPTS.pictures.values():
        needed = {word for group in picture.groups for word in group}
        assert not needed & set(picture.forbidden), picture.file
        assert all(word == word.lower() and word.isascii() for word in needed | set(picture.forbidden))
        without = dataclasses.replace(picture, forbidden=())
        described = [text for text, about in RIGHT if about is picture]
        assert described
        assert all(judge(text, True, without, PROMPTS) == () for text in described)
