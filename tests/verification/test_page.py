"""The files of --report: the same facts three times, whole or not at all, whatever a model or a picture holds."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import page_reports
import pytest
from PIL import Image

from overlaykit.errors import FixTheCommand
from verification.page import files, thumbnails
from verification.page.facts import gather
from verification.page.text import compact, duration, shown, visible
from verification.report import Check, Outcome, Report, to_json


class Page(HTMLParser):
    """What a browser would show, and every address that it would ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.asked: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.asked += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.words.append(data)


def written(report: Report, folder: Path) -> tuple[Page, str, dict]:
    page = files.write(report, folder, "python verify.py --report out")
    markdown = (folder / files.MARKDOWN).read_text(encoding="utf-8")
    return (
        Page(page.read_text(encoding="utf-8")),
        markdown,
        json.loads((folder / files.JSON).read_text(encoding="utf-8")),
    )


@pytest.mark.parametrize("name", page_reports.REPORTS)
def test_all_three_files_tell_the_same(tmp_path: Path, name: str) -> None:
    report = page_reports.REPORTS[name](tmp_path / "pictures")
    page, markdown, content = written(report, tmp_path)
    assert content == json.loads(to_json(report))
    plain = markdown.replace("\\", "")
    for check in report.checks:
        said = (check.numbers["answer"], check.measured) if "answer" in check.numbers else (check.name, check.measured)
        for fact in (*said, check.allowed if "answer" not in check.numbers else ""):
            assert " ".join(visible(fact).split()) in page.text
            assert " ".join(visible(fact).replace("\\", "").split()) in " ".join(plain.split())
    for fact in (report.verdict, report.subject, report.weights, *report.versions.values(), "verify.py --report out"):
        assert fact in page.text
        assert fact in plain
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "report.html",
        "report.json",
        "report.md",
    ]


@pytest.mark.parametrize("name", page_reports.REPORTS)
def test_the_page_asks_for_nothing_outside_itself(tmp_path: Path, name: str) -> None:
    page, _, _ = written(page_reports.REPORTS[name](tmp_path / "pictures"), tmp_path)
    assert all(address.startswith(("data:", "#")) for address in page.asked)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    style = (tmp_path / files.HTML).read_text(encoding="utf-8").split("</style>")[0]
    assert not re.search(r"@import|url\(", style)


@pytest.mark.parametrize(
    ("checks", "synthetic", "headline"),
    [
        ((page_reports.stage(*page_reports.STAGES[0]),), False, "Verified"),
        ((page_reports.stage(*page_reports.STAGES[0]),), True, "Verified on synthetic weights"),
        ((Check("tree", "lock", Outcome.FAILED, "abc", code=4),), False, "Another tree than the lock's"),
        ((Check("weights", "all", Outcome.NOT_RUN, "missing"),), True, "Not everything ran"),
        ((Check("weights", "all", Outcome.FAILED, "wrong"),), True, "Not verified"),
        ((), False, "Not everything ran"),
    ],
)
def test_the_verdict_is_the_heading(tmp_path: Path, checks: tuple[Check, ...], synthetic: bool, headline: str) -> None:
    written(page_reports.report(checks, synthetic=synthetic), tmp_path)
    text = (tmp_path / files.HTML).read_text(encoding="utf-8")
    assert re.findall(r"<h1>(.*?)</h1>", text) == [headline.replace("'", "&#39;")]
    assert ("<strong>SYNTHETIC weights</strong>" in text) is synthetic
    assert (tmp_path / files.MARKDOWN).read_text(encoding="utf-8").startswith(f"# {headline}: ")


def test_a_cpu_and_a_simulated_npu_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(device: str) -> list[str]:
        return [what for what, _ in gather(page_reports.report((), device=device), "", "").caveats]

    monkeypatch.delitem(sys.modules, "simulator.npu_kernels", raising=False)  # other tests of this process use it
    assert said("cpu") == ["Ran on a CPU"]
    assert said("npu:0") == []
    monkeypatch.setitem(sys.modules, "simulator.npu_kernels", None)
    assert said("cpu") == ["Ran on a CPU"]
    assert said("npu:0") == ["SIMULATED NPU"]


def test_an_answer_in_markdown_calls_nobody_and_breaks_no_table(tmp_path: Path) -> None:
    _, markdown, _ = written(page_reports.hostile(tmp_path / "pictures"), tmp_path)
    fence, outside = "", []
    for line in markdown.splitlines():
        mark = re.fullmatch("`{3,}", line)
        if mark and (not fence or line == fence):
            fence = "" if fence else line
        elif not fence:
            outside.append(line)
    assert not fence
    assert "@somebody" in markdown
    assert not re.search(r"(?<!\\)[@<]|(?<!\\)#\d", "\n".join(outside).replace("> **", ""))
    for before, row in zip(outside, outside[1:]):
        if before.startswith("|") and row.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", before))


def test_what_failed_says_what_is_wrong_and_the_answer_once(tmp_path: Path) -> None:
    page, markdown, _ = written(page_reports.failed(tmp_path / "pictures"), tmp_path)
    assert page.text.count("A trophy.") == markdown.count("A trophy.") == 1
    for problem in ("The answer has 2 words, at least 20 expected.", "Worst on picture01.jpg"):
        assert problem in page.text
        assert problem in markdown
    assert "It is fed by the encoder" in page.text.split("What was not run, and what it would take")[1]
    assert "python verify.py weights" in page.text


def test_a_sampled_answer_shows_every_seed(tmp_path: Path) -> None:
    first = page_reports.answer("picture00.jpg", "one says")
    samples = [{"seed": seed, "answer": text} for seed, text in enumerate(("one says", "two <says>", ""))]
    sampled = dataclasses.replace(first, numbers={**first.numbers, "samples": samples})
    page, markdown, _ = written(page_reports.report((sampled,)), tmp_path)
    for text in (page.text, markdown):
        for said in ("one says", "two <says>"):
            assert said in text
    assert "(nothing was said)" in page.text
    assert "sampled, seed 0 above" in page.text
    assert "\nSeed 0:\n" in markdown


def test_a_thumbnail_is_small_and_says_nothing_of_the_camera(tmp_path: Path) -> None:
    wide, tall = page_reports.draw_pictures(tmp_path, 2)
    for path, size in ((wide, (480, 300)), (tall, (206, 480))):
        found = thumbnails.read_picture(path)
        content = base64.b64decode(found.data.partition(",")[2])
        assert b"Ann" in path.read_bytes()
        assert b"Ann" not in content
        with Image.open(io.BytesIO(content)) as picture:
            assert (picture.size, picture.format, dict(picture.getexif())) == (size, "JPEG", {})
        assert (found.width, found.height) == size


def test_a_picture_is_shown_as_the_model_saw_it(tmp_path: Path) -> None:
    """The processor reads no EXIF, so a picture that a viewer would turn is not turned here."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 200)).save(tmp_path / "turned.jpg", exif=exif)
    found = thumbnails.read_picture(tmp_path / "turned.jpg")
    assert found.width > found.height


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK", "I;16"])
def test_every_kind_of_picture_gets_a_thumbnail(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (20, 10)).save(path)
    assert thumbnails.read_picture(path).data


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\xff\xd8\xff\xe0 cut off"])
def test_no_picture_is_a_reason_and_no_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    found = thumbnails.read_picture(path)
    assert not found.data
    assert found.problem.endswith(".")


def test_text_shows_everything_and_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible("a\tb\nc é 漢 🙂 �") == "a\tb\nc é 漢 🙂 �"
    assert visible("\x00\x1b\x7f\x85\ud800\u202e\u200e\ufffe\U0001ffff") == (
        "\\x00\\x1b\\x7f\\x85\\ud800\\u202e\\u200e\\ufffe\\U0001ffff"
    )
    monkeypatch.setenv("HOME", "/home/ann")
    assert shown("in /home/ann/data, not /home/anna/data") == "in ~/data, not /home/anna/data"
    monkeypatch.setenv("HOME", "/")
    assert shown("/data/model") == "/data/model"


def test_numbers_are_short() -> None:
    assert [compact(n) for n in (0, 950, 1234, 9960, 35_400, 2_100_000)] == ["0", "950", "1.2k", "10k", "35k", "2.1M"]
    assert [duration(s) for s in (1234.5, 1.524, 0.0841, 3.2e-4, 5e-9)] == [
        "1,234 s",
        "1.52 s",
        "84.1 ms",
        "320 µs",
        "5 ns",
    ]


def test_an_old_report_stays_whole_when_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = page_reports.empty(tmp_path)
    files.write(report, tmp_path, "one")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FixTheCommand, match="No space left"):
        files.write(report, tmp_path, "two")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FixTheCommand, match="cannot be written there"):
        files.prepare(tmp_path / "file" / "out")
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    with pytest.raises(FixTheCommand, match=r"report\.html cannot be written"):
        files.prepare(tmp_path / "out")
    files.prepare(tmp_path / "new" / "deep")
    assert list((tmp_path / "new" / "deep").iterdir()) == []
