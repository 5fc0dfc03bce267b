"""Where upstream comes from: the network, a mirror, a folder or a bundle. Clone, fetch, and say what was tried."""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import IO, Callable

from .errors import FixTheCommand, FixTheProjectFile, ReachTheUpstream, SaveYourWork
from .gitrepo import Repo, decode
from .gitrun import GitResult, execute_showing_progress
from .project import Upstream
from .tempfolder import temporary_folder
from .transfer import fetch_from, last_words

CLONING = ".overlay-clone"  # inside the workspace, while it is made

_ZIP_WHY = "A downloaded archive holds the files but not the commits, and patches are applied to commits."
_ZIP_FIX = (
    "Use a clone, a mirror's URL, or a bundle. On a machine with network:\n"
    "  git clone --mirror {url} MiniGPT-4.git && git -C MiniGPT-4.git bundle create ../MiniGPT-4.bundle --all\n"
    "then copy the one file here and pass --upstream MiniGPT-4.bundle"
)


def addresses(upstream: Upstream, asked: str | None) -> tuple[str, ...]:
    """What to try, in order: only what the user asked for, or else the pinned URL and its mirrors."""
    return (check_address(asked, upstream.url),) if asked else (upstream.url, *upstream.mirrors)


def check_address(asked: str, url: str) -> str:
    """`asked` as git can use it from any folder. Raises FixTheCommand for what can never work, with the reason."""
    if asked.startswith("-"):
        raise FixTheCommand(f"--upstream {asked} looks like an option.", fix="Write ./ in front of a path.")
    path = Path(asked).expanduser()
    if not path.exists():
        if "://" in asked or (":" in asked and not asked.startswith((".", "/", "~"))):
            return asked
        raise FixTheCommand(f"--upstream {asked}: there is no such file or folder.", fix="Check the path.")
    path = path.resolve()
    fix = _ZIP_FIX.format(url=url)
    if path.is_file():
        with path.open("rb") as file:
            bundle = file.read(16).startswith((b"# v2 git bundle", b"# v3 git bundle"))
        if not bundle and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
            raise FixTheCommand(f"--upstream {asked} is a downloaded archive.", _ZIP_WHY, fix)
        if not bundle:
            raise FixTheCommand(f"--upstream {asked} is not a git bundle.", fix=fix)
    elif not (path / ".git").exists() and not ((path / "HEAD").is_file() and (path / "objects").is_dir()):
        raise FixTheCommand(f"--upstream {asked} holds no git repository, e.g. it is an unpacked ZIP.", _ZIP_WHY, fix)
    return str(path)


@dataclass(frozen=True)
class Failure:
    address: str
    reason: str


def is_free(folder: Path) -> bool:
    """True where `clone` may work: nothing is there, or an empty folder, or what a killed clone left."""
    if not os.path.lexists(folder):
        return True
    if not folder.is_dir() or os.path.lexists(folder / ".git"):
        return False
    return (folder / CLONING / "done").exists() or all(path.name == CLONING for path in folder.iterdir())


def clone(upstream: Upstream, tried: tuple[str, ...], target: Path, say: Callable[[str], None]) -> None:
    """Clone into `target`, which `is_free`. Its .git comes last: before that it is no workspace.

    Everything happens inside `target`: it may be a mount point, and its parent may not be ours to write to.
    """
    existed, inside = target.exists(), target / CLONING
    try:
        inside.mkdir(parents=True, exist_ok=True)
        lock = (inside / "lock").open("wb")
    except OSError as error:
        fix = f"Choose another --workspace, or make the folder yours: sudo install -d -o $(id -u) {quote(str(target))}"
        raise FixTheCommand(f"{target} cannot be written to.", f"{error.filename}: {error.strerror}", fix) from error
    with lock:
        # The clone inherits the lock: while a git lives that a killed run left behind, nobody starts a second one.
        take_lock(lock, f"Another run is cloning into {target}.", say)
        try:
            if not (inside / "done").exists():
                clone_into(upstream, tried, inside / "repo", lock, say)
                os.replace(inside / "repo", inside / "done")
            _move_into_place(inside / "done", target)
        finally:
            if os.path.lexists(target / ".git") or not (inside / "done").exists():
                shutil.rmtree(inside, ignore_errors=True)  # after Ctrl-C git may still be removing files itself
                if not existed and not any(target.iterdir()):
                    target.rmdir()


def _move_into_place(done: Path, target: Path) -> None:
    for path in sorted(done.iterdir(), key=lambda path: path.name == ".git"):
        if os.path.lexists(target / path.name):
            raise SaveYourWork(f"{target / path.name} appeared while upstream was cloned.", fix="Move it elsewhere.")
        os.replace(path, target / path.name)


def clone_into(
    upstream: Upstream, tried: tuple[str, ...], folder: Path, lock: IO[bytes], say: Callable[[str], None]
) -> Repo:
    """Clone from the first address that has the pinned commit, sparse, with upstream's branch checked out."""
    failures = []
    for address in tried:
        shutil.rmtree(folder, ignore_errors=True)
        say(f"Cloning {address}")
        args = ["clone", "--no-checkout", "--origin", "origin", "--", address, str(folder)]
        result = execute_showing_progress(args, folder.parent, {}, lock)
        repo = Repo(folder / ".git", folder)
        if result.status == 0 and repo.has_whole(upstream.commit):
            _check_out(repo, upstream)
            return repo
        failures.append(Failure(address, _reason(result, upstream)))
    shutil.rmtree(folder, ignore_errors=True)
    raise unreachable(upstream, failures)


def fetch(repo: Repo, upstream: Upstream, tried: tuple[str, ...], lock: IO[bytes], say: Callable[[str], None]) -> None:
    """Fetch the pinned commit into an existing repository; moves no branch of the user's."""
    failures = []
    for address in tried:
        say(f"Fetching from {address}")
        for refspec in ("+refs/heads/*:refs/overlay/upstream/*", f"+{upstream.commit}:refs/overlay/upstream/pin"):
            result = fetch_from(repo, address, refspec, lock=lock)
            if repo.has_whole(upstream.commit):
                return
        failures.append(Failure(address, _reason(result, upstream) + _not_used(repo)))
    raise unreachable(upstream, failures)


def _not_used(repo: Repo) -> str:
    """The repository's own settings for the network, which may be what the user wanted."""
    keys = r"^((http|url|credential)\..*|core\.(sshcommand|gitproxy|askpass)|remote\..*\.(proxy|uploadpack))$"
    found = decode(repo.status_of("config", "--name-only", "--get-regexp", keys).output).split()
    listed = ", ".join(dict.fromkeys(found))
    return f" (not used, as they could run programs: {listed} of this clone; use git config --global)" if found else ""


def fetch_heads(
    repo: Repo,
    tried: tuple[str, ...],
    asked: str,
    into: str,
    lock: IO[bytes],
    say: Callable[[str], None],
) -> None:
    """Fetch all branches to refs below `into`, and `asked` (a tag or commit) to `into`asked where it is no branch."""
    failures = []
    for address in tried:
        say(f"Fetching from {address}")
        result = fetch_from(repo, address, f"+refs/heads/*:{into}*", lock=lock)
        if result.status == 0:
            if repo.resolve(f"{into}{asked}") == [None]:  # not a branch: whether it is there is seen afterwards
                fetch_from(repo, address, f"+{asked}:{into}asked", lock=lock)
            return
        failures.append(Failure(address, last_words(result)))
    listed = "\n".join(f"  {failure.address}\n    {failure.reason}" for failure in failures)
    fix = "Pass --upstream with what you can reach, or the id of a commit that this clone already has."
    raise ReachTheUpstream("Upstream's branches could not be had from any address.", f"Tried:\n{listed}", fix)


def refuse_names(repo: Repo, commit: str) -> None:
    """Raise FixTheProjectFile for a commit with file names that git never writes: `.git/config` and what looks so."""
    with temporary_folder() as folder:
        told = repo.having(GIT_INDEX_FILE=str(folder / "index")).status_of("read-tree", "-n", commit)
    if told.status:
        why = f"{told.error.strip()}: a file of that name could replace git's own."
        fix = "If it is in overlay/ or in a patch, rename it; if it is upstream's, pin another commit."
        raise FixTheProjectFile(f"The tree of {commit} cannot be checked out.", why, fix)


def unreachable(upstream: Upstream, failures: list[Failure]) -> ReachTheUpstream:
    tried = "\n".join(f"  {failure.address}\n    {failure.reason}" for failure in failures)
    return ReachTheUpstream(
        f"Upstream's commit {upstream.commit[:12]} could not be had from any address.",
        f"Tried:\n{tried}",
        "Pass --upstream with what you can reach: a mirror's URL, a folder with a clone, or a git bundle.\n"
        + _ZIP_FIX.format(url=upstream.url).partition("\n")[2],
    )


def take_lock(lock: IO[bytes], what: str, say: Callable[[str], None]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SaveYourWork(what, "Two at once would spoil each other's work.", "Wait until it is done.") from error
    except OSError as error:  # some network file systems
        say(f"This file system has no locks ({error.strerror}): start no second run until this one is done.")


def is_locked(path: Path) -> bool:
    """True while a run holds the lock. Only looks."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no run yet, or no locks here
        pass
    return False


def _check_out(repo: Repo, upstream: Upstream) -> None:
    """Upstream's branch at its newest commit, or the pin where the clone has no such branch (some bundles)."""
    if upstream.exclude:
        patterns = ["/*", *(f"!/{path.lstrip('/')}" for path in upstream.exclude)]
        (repo.git_dir / "info").mkdir(exist_ok=True)
        (repo.git_dir / "info" / "sparse-checkout").write_text("\n".join(patterns) + "\n", encoding="utf-8")
        repo.git("config", "core.sparseCheckout", "true")
        repo.git("config", "core.sparseCheckoutCone", "false")
    newest = f"refs/remotes/origin/{upstream.branch}"
    known = repo.resolve(f"{newest}^{{commit}}") != [None]
    refuse_names(repo, newest if known else upstream.commit)
    if known:
        repo.git("checkout", "--quiet", "--no-track", "-B", upstream.branch, newest)
        repo.git("config", f"branch.{upstream.branch}.remote", "origin")
        repo.git("config", f"branch.{upstream.branch}.merge", f"refs/heads/{upstream.branch}")
    else:
        repo.git("checkout", "--quiet", "--no-track", "-B", upstream.branch, upstream.commit)


def _reason(result: GitResult, upstream: Upstream) -> str:
    """git's own words, for people; its last line says what failed."""
    if result.status == 0:
        return f"was read, but does not hold commit {upstream.commit}: it is another project or an old copy"
    return last_words(result)
