"""The list of planted faults fits the tree, the runner tells the right from the wrong, and (slow) the score holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
FAULTS = Path(__file__).resolve().parent
if str(FAULTS) not in sys.path:
    sys.path.insert(0, str(FAULTS))

from faults import FOLDER, BadList, Fault, load
from forks import TIMED_OUT, Result
from planting import Place, check_edits, link_copy, plant
from score import UNSEEN, half_word, judge, page

LIST = load()
WRONG_EPS = Fault("eps", "overlay", file="model.py", stands="1e-6", instead="1e-5", caught_by="encoder")
SURVIVOR = replace(WRONG_EPS, caught_by="", survives="never looked at")


def line(name: str, outcome: str, part: str = "stages", detail: str = "") -> dict[str, Any]:
    return {"part": part, "name": name, "outcome": outcome, "measured": "1e-3", "allowed": "1e-5", "detail": detail}


def result(*lines: dict[str, Any], code: int = 1) -> Result:
    return Result("eps", code, {"checks": list(lines)}, 1.0, "")


def test_at_least_thirty_faults_are_to_be_caught() -> None:
    assert sum(bool(fault.caught_by) for fault in LIST) >= 30
    assert {fault.kind for fault in LIST if fault.caught_by} == {"patch", "overlay", "weights", "configuration"}


def test_faults_of_the_overlay_stand_in_the_overlay_and_others_do_not() -> None:
    overlay = [fault for fault in LIST if fault.kind == "overlay"]
    check_edits(overlay, PROJECT / "overlay")
    for fault in LIST:
        if fault.file and fault.kind != "overlay":
            assert not (PROJECT / "overlay" / fault.file).exists(), fault.name


@pytest.mark.upstream
def test_every_edit_stands_in_the_workspace_once(workspace: Path) -> None:
    check_edits(LIST, workspace)


def test_every_expected_line_is_one_that_the_gate_writes() -> None:
    """Names that exist only in this list would let every fault that expects them rot."""
    text = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "verification").rglob("*.py"))
    for name in {fault.caught_by for fault in LIST if fault.caught_by}:
        assert f'"{name.removeprefix("loaded ")}"' in text, name


def test_every_damage_is_used() -> None:
    from damage import KINDS

    assert {fault.damage for fault in LIST if fault.damage} == set(KINDS)


def test_a_damaged_copy_leaves_the_set_as_it_was(tmp_path: Path) -> None:
    from damage import KINDS

    from verification.synthetic import write_tiny

    tiny = write_tiny(tmp_path / "tiny")
    before = {path: path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
    changed = set()
    for name in ("transposed", "other_epsilon", "truncated", "web_page", "untrained_ln_vision"):
        copy = link_copy(tiny, tmp_path / name)
        KINDS[name](copy, tmp_path)
        other = [path for path in before if (copy / path.relative_to(tiny)).read_bytes() != before[path]]
        assert len(other) == 1, name
        changed.add(other[0])
    assert len(changed) == 4
    assert all(path.read_bytes() == content for path, content in before.items())


def test_planting_changes_the_copy_alone(tmp_path: Path) -> None:
    workspace = tmp_path / "MiniGPT-4"
    workspace.mkdir()
    (workspace / "model.py").write_text("EPS = 1e-6\n")
    place = Place(workspace, tmp_path / "tiny", tmp_path / "copies", tmp_path / "pictures", tmp_path / "golden.npz")
    arguments = plant(WRONG_EPS, place)
    copy = Path(arguments[arguments.index("--workspace") + 1])
    assert (copy / "model.py").read_text() == "EPS = 1e-5\n"
    assert (workspace / "model.py").read_text() == "EPS = 1e-6\n"
    assert arguments[arguments.index("--against") + 1] == str(place.golden)


@pytest.mark.parametrize(("text", "times"), [("EPS = 1e-7\n", 0), ("A = 1e-6\nB = 1e-6\n", 2)])
def test_an_edit_whose_text_is_gone_or_there_twice_is_an_error(text: str, times: int) -> None:
    with pytest.raises(BadList, match=f"{times} times"):
        WRONG_EPS.apply_to(text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "typo"}, "kind must be"),
        ({"caught by": "decoder"}, "no line of verify.py is called 'decoder'"),
        ({"survives": "because"}, "either caught or survives"),
        ({"stands": None}, "is not understood"),
        ({"instead": "BLOCK_EPS = 1e-6"}, "must change the text"),
        ({"damage": "burnt"}, "no 'burnt'"),
        ({"expects": "encoder"}, "The keys are"),
        ({"settings": "mine"}, "can only be own"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    entry = {"kind": "overlay", "file": "a.py", "stands": "BLOCK_EPS = 1e-6", "instead": "x", "caught by": "encoder"}
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({"a fault": {**entry, **change}}))
    with pytest.raises(BadList, match=r"a fault: ") as caught:
        load(tmp_path)
    assert says in str(caught.value)


def test_two_files_may_not_use_one_name(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "image.yaml", tmp_path / "a.yaml")
    shutil.copy(FOLDER / "image.yaml", tmp_path / "b.yaml")
    with pytest.raises(BadList, match="same name"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("fault", "found", "wrong"),
    [
        (WRONG_EPS, result(line("processor", "ok"), line("encoder", "FAILED")), ""),
        (WRONG_EPS, result(line("lock", "FAILED", "tree"), line("encoder", "FAILED")), ""),
        (WRONG_EPS, result(line("processor", "FAILED"), line("encoder", "FAILED")), "expected encoder"),
        (WRONG_EPS, result(line("encoder", "ok"), code=0), "nothing says FAILED"),
        (WRONG_EPS, result(line("encoder", "FAILED"), code=0), "the exit code is 0"),
        (WRONG_EPS, Result("eps", 70, {}, 1.0, "Traceback\nValueError: x\n"), "ValueError: x"),
        (WRONG_EPS, Result("eps", TIMED_OUT, {}, 1.0, ""), "did not end in time"),
        (replace(WRONG_EPS, says="eps"), result(line("encoder", "FAILED", detail="the eps")), ""),
        (replace(WRONG_EPS, says="eps"), result(line("encoder", "FAILED", detail="other")), "does not say 'eps'"),
        (SURVIVOR, result(line("encoder", "ok"), code=0), ""),
        (SURVIVOR, result(line("encoder", "FAILED")), "the list is stale"),
        (SURVIVOR, result(line("encoder", "not run"), code=5), "encoder was not run"),
    ],
)
def test_what_counts_as_caught_and_located(fault: Fault, found: Result, wrong: str) -> None:
    said = judge(fault, found).wrong
    assert (wrong in said) if wrong else not said


def test_the_page_counts_and_names_the_survivors() -> None:
    good = judge(WRONG_EPS, result(line("encoder", "FAILED"), line("greedy ids", "FAILED")))
    bad = judge(replace(WRONG_EPS, name="missed | by all"), result(line("encoder", "ok"), code=0))
    passed = judge(replace(SURVIVOR, name="unseen"), result(line("encoder", "ok"), code=0))
    half = {"eps": half_word(result(line("encoder", "ok"), code=0)), "missed | by all": "encoder"}
    text = page([good, bad, passed], {"date": "2026-01-01", "device": "2 cores"}, half)
    assert half["eps"] == UNSEEN
    assert "**1 of 2 planted faults caught and located**" in text
    assert "1 of 2 are caught" in text
    assert "| eps | overlay | `model.py` | encoder, then greedy ids | 1e-3 | 1e-5 | yes | not seen |" in text
    assert "**no**: nothing says FAILED" in text
    assert "| unseen | overlay | `model.py` | never looked at |" in text
    assert all(row.count("|") - row.count("\\|") in (5, 9) for row in text.splitlines() if row.startswith("|"))


@pytest.mark.slow
def test_a_process_that_never_ends_is_killed_and_the_others_go_on(tmp_path: Path) -> None:
    """In a process of its own: forking from one that runs tests would take their threads' locks along."""
    script = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import forks
forks.import_heavy = lambda: None
def never():
    time.sleep(60)
def fails():
    raise RuntimeError("cannot be planted")
jobs = [forks.Job("never", never), forks.Job("fails", fails), forks.Job("no folder", lambda: ["--workspace", "/none"])]
for result in forks.run_all(jobs, Path(sys.argv[1]), at_once=2, limit=8):
    print(result.name, result.code, result.report, result.errors.strip().splitlines()[-1:])
"""
    command = [sys.executable, "-c", script, str(tmp_path), str(PROJECT), str(FAULTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = dict(row.split(" ", 1) for row in done.stdout.replace("no folder", "no-folder").splitlines())
    assert said["never"].startswith(f"{TIMED_OUT} {{}}"), done
    assert said["fails"] == "70 {} ['RuntimeError: cannot be planted']"
    assert said["no-folder"].startswith("2 {}")
    assert list(tmp_path.iterdir()) == []


def command(*words: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    run = [sys.executable, str(FAULTS / "run.py"), *words]
    return subprocess.run(run, cwd=PROJECT, env=environment, capture_output=True, text=True)


def test_the_list_can_be_read_without_running_anything() -> None:
    done = command("--list", "--only", "epsilon")
    assert done.returncode == 0
    assert "wrong epsilon in RMSNorm" in done.stdout
    assert "BOS" not in done.stdout
    unknown = command("--only", "no such fault")
    assert unknown.returncode == 2
    assert "--list" in unknown.stderr


# One of the picture's half and one of the text's, to see that what plants, runs and judges them works.
SAMPLE = ("wrong epsilon in a block", "a cache that forgets")


@pytest.mark.upstream
def test_a_sample_of_the_faults_is_caught_where_it_is(workspace: Path) -> None:
    only = [word for name in SAMPLE for word in ("--only", name)]
    done = command("--workspace", str(workspace), "--jobs", "1", *only)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(SAMPLE)} of {len(SAMPLE)} caught and located" in done.stdout


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.timeout(3600)
def test_every_fault_is_caught_where_it_is(workspace: Path) -> None:
    done = command("--workspace", str(workspace), "--check")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
