"""Ask the prompts of configs/prompts.yaml: greedy, sampled from several seeds, and about a picture of nothing.

Answers are judged (word_rules.py) with real weights only; with synthetic ones they are noise, and the lines say so.
That a seed gives the same text twice, and another seed another one, is judged with any weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verification.counted import Counted
from verification.prompts import Expectation, Prompts, asked_about
from verification.report import Check, Outcome
from verification.word_rules import fits, judge

SHORT = 32  # tokens: noise need not be longer, nor what only has to be the same twice
SYNTHETIC = "not judged: synthetic weights; text comes out, not sense"
UNKNOWN = "not judged: prompts.yaml knows no picture of this name"
BLANK = "blank picture"


def ask_all(
    port: Any, embeddings: Mapping[Path, Any], prompts: Prompts, synthetic: bool, sampling: bool = True
) -> tuple[Check, ...]:
    """Every question on every picture to be asked about. `embeddings`: what the port made of each picture."""
    pictures = asked_about(embeddings, prompts)
    if not pictures:
        return ()
    first = (pictures[0], embeddings[pictures[0]])
    seeds = prompts.seeds[: 1 if synthetic else None] if sampling else ()
    answers = 1 + len(pictures) * (1 + len(seeds)) + (3 if seeds else 0)
    with Counted("answers", len(prompts.questions) * answers, shown=not synthetic) as step:
        session = _Session(port, prompts, seeds, synthetic, step)
        checks = []
        for question in prompts.questions:
            for path in pictures:
                checks.append(session.line(path.stem[:18], question, session.greedy, path, embeddings[path]))
            checks.append(session.line(BLANK, question, session.blank))
            if seeds:
                for path in pictures:
                    name = f"{path.stem[:10]} sampled"
                    checks.append(session.line(name, question, session.sampled, path, embeddings[path]))
                checks.append(session.line("seeds", question, session.drawn, *first))
    if not seeds:
        shows = "nothing about sampled answers, which is what run_predict.py gives by default"
        checks.append(Check("answers", "sampled", Outcome.NOTE, "not asked for", shows=shows))
    return tuple(checks)


@dataclass(frozen=True)
class _Session:
    """One port, asked one thing after the other."""

    port: Any
    prompts: Prompts
    seeds: tuple[int, ...]
    synthetic: bool
    step: Callable[[str], None]

    def line(self, name: str, question: str, ask: Callable[..., Check], *about: Any) -> Check:
        """ask(name, question, *about), or the line that says what it raised."""
        try:
            return ask(name, question, *about)
        except Exception as error:  # whatever a faulty port raises is a finding
            detail = f"{question} -> {type(error).__name__}: {error}"
            return Check("answers", name, Outcome.FAILED, "error", detail=detail)

    def greedy(self, name: str, question: str, path: Path, embedding: Any) -> Check:
        self.step(path.name)
        answer = self.port.answer(question, embedding, self._length)
        numbers = {"picture": path.name, **_facts(question, answer)}
        expected = self.prompts.pictures.get(path.name)
        measured, said = f"{answer.tokens} tokens", f"{question} -> {self._shown(answer)}"
        if self.synthetic or expected is None:
            shows = SYNTHETIC if self.synthetic else UNKNOWN
            return Check("answers", name, Outcome.NOT_JUDGED, measured, "word groups", shows, said, numbers=numbers)
        problems = judge(answer.text, answer.stopped, expected, self.prompts)
        outcome = Outcome.FAILED if problems else Outcome.PASSED
        said = f"The answer {'; '.join(problems)}. {said}" if problems else said
        return Check("answers", name, outcome, measured, "word groups", _worth(expected), said, numbers=numbers)

    def blank(self, name: str, question: str) -> Check:
        """A grey picture: an answer that fits a real one all the same comes from the question, not from the picture.

        Every picture is resized to one square, so a grey one of any size is the same picture.
        """
        self.step(BLANK)
        answer = self.port.answer(question, _encode_grey(self.port), self._length)
        numbers = {"picture": BLANK, **_facts(question, answer)}
        said, allowed = f"{question} -> {self._shown(answer)}", "fits no picture"
        if self.synthetic:
            outcome, measured, shows = Outcome.NOT_JUDGED, f"{answer.tokens} tokens", SYNTHETIC
        else:
            fitting = [item.file for item in self.prompts.pictures.values() if fits(answer.text, item)]
            outcome = Outcome.FAILED if fitting else Outcome.PASSED
            measured = f"fits {len(fitting)} of {len(self.prompts.pictures)}"
            shows = "what the other answers say comes from the picture, not from the question"
            if fitting:
                said = f"The answer about a grey picture would pass for {', '.join(fitting)}. {said}"
        return Check("answers", name, outcome, measured, allowed, shows, said, numbers=numbers)

    def sampled(self, name: str, question: str, path: Path, embedding: Any) -> Check:
        """As a user gets it by default, from several seeds: now and then an answer may miss a word."""
        expected = self.prompts.pictures.get(path.name)
        answers = {}
        for seed in self.seeds:
            self.step(f"{path.name} from seed {seed}")
            answers[seed] = self.port.answer(question, embedding, self._length, seed=seed)
        samples = [{"seed": seed, **_facts(question, answer)} for seed, answer in answers.items()]
        numbers = {"picture": path.name, **samples[0], "samples": samples}
        allowed = f">= {self.prompts.passing} of {len(self.prompts.seeds)} seeds"
        if self.synthetic or expected is None:
            first = answers[self.seeds[0]]
            shows, measured = SYNTHETIC if self.synthetic else UNKNOWN, f"{first.tokens} tokens"
            said = f"{question} -> {self._shown(first)}"
            return Check("answers", name, Outcome.NOT_JUDGED, measured, allowed, shows, said, numbers=numbers)
        wrong = []
        for seed, answer in answers.items():
            problems = judge(answer.text, answer.stopped, expected, self.prompts)
            if problems:
                wrong.append(f"Seed {seed}: the answer {'; '.join(problems)}. -> {answer.text}")
        passed = len(answers) - len(wrong)
        outcome = Outcome.PASSED if passed >= self.prompts.passing else Outcome.FAILED
        measured, detail = f"{passed} of {len(answers)} pass", " ".join(wrong)
        return Check("answers", name, outcome, measured, allowed, _worth(expected), detail, numbers=numbers)

    def drawn(self, name: str, question: str, path: Path, embedding: Any) -> Check:
        """One seed twice and another: an answer that somebody reports can be had again, and is one of many.

        No matter what the texts say. That two seeds agree for so many tokens does not happen by chance.
        """
        texts = []
        for seed in (self.seeds[0], self.seeds[0], self.seeds[0] + 1):
            self.step(f"{path.name} from seed {seed}, {SHORT} tokens")
            texts.append(self.port.answer(question, embedding, SHORT, seed=seed).text)
        first, again, other = texts
        problem = ""
        if first != again:
            problem = f"Seed {self.seeds[0]} gave two texts, {first!r} and {again!r}: something else is drawn from."
        elif first == other:
            problem = f"Two seeds gave the same text, {first!r}: nothing is drawn, or not from the seed."
        outcome, measured = (Outcome.FAILED, "broken") if problem else (Outcome.PASSED, "kept")
        shows = "a sampled answer depends on its seed, and on nothing else that changes"
        return Check("answers", name, outcome, measured, "same seed, same text", shows, problem)

    @property
    def _length(self) -> int:
        return SHORT if self.synthetic else self.prompts.max_new_tokens

    def _shown(self, answer: Any) -> str:
        """Noise may hold any character."""
        return answer.text.encode("ascii", "backslashreplace").decode() if self.synthetic else answer.text


def _facts(question: str, answer: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer.text, "tokens": answer.tokens, "stopped": answer.stopped}


def _worth(expected: Expectation) -> str:
    return f"the answer is about this picture; word rules only, written from {expected.words_from}"


def _encode_grey(port: Any) -> Any:
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:  # the port reads files, as a user's picture is one
        path = Path(folder) / "grey.png"
        Image.new("RGB", (224, 224), (128, 128, 128)).save(path)
        return port.encode(port.pixels(path)).embeddings
