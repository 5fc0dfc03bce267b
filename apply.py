#!/usr/bin/env python3
"""Make a MiniGPT-4 workspace for Ascend NPUs: clone upstream at its pin, patch it, add the overlay, set the paths."""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from overlaykit import verbs
from overlaykit.errors import FixTheCommand, OverlayError
from overlaykit.gitrun import require_git
from overlaykit.plan import Request
from overlaykit.report import error_as_json

HELP = """
verbs:
  apply    (the default) make the workspace, or bring it up to date; a second run changes nothing
  check    say what apply would do, and whether everything fits; touches nothing
  status   what the workspace holds, and your own edits in it; touches nothing
  revert   back to the branch that was checked out before; settings are kept for the next apply
  lock     after a change to patches/ or overlay/: write the resulting tree to configs/upstream.yaml

first time:
  python apply.py --workspace ./MiniGPT-4 --set model_path=/data/model/MiniGPT-4

without network, any of these works as --upstream:
  https://mirror.example/MiniGPT-4.git    /mnt/usb/MiniGPT-4    MiniGPT-4.bundle

your own edits:
  values that configs/paths.yaml owns may be edited in the YAML files by hand: the next apply adopts them.
  Other edits stay. Where a patch needs an edited file, apply refuses; --force saves the file first and
  prints the command that brings it back.

exit codes:
  0 done or nothing to do      1 a patch does not fit       2 wrong command or invalid project file
  3 would lose your work       4 the tree is not the locked one
  5 out of reach, not checked  70 unexpected                130 interrupted
"""


_AGAIN = "Nothing of yours is lost; the next run finishes or undoes what was begun."


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in words  # also for words that the parser cannot make sense of
    try:
        options = _parser().parse_args(words)
        require_git()
        request = Request(
            project=options.project,
            workspace=options.workspace,
            upstream=options.upstream,
            settings=_settings(options.set),
            force=options.force,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        report = getattr(verbs, options.verb)(request)
    except OverlayError as error:
        return _fail(as_json, error, error.code)
    except OSError as error:  # a full disk, missing permissions
        return _fail(as_json, OverlayError(f"{error.filename or 'The system'}: {error.strerror}", fix=_AGAIN), 70)
    except KeyboardInterrupt:
        return _fail(as_json, OverlayError("Interrupted.", fix=_AGAIN), 130)
    except Exception as error:
        traceback.print_exc()
        return _fail(as_json, OverlayError(f"Unexpected: {error!r}", "Please report the lines above.", _AGAIN), 70)
    print(report.as_json() if as_json else report.as_text())
    return 0


def _fail(as_json: bool, error: OverlayError, code: int) -> int:
    if as_json:
        print(error_as_json(error, code))
    else:
        print(error, file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FixTheCommand(f"{self.prog}: {message}", self.format_usage().rstrip(), "--help explains each of them.")


def _parser() -> argparse.ArgumentParser:
    here = Path(__file__).resolve().parent
    parser = _Parser(
        allow_abbrev=False,
        prog="apply.py",
        description=__doc__,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choices = ["apply", "check", "status", "revert", "lock"]
    parser.add_argument("verb", nargs="?", default="apply", choices=choices, help="see below; apply when left out")
    parser.add_argument("--workspace", type=Path, default=Path("MiniGPT-4"), help="the clone (default ./MiniGPT-4)")
    parser.add_argument("--upstream", metavar="URL_OR_PATH", help="clone or fetch from here: URL, folder or bundle")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a name in configs/paths.yaml; is remembered"
    )
    parser.add_argument("--force", action="store_true", help="save what is in the way, then replace it")
    parser.add_argument("--json", action="store_true", help="the same facts for programs, on stdout")
    parser.add_argument("--project", type=Path, default=here, help=argparse.SUPPRESS)
    return parser


def _settings(pairs: list[str]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise FixTheCommand(f"--set {pair} has no value.", fix="Write --set KEY=VALUE.")
        settings[name] = os.path.expanduser(value)  # no shell does it after KEY=
    return settings


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or log that cannot show a letter is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
