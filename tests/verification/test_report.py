"""One set of facts, shown twice, and the exit code that follows from it."""

from __future__ import annotations

import json

import pytest

from verification.report import Check, Outcome, Report, to_json, to_table

OK = Check(
    "stages", "encoder", Outcome.PASSED, "error 1e-07", "error <= 1e-05", "same features", numbers={"a.jpg": 1e-7}
)
BAD = Check("stages", "prompt", Outcome.FAILED, "error 1e+00", "error <= 1e-05", "template", detail="Worst on a.jpg.")
LOCK = Check("tree", "lock", Outcome.FAILED, "abc", "def", code=4)
MISSING = Check("weights", "file ckpt", Outcome.NOT_RUN, "missing", detail="ckpt.pth does not exist")
NOTE = Check("tree", "local edits", Outcome.NOTE, "1 edited")
UNJUDGED = Check("answers", "office", Outcome.NOT_JUDGED, "32 tokens")


def report(*checks: Check, synthetic: bool = True, hint: str = "") -> Report:
    return Report("MiniGPT-4 in ./W", "synthetic", synthetic, "cpu", {"python": "3.11"}, checks, hint)


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ((OK, NOTE, UNJUDGED), 0),
        ((OK, BAD), 1),
        ((OK, LOCK), 4),
        ((OK, LOCK, BAD, MISSING), 1),
        ((OK, MISSING), 5),
        ((LOCK, MISSING), 4),
        ((), 5),
    ],
)
def test_the_exit_code_follows_from_the_checks(checks: tuple[Check, ...], code: int) -> None:
    assert report(*checks).exit_code == code


def test_only_a_whole_run_is_called_verified() -> None:
    assert "answers mean nothing" in report(OK, UNJUDGED).verdict
    assert report(OK, synthetic=False).verdict == "1 ok. Verified."
    for checks in ((BAD,), (LOCK,), (MISSING,), ()):
        assert "Verified" not in report(*checks).verdict


def test_table_and_json_tell_the_same_facts() -> None:
    found = report(OK, BAD, MISSING, hint="Use --weights tiny.")
    table, content = to_table(found), json.loads(to_json(found))
    for check in content["checks"]:
        for fact in (check["name"], check["outcome"], check["measured"], check["allowed"], check["detail"]):
            assert fact in table
    assert content["verdict"] in table
    assert content["hint"] in table
    assert content["exit_code"] == 1
    assert content["checks"][0]["numbers"] == {"a.jpg": 1e-7}


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_table_cuts_nothing_off(width: int) -> None:
    long = "what this line shows, and what it does not show, at some length"
    check = Check("stages", "encoder", Outcome.PASSED, "error 1e-07", "error <= 1e-05", long)
    words = to_table(report(check), width).split()
    assert all(word in words for word in long.split())
    assert max(map(len, to_table(report(check), 120).split("\n"))) <= 120
