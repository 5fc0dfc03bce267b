"""The series replayed on another commit: a real `git rebase --onto`, in a worktree that is not the user's.

git's rebase wants the contents of every file. Mirrors and partial clones lack some (pictures, a PDF), so where any
is missing the bases are commits without those files; the patches do not touch them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..build import build
from ..configs import Rules
from ..errors import OverlayError
from ..gitrepo import AUTHOR, WHO, GitFailed, Repo, decode
from ..gitrun import git_version
from ..journal import refuse_locks
from ..patchfile import Patch

NOBODY = {**WHO, "GIT_EDITOR": "true", "GIT_SEQUENCE_EDITOR": "true"}  # nothing is asked
_DATE = "1700000000 +0000"  # of the commits that stand for a base: they are seen in this worktree only
# What lies in the worktree is what git stores: else files that break upstream's own .gitattributes count as edited.
_AS_THEY_ARE = "* -text -filter -ident !eol !working-tree-encoding !merge !diff !conflict-marker-size\n"
_NO_RULES = Rules({}, ())


@dataclass(frozen=True)
class Course:
    """Where the series comes from and where it goes. All are commits."""

    old: str  # of upstream
    new: str
    start: str  # `old` and `new`, or the same without the files that this clone lacks
    onto: str
    commits: tuple[str, ...]  # one per patch, on `start`

    @property
    def tip(self) -> str:
        return self.commits[-1] if self.commits else self.start


@dataclass(frozen=True)
class Resolution:
    """A conflict that the user resolved: when the same commit stops on the same tree, `tree` is what they made."""

    commit: str
    on: str
    tree: str


def plan_course(repo: Repo, old: str, new: str, series: Sequence[Patch], scratch: Path) -> Course:
    """The series as commits on `old`. Raises what `build` raises where it does not fit there."""
    start, onto = (_without_missing(repo, commit, scratch / f"index-{at}") for at, commit in enumerate((old, new)))
    inner = scratch / "course"
    inner.mkdir()
    built = build(repo, start, tuple(series), {}, _NO_RULES, {}, inner)
    return Course(old, new, start, onto, tuple(commit.id for commit in built.patches))


@dataclass(frozen=True)
class Replay:
    """`repo` is a worktree for this alone, with a detached HEAD."""

    repo: Repo
    course: Course

    def start(self) -> None:
        """Replay from the beginning, up to the first conflict or the end."""
        self.repo.git("reset", "--quiet", "--hard", self.course.tip)
        self._rebase(*("--merge", "--quiet", "--empty=drop", "--no-autosquash", "--no-autostash", "--no-verify"),
                     *("--no-rebase-merges", "--no-gpg-sign", "--no-stat"),
                     *("--onto", self.course.onto, self.course.start))  # fmt: skip

    def skip(self) -> None:
        """Go on without the patch that does not fit."""
        self._rebase("--skip")

    @property
    def at_work(self) -> bool:
        """True between a conflict and the end."""
        return (self.repo.git_dir / "rebase-merge").is_dir()

    @property
    def stopped_at(self) -> str | None:
        """The commit of `course` that does not fit, None at the end."""
        if not self.at_work:
            return None
        try:
            short = (self.repo.git_dir / "rebase-merge" / "stopped-sha").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        return self.repo.resolve(f"{short}^{{commit}}")[0]

    @property
    def unmerged(self) -> tuple[str, ...]:
        rows = self.repo.git("ls-files", "--unmerged", "-z").split(b"\0")[:-1]
        return tuple(dict.fromkeys(decode(row.partition(b"\t")[2]) for row in rows))

    @property
    def patch(self) -> int:
        """Which patch does not fit; its number in the course."""
        return self.course.commits.index(self.stopped_at or "")

    def resolution(self) -> Resolution:
        """What the user staged for the commit that stopped."""
        return self._resolution(self.repo.write_tree())

    def given_up(self) -> Resolution:
        """That nothing is left of the commit that stopped."""
        return self._resolution(self._tree_of_head())

    def resolved_before(self, known: Sequence[Resolution]) -> Resolution | None:
        """What the user made of the same conflict in an earlier attempt; None where it is a new one."""
        here = (self.stopped_at, self._tree_of_head())
        return next((resolution for resolution in known if (resolution.commit, resolution.on) == here), None)

    def take(self, resolution: Resolution) -> None:
        """Resolve the conflict so, and go on up to the next one or the end."""
        if resolution.tree == self._tree_of_head():
            return self.skip()
        self.repo.git("read-tree", "--reset", "-u", resolution.tree)
        # Not by `git rebase --continue`, which would take lines of the message that start with # for comments.
        options = ("--quiet", "--no-verify", "--no-gpg-sign", "--cleanup=verbatim")
        self.repo.git("commit", *options, f"--reuse-message={resolution.commit}", env=NOBODY)
        return self._rebase("--continue")

    def _resolution(self, tree: str) -> Resolution:
        return Resolution(self.stopped_at or "", self._tree_of_head(), tree)

    def result(self) -> tuple[str, ...]:
        """The replayed commits, oldest first, those of the user's own among them."""
        return tuple(self.repo.line("rev-list", "--reverse", "--first-parent", f"{self.course.onto}..HEAD").split())

    def require_same(self, made: str) -> None:
        """The rule that nothing may be installed without: what the written patches give is what was replayed.

        Files that this clone lacks are in `made`, and not here.
        """
        ours, theirs = self.repo.tree(made), self.repo.tree("HEAD")
        present = dict(zip(ours, self.repo.resolve(*(entry.id for entry in ours.values())))) if ours else {}
        differ = [path for path in sorted(ours.keys() | theirs.keys()) if ours.get(path) != theirs.get(path)]
        differ = [path for path in differ if path in theirs or present[path]]
        if differ:
            what = "The patches that were written do not give the tree that was replayed; nothing was installed."
            raise OverlayError(what, f"They differ in {', '.join(differ[:5])}.", "Please report it with the patches.")

    def _tree_of_head(self) -> str:
        return self.repo.resolve("HEAD^{tree}")[0] or ""

    def _rebase(self, *args: str) -> None:
        style = "zdiff3" if git_version() >= (2, 35) else "diff3"
        settings = {
            "merge.conflictStyle": style,
            "merge.renames": "true",
            "merge.directoryRenames": "conflict",
            "commit.gpgSign": "false",
            "commit.cleanup": "verbatim",
            "rebase.updateRefs": "false",
            "rebase.missingCommitsCheck": "ignore",
            "rebase.instructionFormat": "%s",
            "rerere.enabled": "false",
            "sequence.editor": "true",
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        done = self.repo.status_of(*options, "rebase", *args, env=NOBODY)
        if done.status and not self.unmerged:
            # A git that was killed while it deleted a ref leaves this lock in the user's own repository.
            common = Path(self.repo.line("rev-parse", "--path-format=absolute", "--git-common-dir"))
            refuse_locks([common / "packed-refs.lock"])
            raise GitFailed(f"git rebase failed in {self.repo.worktree}", done.error.strip())


def make_worktree(repo: Repo, folder: Path, commit: str) -> Repo:
    """A linked worktree at `folder`, sparse as the user's is, and detached."""
    repo.git("worktree", "add", "--force", "--no-checkout", "--detach", str(folder), commit)
    linked = open_worktree(folder)
    assert linked is not None
    copy_sparse(repo.git_dir / "info" / "sparse-checkout", linked)
    take_files_as_they_are(linked)
    linked.git("reset", "--quiet", "--hard", commit)
    return linked


def copy_sparse(patterns: Path, linked: Repo) -> None:
    """Leave out of the new worktree what the other leaves out; whether that counts is the repository's setting."""
    if patterns.is_file():
        (linked.git_dir / "info").mkdir(exist_ok=True)
        shutil.copyfile(patterns, linked.git_dir / "info" / "sparse-checkout")


def take_files_as_they_are(repo: Repo) -> None:
    """Convert nothing and run no merge driver in a worktree that is not the user's."""
    (repo.git_dir / "info").mkdir(exist_ok=True)
    (repo.git_dir / "info" / "attributes").write_text(_AS_THEY_ARE, encoding="ascii")


def open_worktree(folder: Path) -> Repo | None:
    """The linked worktree at `folder`, None where there is none that works."""
    try:
        about = (folder / ".git").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    git_dir = Path(about.partition("gitdir: ")[2].rstrip("\n"))
    return Repo(git_dir, folder) if (git_dir / "HEAD").is_file() else None


def remove_worktree(repo: Repo, folder: Path) -> None:
    """Remove a linked worktree and what git knows of it, whatever state a kill left it in.

    Not by `git worktree prune`, which would forget other worktrees of the user's whose disk is not mounted.
    """
    shutil.rmtree(folder, ignore_errors=True)
    common = Path(repo.line("rev-parse", "--path-format=absolute", "--git-common-dir"))
    for about in (common / "worktrees").glob("*/gitdir"):
        if about.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n") == str(folder / ".git"):
            shutil.rmtree(about.parent)


def _without_missing(repo: Repo, commit: str, index: Path) -> str:
    """`commit`, or one without the files whose contents this clone lacks."""
    files = repo.tree(commit)
    present = repo.resolve(*(entry.id for entry in files.values())) if files else []
    missing: Mapping[str, None] = dict.fromkeys(path for path, blob in zip(files, present) if blob is None)
    if not missing:
        return commit
    private = repo.having(GIT_INDEX_FILE=str(index))
    private.git("read-tree", commit)
    private.update_index(missing)
    listed = "".join(f"  {path}\n" for path in missing)
    message = (
        f"Upstream {commit[:12]}, as far as this clone has it\n\nLeft out, for their contents are absent:\n{listed}"
    )
    return repo.commit(private.write_tree(), [], message, AUTHOR, _DATE)
