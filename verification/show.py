"""A report as it is shown: on standard output, and with --report as a page."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from verification.page import files
from verification.report import Report, to_json, to_table


def show(report: Report, as_json: bool, folder: Path | None, argv: Sequence[str]) -> None:
    """Print the report, and write it into `folder`; argv: what follows verify.py, to get it again."""
    for stream in (sys.stdout, sys.stderr):  # an answer may hold characters that the terminal cannot show
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    text = to_json(report) if as_json else to_table(report, shutil.get_terminal_size((120, 24)).columns)
    try:  # files first, for the table's reader may leave (| head); but a full disk must not cost the table
        page = files.write(report, folder, shlex.join(["python", "verify.py", *argv])) if folder else None
    finally:
        print(text, flush=True)
    if page:
        print(f"report: {page}", file=sys.stderr)
