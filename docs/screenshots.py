"""Screenshots of a real report, for the READMEs: python docs/screenshots.py (needs a Chromium and playwright)

Runs `verify.py --overlay-alone --weights tiny --report` on two drawn pictures and writes docs/report-*.png.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
PROJECT = DOCS.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "verification")]

from browser import open_browser

from verification.demo import draw


@dataclass(frozen=True)
class Shot:
    """A part of the page. start: the element at its top, "" for the page's. size, in CSS pixels; scale: of the file."""

    name: str
    start: str
    width: int
    height: int
    scheme: str
    scale: float


SHOTS = (
    Shot("report-desktop-light", "", 1200, 1180, "light", 1),
    Shot("report-desktop-dark", "#errors", 1200, 1180, "dark", 1),
    Shot("report-phone-light", "", 390, 844, "light", 1.5),
    Shot("report-phone-dark", "#kl", 390, 844, "dark", 1.5),
)


def main() -> None:
    from PIL import Image, ImageOps

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        draw(folder / "pictures" / "house.png")
        with Image.open(folder / "pictures" / "house.png") as house:
            ImageOps.mirror(house).save(folder / "pictures" / "house-mirrored.png")
        command = [
            sys.executable,
            str(PROJECT / "verify.py"),
            "--overlay-alone",
            "--weights",
            "tiny",
            "--device",
            "cpu",
        ]
        done = subprocess.run([*command, "--images", "pictures", "--report", "out"], cwd=folder, check=False)
        page = folder / "out" / "report.html"
        if not page.is_file():
            raise SystemExit(f"verify.py ended with {done.returncode} and wrote no page.")
        with open_browser() as browser:
            for shot in SHOTS:
                take(browser, page, shot)


def take(browser: Any, page: Path, shot: Shot) -> None:
    """One screenshot, with a palette: a page has few colours, and a README loads every byte."""
    from PIL import Image

    size = {"width": shot.width, "height": shot.height}
    context = browser.new_context(viewport=size, color_scheme=shot.scheme, device_scale_factor=shot.scale)
    tab = context.new_page()
    tab.goto(page.as_uri())
    if shot.start:
        tab.evaluate("at => document.querySelector(at).scrollIntoView({behavior: 'instant'})", shot.start)
    with Image.open(io.BytesIO(tab.screenshot())) as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(DOCS / f"{shot.name}.png", optimize=True)
    context.close()


if __name__ == "__main__":
    main()
