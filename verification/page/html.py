"""The page: one HTML file with its pictures, charts and colours inside; no script, and no request to anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verification.page.facts import Facts, problem_of
from verification.page.text import duration, power, shown
from verification.report import Outcome, level_of

TEMPLATES = Path(__file__).resolve().parent / "templates"
MARKS = {
    Outcome.PASSED: ("passed", "✓", "ok"),
    Outcome.FAILED: ("failed", "✗", "failed"),
    Outcome.NOT_RUN: ("partial", "○", "not run"),
    Outcome.NOT_JUDGED: ("neutral", "–", "not judged"),
    Outcome.NOTE: ("neutral", "·", "note"),
    None: ("neutral", "○", "no line"),
}


def to_html(facts: Facts) -> str:
    """Raises jinja2.TemplateError only for a fault of the templates, whatever the report holds."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, power=power, problem=problem_of, level=level_of, value=_value)
    environment.globals.update(marks=MARKS)
    return environment.get_template("report.html.j2").render(facts=facts, report=facts.report)


def _finalize(value: Any) -> Any:
    """Every text that goes into the page, but what the templates themselves made."""
    return shown(value) if type(value) is str else value


def _value(number: Any) -> str:
    if number is None:
        return "–"  # nothing was measured, or no finite number
    return f"{number:.1e}" if isinstance(number, float) and number else f"{number:g}"
