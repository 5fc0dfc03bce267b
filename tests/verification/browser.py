"""A real browser for the tests of the page, and what is asked of it in JavaScript."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


def find_chromium() -> str | None:
    """CHROMIUM may name one; else the first on the PATH that starts."""
    return os.environ.get("CHROMIUM") or next(
        (name for name in filter(None, map(shutil.which, NAMES)) if starts(name)), None
    )


def starts(path: str) -> bool:
    """Ubuntu's package is a script that only asks for a snap."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@contextmanager
def open_browser() -> Iterator[Any]:
    """Playwright's browser, on the Chromium of this machine; nothing is downloaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


# The pieces of text as they are seen: rectangles, cut to what their scrolling or hiding ancestors let through.
TEXTS = """
const texts = () => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest('title, desc')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const whole of range.getClientRects()) {
      const box = {left: whole.left, right: whole.right, top: whole.top, bottom: whole.bottom};
      let scrolls = false;
      for (let up = element; up; up = up.parentElement) {
        if (getComputedStyle(up).overflowX === 'visible' || up === document.documentElement) continue;
        const cut = up.getBoundingClientRect();
        scrolls = scrolls || getComputedStyle(up).overflowX === 'auto';
        box.left = Math.max(box.left, cut.left); box.right = Math.min(box.right, cut.right);
        box.top = Math.max(box.top, cut.top); box.bottom = Math.min(box.bottom, cut.bottom);
      }
      if (box.right - box.left < 2 || box.bottom - box.top < 2) continue;
      found.push({...box, element, scrolls, whole, text: node.textContent.trim().slice(0, 40)});
    }
  }
  return found;
};
"""

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"

# Two pieces of different elements may touch, but not by more than 2 x 3 pixels: boxes are taller than their letters.
OVERLAPS = f"""() => {{
  {TEXTS}
  const all = texts().sort((a, b) => a.top - b.top), wrong = [];
  for (let i = 0; i < all.length; i++) {{
    for (let j = i + 1; j < all.length && all[j].top < all[i].bottom; j++) {{
      const a = all[i], b = all[j];
      if (a.element === b.element) continue;
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const tall = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 2 && tall > 3) wrong.push(`${{a.text}} / ${{b.text}} (${{wide.toFixed(0)}} x ${{tall.toFixed(0)}})`);
    }}
  }}
  return wrong;
}}"""

# Outside the window, or outside its drawing; or cut by an ancestor that hides what it cannot show, and cannot scroll.
CLIPPED = f"""() => {{
  {TEXTS}
  const wrong = [], window_ = document.documentElement.clientWidth;
  for (const piece of texts()) {{
    const edge = piece.element.closest('svg')?.getBoundingClientRect() ?? {{left: 0, right: window_}};
    const outside = piece.whole.right > edge.right + 1 || piece.whole.left < edge.left - 1;
    const cut = piece.whole.right > piece.right + 1 || piece.whole.bottom > piece.bottom + 1;
    if ((outside || cut) && !piece.scrolls) wrong.push(piece.text);
  }}
  return wrong;
}}"""

SMALLEST = f"() => {{ {TEXTS} return Math.min(...texts().map(t => t.whole.height)); }}"

# WCAG 2.1: text 4.5 to 1, large text and drawings 3 to 1. paper: what lies below everything, null for the page's own.
CONTRAST = f"""(paper) => {{
  {TEXTS}
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => {{
    const [x, y] = [luminance(numbers(a)), luminance(numbers(b))].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  }};
  const below = element => {{
    for (let up = element; up && !paper; up = up.parentElement) {{
      const colour = getComputedStyle(up).backgroundColor;
      if ((numbers(colour)[3] ?? 1) > 0) return colour;
    }}
    return paper ?? 'rgb(255, 255, 255)';
  }};
  const wrong = [];
  for (const {{element, text}} of texts()) {{
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const found = ratio(element.closest('svg') ? style.fill : style.color, below(element));
    if (found < (large ? 3 : 4.5)) wrong.push(`${{text}}: ${{found.toFixed(2)}}`);
  }}
  for (const shape of document.querySelectorAll('svg .bar, svg .limit, svg .axis, svg path')) {{
    const style = getComputedStyle(shape), line = style.fill === 'none' || shape.matches('line');
    const colour = line ? style.stroke : style.fill;
    const found = ratio(colour, below(shape));
    if (found < 3) wrong.push(`${{shape.getAttribute('class')}}: ${{found.toFixed(2)}}`);
  }}
  return [...new Set(wrong)];
}}"""
