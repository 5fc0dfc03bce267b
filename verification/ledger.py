"""Write the claims ledger of both READMEs from the results of a test run.

    python -m pytest --junitxml build/junit.xml && python -m verification.ledger build/junit.xml

configs/claims.yaml lists what this project claims, the kind of evidence and the tests that carry it. A claim whose
tests failed, were skipped or did not run says so; a claim without tests can only be of the kind "never run".
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from overlaykit.errors import FixTheProjectFile, OverlayError
from verification.markdown import insert

PROJECT = Path(__file__).resolve().parents[1]
NEVER = "never run"
# The kinds of evidence, weakest last. "simulated" and "stand-in" show arguments and control flow, never numerics.
KINDS = {
    "measured on CPU": "在 CPU 上实测",
    "real upstream": "真实上游代码",
    "real git": "真实 git",
    "real wheel": "真实 torch_npu 安装包",
    "simulated": "模拟 NPU(只证明参数与流程,不证明数值与速度)",
    "stand-in": "替身(只证明参数与流程,不证明数值与速度)",
    NEVER: "从未运行",
}
HEADS = {"en": ("Claim", "Evidence", "Result"), "zh": ("论断", "证据", "结果")}


@dataclass(frozen=True)
class Claim:
    """One row: the text in both languages, the kind of evidence, and the tests (files or file::name)."""

    en: str
    zh: str
    kind: str
    tests: tuple[str, ...]


def read_claims(path: Path) -> tuple[Claim, ...]:
    """The claims in the order of the file; FixTheProjectFile when a row makes no sense."""
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    claims = tuple(Claim(row["en"], row["zh"], row["kind"], tuple(row.get("tests", ()))) for row in rows)
    for claim in claims:
        if claim.kind not in KINDS or bool(claim.tests) == (claim.kind == NEVER):
            raise FixTheProjectFile(
                f"{path}: the claim {claim.en!r} has the kind {claim.kind!r} and {len(claim.tests)} tests",
                f"A kind is one of {', '.join(KINDS)}; only '{NEVER}' has no tests.",
            )
        for test in claim.tests:
            if not (path.parents[1] / test.split("::")[0]).exists():
                raise FixTheProjectFile(f"{path}: {test} does not exist", f"It is named by the claim {claim.en!r}.")
    return claims


def read_results(*junits: Path) -> dict[str, str]:
    """Test id (path::name, parameters dropped) -> passed, skipped or failed; the worst of all parameters wins."""
    order = ("passed", "skipped", "failed")
    results: dict[str, str] = {}
    for case in (case for junit in junits for case in ElementTree.parse(junit).iter("testcase")):
        outcome = "passed"
        if case.find("skipped") is not None:
            outcome = "skipped"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '').split('[')[0]}"
        results[name] = max(outcome, results.get(name, "passed"), key=order.index)
    return results


def result_of(claim: Claim, results: dict[str, str]) -> str:
    """What happened to the claim's tests: the number that passed and were skipped, or the worst if one did not run."""
    if claim.kind == NEVER:
        return "—"
    outcomes = []
    for test in claim.tests:
        found = [outcome for name, outcome in results.items() if name == test or name.startswith(f"{test}::")]
        outcomes += found or ["not run"]
    for bad in ("failed", "not run"):
        if bad in outcomes:
            return f"**{bad}**"
    passed, skipped = outcomes.count("passed"), outcomes.count("skipped")
    if not passed:
        return "**skipped**"
    return f"passed ({passed})" + (f", skipped ({skipped})" if skipped else "")


def render(claims: tuple[Claim, ...], results: dict[str, str], language: str) -> str:
    """The ledger as a Markdown table under a line that says when and on what it was made."""
    head = HEADS[language]
    lines = [_made_on(language), "", f"| {' | '.join(head)} |", "|---|---|---|"]
    for claim in claims:
        text = claim.en if language == "en" else claim.zh
        kind = claim.kind if language == "en" else KINDS[claim.kind]
        lines.append(f"| {text} | {kind} | {result_of(claim, results)} |")
    return "\n".join(lines)


def _made_on(language: str) -> str:
    def of(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"no {package}"

    machine = f"Python {platform.python_version()}, {of('torch')}, {of('transformers')}, {platform.machine()} CPU"
    date = datetime.date.today().isoformat()
    return (
        f"Written by `make ledger` on {date}: {machine}."
        if language == "en"
        else f"由 `make ledger` 于 {date} 生成:{machine}。"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "junit", type=Path, nargs="+", help="the JUnit XML of a run of the whole default suite, and of `make test-npu`"
    )
    arguments = parser.parse_args()
    try:
        claims = read_claims(PROJECT / "configs" / "claims.yaml")
        results = read_results(*arguments.junit)
        for language, name in (("en", "README.md"), ("zh", "README.zh.md")):
            insert(PROJECT / name, "ledger", render(claims, results, language))
    except OverlayError as error:
        print(error, file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
