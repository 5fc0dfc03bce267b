"""What git may see of a repository whose settings nobody vouches for: objects, refs, and facts.

A .git/config can name programs to run (filter.*, core.fsmonitor, core.sshCommand, gpg.program, …) and ways to
convert bytes, in more keys with every release; .git/hooks holds programs too. Overriding those that are known would
not be enough. So git gets another common directory (GIT_COMMON_DIR): its config file holds a few facts and nothing
else, and refs, objects and what else is no setting are links to the real ones. HEAD and the index are never read
from there.
"""

from __future__ import annotations

import atexit
import os
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path

from .gitrun import execute, isolated, quoted
from .tempfolder import temporary_folder

_FACTS = re.compile(
    rb"core\.(bare|checkstat|filemode|ignorecase|logallrefupdates|repositoryformatversion|sharedrepository"
    rb"|sparsecheckout|symlinks|trustctime)"
    # These two extensions would let git fetch what is missing, and read a second configuration.
    rb"|extensions\.(?!partialclone$|worktreeconfig$)[a-z]+"
)
_LINKS = ("objects", "packed-refs", "refs", "shallow")  # also before they are there: git locks what a link points to
_LINKS_IF_THERE = ("info/attributes", "info/exclude", "logs", "reftable")
_made: dict[Path, tuple[object, Path]] = {}
_root: list[Path] = []
_at_exit = ExitStack()
atexit.register(_at_exit.close)


def common_dir(git_dir: Path) -> Path | None:
    """The common directory to show to git for `git_dir`; None where there is no repository yet."""
    if not os.path.lexists(git_dir / "HEAD"):
        return None
    real = _real_common_dir(git_dir)
    watched = (real / "config", git_dir / "config.worktree", *(real / name for name in _LINKS_IF_THERE))
    watched = (*watched, git_dir / "info" / "attributes")
    seen = tuple(_stamp(path) for path in watched)
    if git_dir not in _made or _made[git_dir][0] != seen:
        _made[git_dir] = seen, _make(git_dir, real)
    return _made[git_dir][1]


def _make(git_dir: Path, real: Path) -> Path:
    if not _root:
        _root.append(_at_exit.enter_context(temporary_folder()))
    folder = Path(tempfile.mkdtemp(dir=_root[0]))
    (folder / "info").mkdir()
    (folder / "config").write_bytes(_configuration(git_dir))
    for name in (*_LINKS, *(name for name in _LINKS_IF_THERE if (real / name).exists())):
        (folder / name).symlink_to(real / name)
    own = git_dir / "info" / "attributes"  # which git would not look for: a worktree of ours, see rebasing
    if git_dir != real and own.exists():
        (folder / "info" / "attributes").unlink(missing_ok=True)
        (folder / "info" / "attributes").symlink_to(own)
    return folder


def _configuration(git_dir: Path) -> bytes:
    """The facts among the settings, as a config file. An unreadable configuration is left to git's own words."""
    command = ["config", "-z", "--get-regexp", r"^(core|extensions)\."]
    asked = execute(command, git_dir, isolated(GIT_DIR=str(git_dir)))
    lines = []
    for row in asked.output.split(b"\0")[:-1]:
        key, given, value = row.partition(b"\n")
        if _FACTS.fullmatch(key):
            section, _, name = key.partition(b".")
            lines.append(b"[%s]\n\t%s = %s\n" % (section, name, quoted(value) if given else b"true"))
    return b"".join(lines)


def _real_common_dir(git_dir: Path) -> Path:
    try:
        named = os.fsdecode((git_dir / "commondir").read_bytes().rstrip(b"\n"))
    except FileNotFoundError:
        return git_dir
    return Path(os.path.normpath(git_dir / named))


def _stamp(path: Path) -> object:
    try:
        about = path.stat()
    except OSError:
        return None
    return (about.st_mtime_ns, about.st_size, about.st_ino) if path.name.startswith("config") else True
