"""Several files of the project replaced together or not at all, whenever the run may be killed.

Everything is staged in one folder first, the old bytes too. Its rename to its final name is the point of no return:
from then on the next run that writes finishes the job, or undoes it when asked to.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from .errors import FixTheCommand, OverlayError, SaveYourWork, TryAgain
from .gitrepo import GitFailed
from .journal import beside, write_file
from .report import how_to_call

STAGED = ".overlay-install"
_STAGING = ".overlay-install.new"
VERSION = 1


@dataclass(frozen=True)
class _File:
    """One file of an install; the bytes lie in the staging folder under its number. None: there is no file."""

    path: str
    new: str | None
    old: str | None
    old_mode: int


def pending(root: Path) -> bool:
    """True while files of the project are being replaced, or a run that did so was killed."""
    return (root / STAGED).exists()


def refuse_pending(root: Path) -> None:
    """Raise TryAgain in the middle of an install."""
    if pending(root):
        raise TryAgain(
            f"The files of {root} are being replaced, or the run that did so was interrupted.",
            "Some of them are old and some new, so they say nothing yet.",
            f"If no run is at work, finish it: {how_to_call()} export\nor undo it: {how_to_call()} rebase --abort",
        )


def install(root: Path, files: Mapping[str, bytes | None], seen: Mapping[str, bytes | None]) -> None:
    """Give the project at `root` these files: relative paths and new bytes; None deletes.

    `seen`: what the run read there and built on, None for no file. Raises SaveYourWork, with nothing changed, where
    a file holds something else by now, and TryAgain while another run writes.
    """
    with _locked(root):
        _finish(root)
        for path, expected in {**dict.fromkeys(files), **seen}.items():
            check_inside(root, path)
            if path in seen and _read(root / path) != expected:
                what = f"{root / path} was changed while this ran; nothing was written."
                raise SaveYourWork(what, fix="Run this again.")
        changed = {path: new for path, new in files.items() if _read(root / path) != new}
        for path in changed:
            _check_kind(root, path, changed)
        if changed:
            _stage(root, changed)
            try:
                _finish(root)
            except OSError:  # a full disk, missing permissions
                with suppress(OSError, OverlayError):  # then the next run decides
                    _settle(root, new=False)
                raise


def finish_install(root: Path) -> bool:
    """Finish what a killed run began. True when there was something to finish."""
    with _locked(root):
        return _finish(root)


def undo_install(root: Path) -> bool:
    """Put back what a killed run began to replace. True when there was something to undo."""
    with _locked(root):
        return _settle(root, new=False)


def _finish(root: Path) -> bool:
    return _settle(root, new=True)


def _stage(root: Path, files: Mapping[str, bytes | None]) -> None:
    folder = root / _STAGING
    folder.mkdir()
    entries = []
    for number, (path, new) in enumerate(files.items()):
        old = _read(root / path)
        mode = (root / path).stat().st_mode & 0o777 if old is not None else 0
        names = [f"{number}.{side}" if data is not None else None for side, data in (("new", new), ("old", old))]
        for name, data in zip(names, (new, old)):
            if name and data is not None:
                _write_through(folder / name, data)
        entries.append(_File(path, names[0], names[1], mode))
    plan = {"version": VERSION, "files": [asdict(entry) for entry in entries]}
    _write_through(folder / "plan.json", json.dumps(plan, indent=1).encode())
    _sync(folder)
    os.rename(folder, root / STAGED)
    _sync(root)


def _settle(root: Path, new: bool) -> bool:
    """Go on to the new bytes or back to the old ones, from wherever a run was killed. Also removes half a staging."""
    shutil.rmtree(root / _STAGING, ignore_errors=True)
    if not pending(root):
        return False
    folder = root / STAGED
    entries = _read_plan(folder)
    for entry in entries:
        _refuse_edited(root, folder, entry)
    for entry in sorted(entries, key=lambda entry: bool(entry.new if new else entry.old)):  # a folder may become a file
        wanted = entry.new if new else entry.old
        beside(root / entry.path).unlink(missing_ok=True)
        _put(root, entry.path, (folder / wanted).read_bytes() if wanted else None, 0 if new else entry.old_mode)
    os.rename(folder, root / _STAGING)  # at one stroke; half a folder would be unreadable
    _sync(root)
    shutil.rmtree(root / _STAGING)
    return True


def _read_plan(folder: Path) -> list[_File]:
    try:
        plan = json.loads((folder / "plan.json").read_bytes())
        if plan["version"] != VERSION:
            raise ValueError("it was written by another version")
        return [_File(**entry) for entry in plan["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaveYourWork(
            f"{folder} cannot be read, so what an interrupted run left cannot be finished or undone.",
            str(error),
            f"Compare the project with its last commit (git diff), set right what is wrong, then remove {folder}.",
        ) from error


def _refuse_edited(root: Path, folder: Path, entry: _File) -> None:
    """Raise SaveYourWork where the file holds neither the old nor the new bytes: then someone edited it since."""
    check_inside(root, entry.path)
    sides = [(folder / name).read_bytes() if name else None for name in (entry.old, entry.new)]
    if _read(root / entry.path) not in sides:
        raise SaveYourWork(
            f"{root / entry.path} was edited after the run that replaces it was interrupted.",
            "It holds neither the old nor the new content, so going on or back would lose your edit.",
            "Move your version elsewhere and run this again.",
        )


def _put(root: Path, path: str, data: bytes | None, mode: int) -> None:
    target = root / path
    if data is None:
        target.unlink(missing_ok=True)
        _remove_empty_parents(root, path)
    elif _read(target) != data:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, data, sync=True)
        if mode:
            target.chmod(mode)


def _remove_empty_parents(root: Path, path: str) -> None:
    """As git does: a folder whose last file goes, goes too; but not the project's own (patches, overlay, configs)."""
    for parent in (root / path).parents:
        if parent.parent == root or not parent.is_dir() or any(parent.iterdir()):
            return
        parent.rmdir()


def check_inside(root: Path, path: str) -> None:
    """Raise FixTheCommand for a path that leads out of the folders of the project, perhaps through a link."""
    parts = PurePosixPath(path).parts
    inside = "/".join(parts) == path and not path.startswith("/") and ".." not in parts and len(parts) > 1
    if not inside or (root / path).parent.resolve() != root.resolve().joinpath(*parts[:-1]):
        raise FixTheCommand(f"{root / path} leads out of the project.", "A link may stand on its way.")


def _check_kind(root: Path, path: str, files: Mapping[str, bytes | None]) -> None:
    """Raise SaveYourWork where a link stands, or a folder in which something would be left."""
    target = root / path
    with suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(beside(target))  # fails for a name too long to be written; better now than half way
    left = [file for file in target.rglob("*") if not file.is_dir() and files.get(_name(root, file), b"") is not None]
    if target.is_symlink() or left or (target.is_dir() and files[path] is None):
        what = f"{left[0] if left else target} is in the way; nothing was written."
        raise SaveYourWork(what, "A plain file has to be written or deleted there.", "Move it elsewhere.")


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One install at a time; the lock dies with its holder. Names the file where the disk is full or locked away."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TryAgain(f"Another run is writing to {root}.", fix="Wait until it is done.") from error
        except OSError:  # a file system without locks
            pass
        yield
    except OSError as error:
        raise GitFailed(f"{error.filename or 'The system'}: {error.strerror}") from error
    finally:
        os.close(descriptor)
