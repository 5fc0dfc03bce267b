"""The report as Markdown, for an issue: tables, and whatever a model said in fences, where nothing of it is read.

An answer may hold "@somebody" or "#12": outside a fence that would call somebody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from verification.page.facts import Card, Facts, problem_of
from verification.page.text import duration, shown
from verification.page.timing import Timings
from verification.report import Check, level_of

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~@&])")


def to_markdown(facts: Facts) -> str:
    return "\n".join(_lines(facts)).rstrip() + "\n"


def _lines(facts: Facts) -> Iterator[str]:
    report = facts.report
    yield f"# {_plain(facts.headline)}: MiniGPT-4 on Ascend"
    yield ""
    yield _plain(report.verdict)
    for what, means in facts.caveats:
        yield f"\n> **{_plain(what)}.** {_plain(means)}"
    run = [("subject", report.subject), ("weights", report.weights), ("device", report.device)]
    run += [("operations", report.operations)] if report.operations else []
    run += [*report.versions.items(), ("exit code", str(report.exit_code)), ("date", facts.date)]
    yield from _table(("This run", ""), run)
    yield from _fence(facts.command)
    if facts.levels:
        yield "\n## Levels"
        levels = [(g.key, g.title, g.outcome.value if g.outcome else "no line", g.count) for g in facts.levels]
        yield from _table(("Level", "What", "Result", "Lines"), levels)
    for title, checks in (("What failed", facts.failed), ("What was not run", facts.not_run)):
        yield from _problems(title, checks)
    if report.hint:
        yield from _fence(report.hint)
    yield "\n## Every check"
    rows = [(g.key, c.name, c.outcome.value, c.measured, c.allowed, c.shows) for g in facts.groups for c in g.checks]
    yield from _table(("Level", "Check", "Result", "Measured", "Allowed", "What this line shows"), rows)
    yield from _answers(facts.cards)
    yield from _charts(facts)
    yield from _timings(facts.timings)
    if facts.hashes:
        yield "\n## SHA-256"
        yield from _table(("Of", "SHA-256"), facts.hashes)


def _problems(title: str, checks: Sequence[Check]) -> Iterator[str]:
    if checks:
        yield f"\n## {title}"
    for check in checks:
        numbers = [f"measured {check.measured}"] if check.measured else []
        numbers += [f"allowed {check.allowed}"] if check.allowed else []
        yield f"\n**{_plain(f'{level_of(check)} {check.name}'.strip())}** {_plain(', '.join(numbers))}"
        if problem_of(check):
            yield from _fence(problem_of(check))


def _answers(cards: Sequence[Card]) -> Iterator[str]:
    if cards:
        yield "\n## Answers"
    for card in cards:
        for check in card.answers:
            numbers = check.numbers
            ended = (
                {True: ", ended by itself", False: ", cut off by length"}.get(bool(numbers.get("stopped")), "")
                if "stopped" in numbers
                else ""
            )
            said = f"{check.name}: {check.outcome.value}, {check.measured}{ended}. {problem_of(check)}"
            yield f"\n**{_plain(card.picture.name)}** {_plain(said)}"
            for sample in numbers.get("samples", ())[:1]:  # whose answer comes first
                yield f"\nSeed {sample['seed']}:"
            yield from _fence(f"{numbers.get('question', '')}\n\n{numbers['answer']}")
            for sample in numbers.get("samples", ())[1:]:
                yield f"\nSeed {sample['seed']}:"
                yield from _fence(str(sample["answer"]))


def _charts(facts: Facts) -> Iterator[str]:
    if facts.histograms:
        yield "\n## Relative errors of single tokens"
        for chart in facts.histograms:
            yield f"\n**{_plain(chart.name)}** {_plain(chart.summary)}"
            yield from _table(("Relative error", "Tokens"), [(b.range, str(b.count)) for b in chart.bars if b.count])
    if facts.kl:
        yield "\n## KL divergence along the answer"
        yield from _table(("Stage", "KL"), [(chart.name, chart.summary) for chart in facts.kl])


def _timings(timings: Timings) -> Iterator[str]:
    if not timings.stages:
        return
    yield "\n## Times"
    if timings.peaks:
        yield f"\nRoofline at {_plain(timings.peaks)}: {_plain(timings.measured)}."
    rows = [
        (s.name, s.label, s.each, str(s.calls), duration(s.allowed) if s.allowed else "", s.share, s.bound)
        for s in timings.stages
    ]
    yield from _table(("Stage", "Median", "Of one", "Calls", "Roofline", "Share", "Bound by"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_plain(cell) for cell in row)} |"


def _plain(text: str) -> str:
    """One line in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(shown(text).split()))


def _fence(text: str) -> Iterator[str]:
    """The text as it is, between fences longer than any inside it."""
    text = shown(text)
    longest = max(map(len, re.findall("`{3,}", text)), default=2)
    yield ""
    yield "`" * (longest + 1)
    yield text
    yield "`" * (longest + 1)
