"""The claims ledger says what happened to the tests, and both READMEs carry every claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaykit.errors import FixTheProjectFile
from verification.ledger import Claim, read_claims, read_results, render, result_of
from verification.markdown import insert

PROJECT = Path(__file__).parents[2]
JUNIT = """<testsuites><testsuite>
<testcase classname="tests.a.test_one" name="test_good[1]"/>
<testcase classname="tests.a.test_one" name="test_good[2]"/>
<testcase classname="tests.a.test_one" name="test_bad"><failure message="x"/></testcase>
<testcase classname="tests.a.test_two" name="test_skipped"><skipped message="y"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        (["tests/a/test_one.py::test_good"], "passed (1)"),
        (["tests/a/test_one.py"], "**failed**"),
        (["tests/a/test_two.py"], "**skipped**"),
        (["tests/a/test_one.py::test_good", "tests/a/test_two.py"], "passed (1), skipped (1)"),
        (["tests/a/test_one.py::test_good", "tests/a/test_three.py"], "**not run**"),
    ],
)
def test_the_worst_test_decides(tmp_path: Path, tests: list[str], said: str) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT)
    claim = Claim("en", "zh", "real git", tuple(tests))
    assert result_of(claim, read_results(tmp_path / "junit.xml")) == said


@pytest.mark.parametrize(
    "row",
    [
        "{en: a, zh: b, kind: real git}",
        "{en: a, zh: b, kind: never run, tests: [tests/x.py]}",
        "{en: a, zh: b, kind: hearsay, tests: [tests/x.py]}",
        "{en: a, zh: b, kind: real git, tests: [tests/absent.py]}",
    ],
)
def test_a_claim_without_the_evidence_it_names_is_refused(tmp_path: Path, row: str) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "claims.yaml").write_text(f"- {row}\n")
    with pytest.raises(FixTheProjectFile):
        read_claims(tmp_path / "configs" / "claims.yaml")


def test_only_the_text_between_the_markers_changes(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- x:begin -->\nold\n<!-- x:end -->\nafter\n")
    insert(readme, "x", "new \\1")
    assert readme.read_text() == "before\n<!-- x:begin -->\nnew \\1\n<!-- x:end -->\nafter\n"
    with pytest.raises(FixTheProjectFile):
        insert(readme, "y", "new")


@pytest.mark.parametrize(("name", "language"), [("README.md", "en"), ("README.zh.md", "zh")])
def test_the_readmes_carry_every_claim_and_its_kind(name: str, language: str) -> None:
    claims = read_claims(PROJECT / "configs" / "claims.yaml")
    text = (PROJECT / name).read_text(encoding="utf-8")
    for line in render(claims, {}, language).splitlines()[3:]:
        claim_and_kind = line.rsplit("|", 2)[0]
        assert claim_and_kind in text, f"run `make ledger`: {name} lacks {claim_and_kind}"
