"""Asking: what is asked of a port, about which pictures, and what of it is judged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from published import NPU

import verify
from verification.answers import SHORT, ask_all
from verification.decoding import Answer
from verification.prompts import load_prompts
from verification.report import Check, Outcome

PROJECT = Path(__file__).resolve().parents[2]
PROMPTS = load_prompts(PROJECT / "configs" / "prompts.yaml")
TROPHY, NUGGETS, OFFICE, *OTHERS = PROMPTS.pictures.values()
RIGHT = dict(zip((TROPHY.file, NUGGETS.file, OFFICE.file), NPU))
GREY = "The picture is plain grey. Nothing else can be seen."
NOBODYS = Path("holiday.jpg")  # a picture that prompts.yaml does not know


class Port:
    """Says what `say` gives for (picture, seed); the embedding of a picture is its file's name."""

    def __init__(self, say: Callable[[str, int | None], str]) -> None:
        self.say = say
        self.asked: list[tuple[str, int | None, int]] = []

    def pixels(self, path: Path) -> str:
        assert path.is_file()
        return path.name

    def encode(self, pixels: str) -> Any:
        return SimpleNamespace(embeddings=pixels)

    def answer(self, question: str, embedding: str, length: int, seed: int | None = None) -> Answer:
        assert question in PROMPTS.questions
        self.asked.append((embedding, seed, length))
        return Answer(self.say(embedding, seed), True, 50)


def knowing(picture: str, seed: int | None) -> str:
    """A model that sees; each seed words it differently."""
    text = GREY if picture == "grey.png" else RIGHT[picture]
    return text if seed is None else f"{text} This was draw number {seed}."


def asked(say: Callable[[str, int | None], str], *files: str, **options: Any) -> tuple[dict[str, Check], Port]:
    """Check by name, and the port."""
    port = Port(say)
    about = {Path(file): file for file in files or RIGHT}
    checks = ask_all(port, about, PROMPTS, **{"synthetic": False, **options})
    assert {check.part for check in checks} == {"answers"}
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}, port


def outcomes(checks: dict[str, Check]) -> set[Outcome]:
    return {check.outcome for check in checks.values()}


# What is asked


def test_a_right_model_is_asked_greedy_sampled_and_about_nothing_and_passes() -> None:
    checks, port = asked(knowing)
    assert outcomes(checks) == {Outcome.PASSED}
    greedy = [(picture, length) for picture, seed, length in port.asked if seed is None]
    assert greedy == [(file, 300) for file in (*RIGHT, "grey.png")]
    drawn = [(picture, seed) for picture, seed, length in port.asked if seed is not None and length == 300]
    assert drawn == [(file, seed) for file in RIGHT for seed in range(5)]
    assert checks["office sampled"].measured == "5 of 5 pass"
    numbers = checks["office sampled"].numbers
    assert (numbers["picture"], [sample["seed"] for sample in numbers["samples"]]) == (OFFICE.file, [0, 1, 2, 3, 4])
    assert checks["office"].numbers == {
        "picture": OFFICE.file,
        "question": PROMPTS.questions[0],
        "answer": NPU[2],
        "tokens": 50,
        "stopped": True,
    }


def test_without_sampling_a_note_says_so() -> None:
    checks, port = asked(knowing, sampling=False)
    assert all(seed is None for _, seed, _ in port.asked)
    assert checks["sampled"].outcome is Outcome.NOTE
    assert "nothing about sampled answers" in checks["sampled"].shows


def test_synthetic_answers_are_short_and_not_judged_but_their_seeds_are() -> None:
    checks, port = asked(knowing, synthetic=True)
    assert {length for _, _, length in port.asked} == {SHORT}
    assert {seed for _, seed, _ in port.asked} == {None, 0, 1}  # 1: only to see that it gives another text
    assert checks.pop("seeds").outcome is Outcome.PASSED
    assert outcomes(checks) == {Outcome.NOT_JUDGED}
    assert all("not judged: synthetic weights" in check.shows for check in checks.values())


def test_of_all_pictures_those_that_are_marked_are_asked_about() -> None:
    _, port = asked(knowing, *PROMPTS.pictures)
    assert {picture for picture, _, _ in port.asked} == {*RIGHT, "grey.png"}


def test_a_picture_that_is_named_alone_is_asked_about() -> None:
    checks, _ = asked(lambda picture, seed: GREY, OTHERS[0].file, sampling=False)
    assert checks["cockdial"].outcome is Outcome.FAILED
    assert checks["cockdial"].shows.endswith("written from a look at the picture")
    checks, _ = asked(lambda picture, seed: f"{GREY} {seed}", NOBODYS.name)
    assert {checks["holiday"].outcome, checks["holiday sampled"].outcome} == {Outcome.NOT_JUDGED}
    assert "knows no picture of this name" in checks["holiday"].shows


def test_nothing_is_asked_where_no_picture_was_encoded() -> None:
    assert ask_all(Port(knowing), {}, PROMPTS, synthetic=False) == ()


# What is judged


def test_a_model_that_does_not_see_is_caught_by_the_blank_picture() -> None:
    """It says what the question and its memory suggest: right about one picture, by chance."""
    checks, _ = asked(lambda picture, seed: f"{NPU[2]} {seed}")
    assert checks["office"].outcome is Outcome.PASSED
    assert checks["blank picture"].outcome is Outcome.FAILED
    assert f"would pass for {OFFICE.file}" in checks["blank picture"].detail
    assert checks["KFC-20-for-20-Nugg"].outcome is Outcome.FAILED


@pytest.mark.parametrize(("wrong", "outcome"), [({3}, Outcome.PASSED), ({0, 4}, Outcome.FAILED)])
def test_one_seed_of_five_may_fail(wrong: set[int], outcome: Outcome) -> None:
    checks, _ = asked(lambda picture, seed: GREY if seed in wrong else knowing(picture, seed), OFFICE.file)
    line = checks["office sampled"]
    assert line.outcome is outcome
    assert line.measured == f"{5 - len(wrong)} of 5 pass"
    assert all(f"Seed {seed}: the answer has" in line.detail for seed in wrong)  # said, also where it is allowed


@pytest.mark.parametrize("synthetic", [True, False])
@pytest.mark.parametrize(
    ("say", "problem"),
    [
        (lambda picture, seed, count: f"{knowing(picture, seed)} {count}", "something else is drawn from"),
        (lambda picture, seed, count: knowing(picture, None), "nothing is drawn"),
    ],
    ids=["another source of chance", "always greedy"],
)
def test_a_seed_that_does_not_decide_is_caught_with_any_weights(say: Any, problem: str, synthetic: bool) -> None:
    count = iter(range(1000))
    checks, _ = asked(lambda picture, seed: say(picture, seed, next(count)), synthetic=synthetic)
    assert checks["seeds"].outcome is Outcome.FAILED
    assert problem in checks["seeds"].detail


def test_an_answer_that_runs_past_its_stop_word_fails() -> None:
    checks, _ = asked(lambda picture, seed: f"{knowing(picture, seed)}###Human: and?", OFFICE.file)
    assert checks["office"].outcome is checks["office sampled"].outcome is Outcome.FAILED
    assert 'contains "###"' in checks["office"].detail


@pytest.mark.parametrize("synthetic", [True, False])
def test_what_a_port_raises_is_a_finding_and_the_rest_is_asked(synthetic: bool) -> None:
    def say(picture: str, seed: int | None) -> str:
        if picture == NUGGETS.file and seed is not None:
            raise RuntimeError("out of slots")
        return knowing(picture, seed)

    checks, _ = asked(say, synthetic=synthetic)
    failed = [check for check in checks.values() if check.outcome is Outcome.FAILED]
    assert [check.name for check in failed] == ["KFC-20-for sampled"]
    assert "RuntimeError: out of slots" in failed[0].detail


def test_the_blank_picture_may_not_be_readable_by_the_port() -> None:
    port = Port(knowing)
    port.encode = lambda pixels: 1 / 0  # type: ignore[method-assign]
    checks = {check.name: check for check in ask_all(port, {Path(OFFICE.file): OFFICE.file}, PROMPTS, False)}
    assert "ZeroDivisionError" in checks.pop("blank picture").detail
    assert outcomes(checks) == {Outcome.PASSED}


def test_progress_is_told_for_real_weights_only(capsys: pytest.CaptureFixture[str]) -> None:
    asked(knowing, synthetic=True)
    assert capsys.readouterr().err == ""
    asked(knowing, OFFICE.file)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10  # greedy, blank, five seeds, three short ones
    assert lines[0] == "verify: answers: 1 of 10, office.jpg"
    assert lines[-1].startswith("verify: answers: 10 of 10, office.jpg from seed 1, 32 tokens, ")


def test_ctrl_c_ends_the_questions() -> None:
    def interrupted(picture: str, seed: int | None) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked(interrupted)


def test_all_questions_are_asked() -> None:
    two = dataclasses.replace(PROMPTS, questions=("Describe this image in detail.", "What is it?"))
    port = Port(knowing)
    port.answer = lambda *args, **more: Answer(knowing(args[1], more.get("seed")), True, 9)  # type: ignore[method-assign]
    checks = ask_all(port, {Path(OFFICE.file): OFFICE.file}, two, synthetic=False)
    assert sorted({check.numbers["question"] for check in checks if check.numbers}) == sorted(two.questions)


def test_the_command_line_can_leave_sampling_out(
    tiny: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--overlay-alone", "--weights", str(tiny), "--images", str(pictures[0]), "--device", "cpu", "--json"]
    assert verify.main([*argv, "--no-sampling"]) == 0
    lines = [line for line in json.loads(capsys.readouterr().out)["checks"] if line["part"] == "answers"]
    assert {line["name"]: line["outcome"] for line in lines} == {
        "house": "not judged",
        "blank picture": "not judged",
        "sampled": "note",
    }
