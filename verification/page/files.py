"""report.html, report.md and report.json in a folder, each whole or not at all."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from overlaykit.errors import FixTheCommand
from verification.page.facts import gather
from verification.page.html import to_html
from verification.page.markdown import to_markdown
from verification.report import Report, to_json

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


def prepare(folder: Path) -> None:
    """Make the folder and try to write there: what cannot be written is told before the long work, not after it.

    Raises FixTheCommand.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise FixTheCommand(
            "--report needs the package Jinja2, which is not installed.",
            "The page is made from a template.",
            "pip install 'jinja2>=3.1', or leave --report out.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _cannot_write(folder, error) from error
    for name in (HTML, MARKDOWN, JSON):
        if (folder / name).is_dir():
            raise FixTheCommand(
                f"--report {folder}: {name} cannot be written.",
                "There is a folder of that name.",
                "Name another folder.",
            )


def write(report: Report, folder: Path, command: str) -> Path:
    """Write all three; returns where the page is. command: what makes the report again.

    The page comes last: where it is, the others are. Raises FixTheCommand when the folder cannot be written any more.
    """
    facts = gather(report, command, datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"))
    contents = {JSON: f"{to_json(report)}\n", MARKDOWN: to_markdown(facts), HTML: to_html(facts)}
    try:
        for name, text in contents.items():
            # Half a surrogate pair cannot be written as UTF-8; as \udXXX it is still right JSON.
            _replace(folder / name, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    return folder / HTML


def _replace(path: Path, content: bytes) -> None:
    """Under its name there is the old file or the whole new one, also when this is interrupted."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def _cannot_write(folder: Path, error: OSError) -> FixTheCommand:
    return FixTheCommand(
        f"--report {folder}: the report cannot be written there.", str(error), "Name a folder that can be written."
    )
