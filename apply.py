#!/usr/bin/env python3
"""Make a MiniGPT-4 workspace for Ascend NPUs: clone upstream at its pin, patch it, add the overlay, set the paths."""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

from overlaykit import manual
from overlaykit.errors import FixTheCommand, OverlayError
from overlaykit.gitrun import require_git
from overlaykit.plan import Request
from overlaykit.report import Answer, error_as_json

# Imported when asked for: the second apply takes a quarter of a second, and imports would be a good part of it.
VERBS = {
    "apply": "verbs",
    "check": "verbs",
    "status": "verbs",
    "revert": "verbs",
    "lint": "linting.lint",
    "export": "exporting.export",
    "rebase": "rebasing.rebase",
    "lock": "verbs",
}
_FLAGS: dict[str, dict[str, Any]] = {
    "--upstream": {"metavar": "URL_OR_PATH", "help": "clone or fetch from here: URL, folder or bundle"},
    "--set": {"metavar": "KEY=VALUE", "action": "append", "help": "a name in configs/paths.yaml; is remembered"},
    "--force": {"action": "store_true", "help": "save what is in the way, then replace it"},
    "--against": {"metavar": "REF", "help": "would the patches fit this commit, branch or tag of upstream?"},
    "--onto": {"metavar": "REF", "help": "commit, branch or tag of upstream (default: the newest of its branch)"},
    "--continue": {"dest": "proceed", "action": "store_true", "help": "go on after a stop"},
    "--skip": {"action": "store_true", "help": "go on without the patch that does not fit"},
    "--abort": {"action": "store_true", "help": "give up; everything is as before"},
    "--accept-drift": {"action": "store_true", "help": "with --continue: what was shown is still right"},
    "--check": {"dest": "dry_run", "action": "store_true", "help": "write nothing; exit 1 if there is something"},
    "--fix": {"action": "store_true", "help": "write patches/README.md, and patches anew that mean the same"},
}
_OF_VERB = {
    "apply": ("--upstream", "--set", "--force"),
    "check": ("--upstream", "--set", "--force", "--against"),
    "status": ("--set",),
    "revert": ("--force",),
    "lint": ("--fix",),
    "export": ("--check",),
    "rebase": ("--upstream", "--onto", "--continue", "--skip", "--abort", "--accept-drift", "--force"),
    "lock": ("--upstream",),
}
_TAKE_A_VALUE = ("--workspace", "--project", *(flag for flag, about in _FLAGS.items() if "metavar" in about))
_AGAIN = "Nothing of yours is lost; the next run finishes or undoes what was begun."


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in words  # also for words that the parser cannot make sense of
    try:
        options = _parse(words)
        require_git()
        module = import_module(f"overlaykit.{VERBS[options.verb]}")
        answer: Answer = getattr(module, options.verb)(_request(options))
    except OverlayError as error:
        return _fail(as_json, error, error.code)
    except OSError as error:  # a full disk, missing permissions
        return _fail(as_json, OverlayError(f"{error.filename or 'The system'}: {error.strerror}", fix=_AGAIN), 70)
    except KeyboardInterrupt:
        return _fail(as_json, OverlayError("Interrupted.", fix=_AGAIN), 130)
    except Exception as error:
        _show(traceback.format_exc(), sys.stderr)
        return _fail(as_json, OverlayError(f"Unexpected: {error!r}", "Please report the lines above.", _AGAIN), 70)
    return _show(answer.as_json() if as_json else answer.as_text(), sys.stdout, answer.code)


def _fail(as_json: bool, error: OverlayError, code: int) -> int:
    return _show(error_as_json(error, code), sys.stdout, code) if as_json else _show(str(error), sys.stderr, code)


def _show(text: str, stream: IO[str], code: int = 0) -> int:
    """Print, and return `code`, or 70 where it cannot be written. A pipe that nobody reads (`| head`) is no failure."""
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python tries again at its end
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            return _show(f"Standard output: {error.strerror}", sys.stderr, 70)
    return code


def _say(line: str) -> None:
    _show(line, sys.stderr)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FixTheCommand(f"{self.prog}: {message}", self.format_usage().rstrip(), "--help explains each of them.")

    def print_help(self, file: Any = None) -> None:
        raise SystemExit(_show(self.format_help().rstrip(), sys.stdout))


def _parse(words: list[str]) -> argparse.Namespace:
    """Each verb has a parser of its own, so that its --help shows what it takes; options may precede the verb."""
    before = ["", *words]
    named = [word for last, word in zip(before, words) if word in VERBS and last not in _TAKE_A_VALUE]
    verb = named[0] if named else None
    options, rest = _parser(verb).parse_known_args(words)
    for word in rest:
        others = [name for name, flags in _OF_VERB.items() if word.partition("=")[0] in flags]
        if others:
            raise FixTheCommand(f"{word} belongs to {' and '.join(others)}, not to {options.verb}.")
    if rest:
        _parser(verb).error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _parser(verb: str | None) -> argparse.ArgumentParser:
    here = Path(__file__).resolve().parent
    parser = _Parser(
        allow_abbrev=False,
        prog=f"apply.py {verb}" if verb else "apply.py",
        usage=None if verb else "apply.py [VERB] [options]",
        description=None if verb else __doc__,
        epilog=manual.OF[verb] if verb else manual.GENERAL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    left_out: dict[str, Any] = {} if verb else {"nargs": "?", "default": "apply"}
    parser.add_argument("verb", choices=list(VERBS), help=argparse.SUPPRESS, **left_out)
    parser.add_argument("--workspace", type=Path, default=Path("MiniGPT-4"), help="the clone (default ./MiniGPT-4)")
    parser.add_argument("--json", action="store_true", help="the same facts for programs, on stdout")
    parser.add_argument("--project", type=Path, default=here, help=argparse.SUPPRESS)
    for flag, about in _FLAGS.items():
        if flag in _OF_VERB[verb or "apply"]:
            parser.add_argument(flag, **about)
    return parser


def _request(options: argparse.Namespace) -> Request:
    known = {field.name for field in fields(Request)}
    given = {name: value for name, value in vars(options).items() if name in known}
    given["settings"] = _settings(getattr(options, "set", None) or [])
    return Request(**given, say=_say)


def _settings(pairs: list[str]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise FixTheCommand(f"--set {pair} has no value.", fix="Write --set KEY=VALUE.")
        settings[name] = os.path.expanduser(value)  # no shell does it after KEY=
    return settings


def _open_what_is_closed() -> None:
    """Else the next file to be opened becomes standard output, say, and GitPython takes input from 0 for no input."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "w"))


if __name__ == "__main__":
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or log that cannot show a letter is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
