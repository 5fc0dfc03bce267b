"""Where the environment doctor reads from: this machine, or a machine whose files lie below a folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("usr/local/sbin", "usr/local/bin", "usr/bin")
TIMEOUT = 30.0  # seconds, for programs that print a table
# No value under such a name is ever shown, nor the user and password of an address.
SECRET = re.compile(r"token|secret|passw|credential|(?:^|_)key(?:$|_)|auth(?!or)", re.IGNORECASE)
USERINFO = re.compile(r"(?:(?<=://)|^)[^/\s]*@")  # of http://user:password@host, and without the http:// as well
QUERY = re.compile(r"(?<=[?#]).+$")


@dataclass(frozen=True)
class Source:
    """root: "/" or the folder that stands for it. env: the variables of the shell that is looked at."""

    root: Path
    env: Mapping[str, str]

    @property
    def live(self) -> bool:
        return self.root == Path("/")

    def path(self, absolute: str) -> Path:
        return self.root / absolute.lstrip("/")

    def text(self, absolute: str) -> str:
        """The file's text; "" where it cannot be read."""
        try:
            return self.path(absolute).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def listed(self, folder: str, pattern: str) -> tuple[Path, ...]:
        try:
            return tuple(sorted(self.path(folder).glob(pattern)))
        except OSError:
            return ()

    def shown(self, text: object) -> str:
        """Without the folder that stands for "/"."""
        return str(text) if self.live else str(text).replace(str(self.root) + "/", "/")

    def program(self, name: str) -> str | None:
        if self.live:
            return shutil.which(name, path=self.env.get("PATH"))
        places = (self.root / folder / name for folder in PROGRAMS)
        return next((str(place) for place in places if os.access(place, os.X_OK)), None)

    def ask(self, name: str, arguments: Sequence[str]) -> tuple[int, str]:
        """Exit code and output of a program. Raises FileNotFoundError, TimeoutError."""
        program = self.program(name)
        if program is None:
            raise FileNotFoundError(name)
        code, text = run_child([program, *arguments], TIMEOUT, self.env)
        if code is None:
            raise TimeoutError(f"{name} {' '.join(arguments)} did not answer in {TIMEOUT:g} s")
        return code, text


def redacted(name: str, value: str) -> str:
    """What may be shown of a variable's value."""
    if SECRET.search(name):
        return "(set, not shown)"
    return QUERY.sub("…", USERINFO.sub("…@", value)) if "@" in value or "://" in value else value


def run_child(command: Sequence[str], timeout: float, env: Mapping[str, str]) -> tuple[int | None, str]:
    """Exit code (None: it did not end in `timeout` seconds) and output.

    The output goes to a file: a child that hangs in a driver would keep a pipe open for ever. It is killed with its
    own children, and not waited for beyond a second, because what hangs in a driver cannot be ended.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**env, "LC_ALL": "C", "PYTHONIOENCODING": "utf-8"},
                start_new_session=True,
            )
        except OSError as error:  # not executable, or made for another processor
            return 126, f"{command[0]}: {error.strerror}"
        code: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(timeout)
        finally:
            if code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
        output.seek(0)
        return code, output.read().decode("utf-8", "replace")
