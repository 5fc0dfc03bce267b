"""The page in a real browser: from a phone to a desk, light, dark and on paper, with words nobody would write."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as browsers
import page_reports
import pytest
from PIL import Image

from verification.page import files

pytest.importorskip("playwright")
if not browsers.find_chromium():
    pytest.skip("no Chromium on the PATH, and CHROMIUM names none", allow_module_level=True)

WIDTHS = (360, 768, 1440)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, make in page_reports.REPORTS.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = files.write(make(folder / "pictures"), folder, "python verify.py --report out")
    return found


@pytest.fixture
def load(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """load(name, width, scheme, media) -> the page. What it asked for and complained of fails the test."""
    opened, heard = [], []

    def load(name: str, width: int, scheme: str = "light", media: str = "screen") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(context)
        page = context.new_page()
        page.emulate_media(media=media, color_scheme=scheme)
        address = pages[name].as_uri()
        page.on("console", lambda message: heard.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on(
            "request", lambda asked: heard.append(asked.url) if not asked.url.startswith((address, "data:")) else None
        )
        page.goto(address, wait_until="load")
        return page

    yield load
    for context in opened:
        context.close()
    assert heard == []


def opened_up(page: Any) -> Any:
    """With every table that is folded away unfolded."""
    page.evaluate("() => document.querySelectorAll('details').forEach(item => item.open = true)")
    return page


@pytest.mark.parametrize("name", page_reports.REPORTS)
def test_everything_can_be_read_at_every_width(load: Any, name: str) -> None:
    page = opened_up(load(name, WIDTHS[0]))
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(browsers.OVERFLOW) <= 0, width
        assert page.evaluate(browsers.OVERLAPS) == [], width
        assert page.evaluate(browsers.CLIPPED) == [], width
        assert page.evaluate(browsers.SMALLEST) >= 11, width  # pixels, of a line: letters of more than 9


@pytest.mark.parametrize("name", ["whole", "failed", "hostile"])
def test_letters_and_drawings_stand_out_from_what_is_behind_them(load: Any, name: str) -> None:
    page = opened_up(load(name, 1440))
    papers = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(browsers.CONTRAST, None) == [], scheme
        papers[scheme] = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert papers == {"light": "rgb(251, 250, 248)", "dark": "rgb(20, 22, 26)"}


@pytest.mark.parametrize("name", ["whole", "failed"])
def test_on_paper_it_needs_no_background_and_breaks_no_row(load: Any, name: str) -> None:
    page = opened_up(load(name, 700, "dark", "print"))  # a dark screen must not print white letters
    assert page.evaluate(browsers.OVERFLOW) <= 0
    assert page.evaluate(browsers.OVERLAPS) == []
    assert page.evaluate(browsers.CONTRAST, "rgb(255, 255, 255)") == []
    whole = (
        "() => [...document.querySelectorAll('tr, figure, .card, .problem')].map(e => getComputedStyle(e).breakInside)"
    )
    assert set(page.evaluate(whole)) == {"avoid"}
    with Image.open(io.BytesIO(page.screenshot())) as paper:
        assert paper.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert page.pdf().startswith(b"%PDF")


def test_what_a_model_said_is_never_run(load: Any) -> None:
    page = load("hostile", 768)
    assert "taken" not in page.title()
    assert page.locator("script").count() == 0
    assert page.locator("blockquote").nth(1).inner_text() == page_reports.HTML_ANSWER
    assert (
        "bell\\x07 null\\x00 escape\\x1b[31m half\\udc80 turned\\u202etxt.exe"
        in page.locator("blockquote").nth(2).inner_text()
    )


def test_drawings_and_tables_are_told_to_those_who_do_not_see_them(load: Any) -> None:
    page = load("whole", 360)
    for drawing in page.locator("svg").all():
        told = drawing.evaluate(
            "e => e.getAttribute('aria-labelledby').split(' ').map(i => document.getElementById(i).textContent)"
        )
        assert len(told) == 2
        assert all(told)
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert page.locator("img:not([alt])").count() == 0
    assert page.get_by_role("row").count() > 8  # the cards of a phone are still the rows of a table
    assert page.get_by_role("rowheader", name="encoder").count() >= 1
    levels = [len(page.locator(f"h{number}").all()) for number in (1, 2, 3)]
    assert levels[0] == 1
    assert all(levels)


def test_the_pictures_are_seen(load: Any) -> None:
    page = load("failed", 768)
    widths = page.evaluate("() => [...document.images].map(image => image.naturalWidth)")
    assert widths
    assert all(widths)
    assert page.locator(".placeholder").count() == 1


def test_a_chromium_that_does_not_start_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "chromium"
    stub.write_text("#!/bin/sh\necho 'install the snap' >&2\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browsers.find_chromium() is None
