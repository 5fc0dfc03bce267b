"""`verify.py --report FOLDER` as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import page_reports
import pytest
import recordings

import verify
from verification.page import files
from verification.page.facts import gather
from verification.report import Check, Outcome, to_json

PROJECT = Path(__file__).resolve().parents[2]
ALONE = ("--overlay-alone", "--weights", "tiny")


@pytest.mark.parametrize(("name", "code"), [("whole", 0), ("failed", 1), ("empty", 5), ("hostile", 1)])
def test_the_page_is_written_whatever_the_verdict(
    tmp_path: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = page_reports.REPORTS[name](tmp_path / "pictures")
    monkeypatch.setattr(verify, "verify_overlay", lambda request: report)
    folder = tmp_path / "new folder"
    assert verify.main([*ALONE, "--report", str(folder), "--json"]) == code
    said = capsys.readouterr()
    assert json.loads(said.out)["exit_code"] == code  # nothing but JSON
    assert said.err.splitlines()[-1] == f"report: {folder / files.HTML}"
    page = (folder / files.HTML).read_text(encoding="utf-8")
    assert f"python verify.py --overlay-alone --weights tiny --report &#39;{folder}&#39; --json" in page


def test_the_table_is_printed_beside_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = page_reports.whole(tmp_path / "pictures")
    monkeypatch.setattr(verify, "verify_overlay", lambda request: report)
    assert verify.main([*ALONE, "--report", str(tmp_path)]) == 0
    assert report.verdict in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_ends_it_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(request: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(verify, "verify_overlay", work)
    (tmp_path / "file").write_text("")
    assert verify.main([*ALONE, "--report", str(tmp_path / "file")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "cannot be written there" in said.err
    assert "Name a folder that can be written" in said.err


def test_without_jinja2_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    assert verify.main([*ALONE, "--report", str(tmp_path)]) == 2
    assert "pip install 'jinja2>=3.1'" in capsys.readouterr().err


def test_a_disk_that_fills_up_costs_the_page_and_not_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = page_reports.whole(tmp_path / "pictures")
    monkeypatch.setattr(verify, "verify_overlay", lambda request: report)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert verify.main([*ALONE, "--report", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert report.verdict in said.out
    assert "No space left on device" in said.err


def test_a_reader_who_leaves_has_the_page_all_the_same(tmp_path: Path) -> None:
    """As `verify.py --report out | head -0`."""
    code = (
        "import sys, verify, page_reports; from pathlib import Path; folder = Path(sys.argv[1]);"
        "verify.verify_overlay = lambda request: page_reports.whole(folder / 'pictures');"
        "sys.exit(verify.main(['--overlay-alone', '--report', str(folder)]))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(PROJECT), str(Path(__file__).parent)))}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=writing, stderr=subprocess.PIPE, env=env)
    os.close(writing)
    assert done.returncode == 141, done.stderr
    assert (tmp_path / files.HTML).is_file()


@pytest.mark.slow
def test_a_real_run_fills_the_page(
    tiny: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--overlay-alone", "--weights", str(tiny), "--images", str(pictures[0]), "--device", "cpu"]
    assert verify.main([*argv, "--report", str(tmp_path)]) == 0, capsys.readouterr()
    page = (tmp_path / files.HTML).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 1
    for level in ("L0", "L1", "L2", "L3", "L4"):
        assert f'<h3 id="{level}">' in page
    for section in ("answers", "checks", "errors", "kl", "time", "made"):
        assert f'<section id="{section}"' in page
    assert "roofline says nothing" in page.replace("\n", " ").replace("    ", "")


def test_a_replayed_bundle_has_a_page_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = recordings.small_golden()
    golden.save(tmp_path / "golden.npz")
    recordings.small_taking(golden).save(tmp_path / "bundle.npz")
    argv = ["replay", str(tmp_path / "bundle.npz"), "--against", str(tmp_path / "golden.npz"), "--json"]
    assert verify.main([*argv, "--report", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["exit_code"] == 0
    assert said.err == f"report: {tmp_path / 'out' / files.HTML}\n"
    page = (tmp_path / "out" / files.HTML).read_text(encoding="utf-8")
    assert (
        "<h1>The bundle agrees with its golden</h1>" in page
    )  # neither "Verified" nor "files agree": nothing ran here
    assert page.count("Judged from a bundle") == 2  # above the levels, and below where it says what was not looked at
    assert "code, files and stages agree" not in page
    stages = json.loads(said.out)["timings"]["stages"]
    assert [row["name"] for row in stages] == ["prefill", "decode"]  # in the order of the work, not of the names
    assert f"python verify.py replay {tmp_path / 'bundle.npz'} --against" in page
    assert verify.main([*argv, "--report", str(tmp_path / "golden.npz")]) == 2
    assert "cannot be written there" in capsys.readouterr().err


def test_lines_of_files_have_the_same_level_in_every_form() -> None:
    lines = [Check(part, part, Outcome.PASSED, "equal") for part in ("tree", "pictures", "weights", "answers")]
    report = page_reports.report(tuple(lines))
    assert [row["level"] for row in json.loads(to_json(report))["checks"]] == ["L0", "L0", "L0", ""]
    assert [len(group.checks) for group in gather(report, "", "").levels] == [3, 0, 0, 0, 0]
