"""Where the environment doctor reads from: this machine, or a machine whose files lie below a folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PROGRAMS = ("/usr/local/sbin", "/usr/local/bin", "/usr/bin")
TIMEOUT = 30.0  # seconds, for programs that print a table
LARGEST = 16 * 2**20  # bytes read of a file, or of what a program prints; a C library has 2 MB
HIDDEN = "(set, not shown)"
LINKS = 40  # as Linux follows
# No value under such a name is ever shown, nor the user and password of an address.
SECRET = re.compile(r"token|secret|passw|credential|(?:^|_)key(?:$|_)|auth(?!or)", re.IGNORECASE)
ADDRESS = re.compile(r"(\w*://)?(?:(.*)@)?([^@?#]*)([?#].*)?", re.DOTALL)  # user:password@, host and path, query


@dataclass(frozen=True)
class Source:
    """root: "/" or the folder that stands for it. env: the variables of the shell that is looked at."""

    root: Path
    env: Mapping[str, str]

    @property
    def live(self) -> bool:
        return self.root == Path("/")

    @property
    def foreign(self) -> bool:
        """Another machine's files without its shell: nothing can be said about variables."""
        return not self.live and not self.env

    def path(self, absolute: str) -> Path:
        """Where the file lies. Below another root a link to /usr means that root's /usr, as it would in a container."""
        if self.live:
            return Path(absolute)
        parts, seen, found = absolute.split("/")[::-1], 0, self.root
        while parts:
            part = parts.pop()
            step = found / part if part != ".." else found.parent if found != self.root else found
            if seen < LINKS and os.path.islink(step):
                seen += 1
                target = os.readlink(step)
                found = self.root if target.startswith("/") else found
                parts += target.split("/")[::-1]
            else:
                found = step
        return found

    def text(self, absolute: str) -> str:
        """The file's text; "" where it cannot be read, or is no file (reading a pipe would not end)."""
        try:
            path = self.path(absolute)
            if not os.path.isfile(path):
                return ""
            with open(path, "rb") as file:
                return file.read(LARGEST).decode("utf-8", "replace")
        except OSError:
            return ""

    def is_there(self, absolute: str) -> bool:
        """False also where this user may not look; Path.exists raises an error for that."""
        return os.path.exists(self.path(absolute))

    def listed(self, folder: str, pattern: str) -> tuple[Path, ...]:
        try:
            return tuple(sorted(self.path(folder).glob(pattern)))
        except OSError:
            return ()

    def shown(self, text: object) -> str:
        """Without the folder that stands for "/"."""
        return str(text) if self.live else str(text).replace(str(self.root) + "/", "/")

    def program(self, name: str) -> str | None:
        found = shutil.which(name, path=self.env.get("PATH")) if self.live else None
        places = (str(self.path(f"{folder}/{name}")) for folder in PROGRAMS)
        return found or next((place for place in places if os.path.isfile(place) and os.access(place, os.X_OK)), None)

    def ask(self, name: str, arguments: Sequence[str]) -> tuple[int, str]:
        """Exit code and output of a program. Raises FileNotFoundError, TimeoutError."""
        program = self.program(name)
        if program is None:
            raise FileNotFoundError(name)
        code, text = run_child([program, *arguments], TIMEOUT, self.env)
        if code is None:
            how = f"did not answer in {TIMEOUT:g} s" if len(text) < LARGEST else "prints without end"
            raise TimeoutError(f"{name} {' '.join(arguments)} {how}")
        return code, text


def redacted(name: str, value: str) -> str:
    """What may be shown of a variable's value: of an address neither user and password nor what follows ? or #."""
    if SECRET.search(name):
        return HIDDEN
    found = ADDRESS.fullmatch(value)
    if found is None or re.search(r"[?#]", found[2] or ""):  # an @ after a ?: which part is secret is not clear
        return HIDDEN
    scheme, user, host, query = found.groups()
    return (scheme or "") + ("…@" if user is not None else "") + host + (f"{query[0]}…" if query else "")


def run_child(command: Sequence[str], timeout: float, env: Mapping[str, str]) -> tuple[int | None, str]:
    """Exit code (None: it did not end in `timeout` seconds) and output.

    The output goes to a file: a child that hangs in a driver would keep a pipe open for ever. It is killed with its
    own children, and not waited for beyond a second, because what hangs in a driver cannot be ended; so is one that
    prints without end.
    """
    with _buffer() as output:
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
        ends = time.monotonic() + timeout
        try:
            while code is None and time.monotonic() < ends and os.fstat(output.fileno()).st_size < LARGEST:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(0.05)
        finally:
            if code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
        output.seek(0)
        return code, output.read(LARGEST).decode("utf-8", "replace")


def _buffer() -> IO[bytes]:
    """In memory: the doctor has to work on a full or read-only disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("answer"), "w+b")
    return tempfile.TemporaryFile()
