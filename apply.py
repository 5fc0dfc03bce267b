#!/usr/bin/env python3
"""Make a MiniGPT-4 workspace for Ascend NPUs: clone upstream at its pin, patch it, add the overlay, set the paths."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from overlaykit import verbs
from overlaykit.errors import FixTheCommand, OverlayError
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
  5 upstream out of reach      70 unexpected                130 interrupted
"""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        request = Request(
            project=options.project,
            workspace=options.workspace,
            upstream=options.upstream,
            settings=_settings(options.set),
            force=options.force,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        report = getattr(verbs, options.verb)(request)
        print(report.as_json() if options.json else report.as_text())
        return 0
    except OverlayError as error:
        print(error_as_json(error) if options.json else error, file=sys.stdout if options.json else sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("Interrupted. The next run finishes or undoes what was begun.", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        print("This is unexpected. Nothing of yours is lost; please report the lines above.", file=sys.stderr)
        return 70


def _parser() -> argparse.ArgumentParser:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        prog="apply.py", description=__doc__, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
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
        settings[name] = value
    return settings


if __name__ == "__main__":
    sys.exit(main())
