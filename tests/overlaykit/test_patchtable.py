"""patches/README.md: one row per patch, readable as Markdown whatever the messages hold."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchmaker import make_patch

from overlaykit.linting.patchtable import render
from overlaykit.patchfile import Patch, parse_patch

MESSAGE = """Change `a|b` *quickly*

Upstream's a_b <T> uses `x|y`, see https://example.org/a_b
and [there] #1.

Second paragraph.

Hooks: f (g, C.h), e.yaml
Upstream: not-forwarded (a|b)
Drop-When: never
Tested-By: tests/test_it.py::test_a_b
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_patch(tmp_path_factory.mktemp("repo"), {"f": b"1\n"}, {"f": b"2\n"}, "SUBJECT\n\nBODY\n")


def patch(raw: bytes, message: str) -> Patch:
    subject, _, body = message.partition("\n")
    mail = raw.replace(b"SUBJECT", subject.encode()).replace(b"BODY", body.strip("\n").encode())
    return parse_patch("0001-Change.patch", mail)


def rows(text: str) -> list[list[str]]:
    """Cells as GitHub splits them: at each `|` that no backslash escapes; a backslash escapes a backslash first."""
    table = text[text.index("\n|") + 1 :].rstrip("\n").split("\n")
    return [[cell.strip() for cell in re.findall(r"((?:\\[!-/:-@\[-`{-~]|[^|])*)\|", row)[1:]] for row in table[2:]]


def test_a_row(raw: bytes) -> None:
    text = render([patch(raw, MESSAGE)])
    assert text.startswith("<!-- Generated from the patches: python apply.py lint --fix -->\n")
    assert rows(text) == [
        [
            r"[0001](0001-Change.patch) Change `a\|b` \*quickly\*",
            r"Upstream's a\_b \<T\> uses `x\|y`, see https://example.org/a_b and \[there\] \#1.",
            "`f`: g, C.h<br>`e.yaml`",
            r"not-forwarded (a\|b)",
            "never",
            "`tests/test_it.py::test_a_b`",
        ]
    ]


def test_what_a_patch_lacks_is_a_dash(raw: bytes) -> None:
    assert rows(render([patch(raw, "S")]))[0][1:] == ["—"] * 5
    assert rows(render([patch(raw, "S\n\nHooks: (\n")]))[0][1:3] == ["—", "("]


def test_an_empty_series_is_an_empty_table() -> None:
    assert rows(render([])) == []


WORDS = st.text(st.sampled_from("ab |`\\*_[]<>#:/.-(),\t"), max_size=30).map(str.strip)


@given(words=st.lists(WORDS.filter(bool), min_size=4, max_size=4))
def test_no_message_can_break_the_table(raw: bytes, words: list[str]) -> None:
    why, hooks, upstream, test = words
    body = f"x {why}\n\nHooks: x {hooks}\nUpstream: x {upstream}\nDrop-When: never\nTested-By: x {test}\n"
    (cells,) = rows(render([patch(raw, f"S\n{body}")]))
    assert len(cells) == 6
    assert cells[4] == "never"
