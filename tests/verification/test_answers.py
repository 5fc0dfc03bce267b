"""The judge, on the answers that the original port published as data, and on answers with one thing wrong each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from overlaykit.errors import FixTheCommand, FixTheProjectFile
from verification import answers
from verification.decoding import Answer, read_answer
from verification.report import Outcome

PROJECT = Path(__file__).resolve().parents[2]
PROMPTS = answers.load_prompts(PROJECT / "configs" / "prompts.yaml")
TROPHY, NUGGETS, OFFICE = PROMPTS.pictures.values()

# Published with the original port: "Describe this image in detail." on the three pictures, first on a GPU, then on an
# NPU. The third GPU answer describes the first picture.
GPU = (
    """The image shows a group of men holding up the World Cup trophy while standing in front of a crowded stadium. The
    players are wearing blue and white jerseys and have their hands raised in the air, holding the trophy up to the
    camera. In the background, there is a large crowd of people cheering and waving flags. There are also fireworks
    going off in the sky, adding to the celebratory atmosphere. The image was taken during a soccer match where one team
    won the World Cup trophy.""",
    """This image shows a person holding two pieces of fried chicken in their hand, which are placed inside a cardboard
    container with the logo "20 for $10" on it. The container is placed on a table, and there are various dipping sauces
    visible in the background.
    The image depicts an individual enjoying a meal of fried chicken at a low price. The cardboard container suggests
    that the food is being offered as a bargain or deal. The dipping sauces add flavor to the chicken, making it more
    enjoyable to eat. Overall, the image suggests affordability and deliciousness.""",
    """This image shows a group of men holding up a trophy, all wearing the same blue and white striped jerseys. They
    are standing on a field with fireworks in the background. Some of the players are raising their arms in the air,
    while others are holding the trophy with both hands. The team's logo is on the front of the jersey, and they all
    have smiles on their faces. It seems to be a celebratory moment, with the players and crowd sharing in the joy of
    winning the trophy.""",
)
NPU = (
    """This image shows the Argentina soccer team holding up the World Cup trophy in celebration. The team is dressed in
    blue and white jerseys, with some players holding up their arms in the air while others hold up the trophy.
    Fireworks are exploding behind them, creating a colorful display of light and smoke.""",
    """The image is a box of fried dough balls, or tempura, sitting on a table next to a bowl of sauce. The box has the
    logo for KFC written on it in red and white letters. There are four balls of tempura in the box, each one a
    different color. One of the balls has been taken out and is being held by a hand in the foreground.
    The background of the image is a plain white with a few shadows and reflections visible from the lighting. The plate
    and sauce are also plain white. The colors used in the tempura add visual interest to the image, making it more
    dynamic and appetizing.""",
    """The image shows a man in a business suit sitting at a desk with a laptop in front of him. He is looking down at
    the screen and seems to be typing on the keyboard. There are several other computers and pieces of office equipment
    visible in the background, including a printer and a phone. The room is brightly lit, and there are shadows on the
    wall behind the man's head. The image has a professional and modern feel to it.""",
)


@pytest.mark.parametrize("text", [*zip(GPU[:2], (TROPHY, NUGGETS)), *zip(NPU, (TROPHY, NUGGETS, OFFICE))])
def test_the_published_answers_pass(text: tuple[str, answers.Expectation]) -> None:
    assert answers.judge(text[0], True, text[1], PROMPTS) == ()


def test_the_published_answer_about_the_wrong_picture_is_caught() -> None:
    problems = " ".join(answers.judge(GPU[2], True, OFFICE, PROMPTS))
    assert "mentions none of laptop, computer, desk" in problems
    assert 'mentions "trophy"' in problems
    assert 'mentions "jersey"' in problems


@pytest.mark.parametrize("text", GPU[:2] + NPU)
def test_an_answer_fails_on_every_other_picture(text: str) -> None:
    judged = [answers.judge(text, True, picture, PROMPTS) for picture in (TROPHY, NUGGETS, OFFICE)]
    assert judged.count(()) == 1


@pytest.mark.parametrize(
    ("text", "stopped", "problem"),
    [
        ("A man at a desk in an office.", True, "has 8 words"),
        (NPU[2], False, "cut off by length"),
        (NPU[2] + " ###", True, 'contains "###"'),
        (NPU[2] + " Human: and?", True, 'contains "Human:"'),
        (NPU[2] + "好" * 60, True, "ASCII"),
        ("A man sits at a desk in an office. " * 5, True, "repeats itself"),
        ("", True, "has 0 words"),
    ],
)
def test_one_thing_wrong_is_one_problem_named(text: str, stopped: bool, problem: str) -> None:
    assert any(problem in found for found in answers.judge(text, stopped, OFFICE, PROMPTS))


def test_words_match_whole() -> None:
    assert answers.contains("Two MEN and three players.", "player")
    assert answers.contains("two boxes", "box")
    assert not answers.contains("He mentions a menu.", "men")
    assert not answers.contains("a deskless place", "desk")


class Talker:
    """Says the same about everything."""

    def __init__(self, text: str) -> None:
        self.text = text

    def answer(self, question: str, embedding: object, length: int) -> Answer:
        return Answer(self.text, True, 50)


def test_real_weights_are_judged_and_synthetic_ones_are_not() -> None:
    asked = {Path(OFFICE.file): None, Path(TROPHY.file): None, Path("holiday.jpg"): None}
    real = [check.outcome for check in answers.ask_all(Talker(NPU[2]), asked, PROMPTS, synthetic=False)]
    assert real == [Outcome.PASSED, Outcome.FAILED, Outcome.NOT_JUDGED]
    synthetic = answers.ask_all(Talker(NPU[2]), asked, PROMPTS, synthetic=True)
    assert {check.outcome for check in synthetic} == {Outcome.NOT_JUDGED}
    assert all("not judged: synthetic weights" in check.shows for check in synthetic)


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
        ([1, 2, 3], "A man at a desk.###Human: more?", False),  # the stop word did not stop it
        ([1, 2, 3, 2], "A man at a desk.###Human: more?", True),
    ],
)
def test_only_the_stop_word_that_ended_an_answer_is_cut(ids: list[int], text: str, stopped: bool) -> None:
    answer = read_answer(Words(), ids)
    assert (answer.text, answer.stopped) == (text, stopped)
    leaks = [problem for problem in answers.judge(answer.text, stopped, OFFICE, PROMPTS) if 'contains "###"' in problem]
    assert bool(leaks) is (3 in ids)


def test_an_answer_that_runs_past_its_stop_word_fails() -> None:
    (check,) = answers.ask_all(Talker(NPU[2] + "###Human: and?"), {Path(OFFICE.file): None}, PROMPTS, synthetic=False)
    assert check.outcome is Outcome.FAILED
    assert 'contains "###"' in check.detail


@pytest.mark.parametrize("cut", [0, 3000])
def test_what_is_no_picture_is_refused_at_once(tmp_path: Path, pictures: list[Path], cut: int) -> None:
    file = tmp_path / "house.png"
    file.write_bytes(pictures[0].read_bytes()[:cut] if cut else b"# README\n")
    for images in (file, tmp_path):
        with pytest.raises(FixTheCommand, match="cannot be read as a picture"):
            answers.find_pictures(str(images), tmp_path, PROMPTS)


def test_another_picture_under_a_known_name_is_caught(tmp_path: Path, pictures: list[Path]) -> None:
    office = tmp_path / OFFICE.file
    shutil.copy(pictures[0], office)
    (check,) = answers.check_pictures([office, pictures[0]], PROMPTS)
    assert check.outcome is Outcome.FAILED
    assert "another picture" in check.detail


def test_images_are_found_as_given_then_in_the_workspace(
    tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "workspace" / "examples_v2"
    folder.mkdir(parents=True)
    for name in (OFFICE.file, "other.png"):
        shutil.copy(pictures[0], folder / name)
    (folder / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    found = answers.find_pictures("examples_v2/", tmp_path / "workspace", PROMPTS)
    assert [path.name for path in found] == [OFFICE.file]  # of a folder, those that are known
    assert answers.find_pictures(str(folder / "other.png"), tmp_path, PROMPTS) == (folder / "other.png",)
    (folder / OFFICE.file).unlink()
    assert [path.name for path in answers.find_pictures("examples_v2", tmp_path / "workspace", PROMPTS)] == [
        "other.png"
    ]
    with pytest.raises(FixTheCommand, match="does not exist"):
        answers.find_pictures("elsewhere", tmp_path, PROMPTS)


def test_a_broken_prompts_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "prompts.yaml").write_text("questions: [a]\n")
    with pytest.raises(FixTheProjectFile, match=r"prompts\.yaml"):
        answers.load_prompts(tmp_path / "prompts.yaml")
