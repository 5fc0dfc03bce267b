"""apply.py check --against REF: would the series fit there? In a temporary folder; nothing is touched."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from shlex import quote

from ..explaining.conflict import Conflict, explain_conflicts
from ..gitrepo import Repo
from ..partial import fetch_to_replay
from ..patchfile import Patch
from ..plan import Request, build_project, has_pin
from ..ports.ports import check_ports
from ..project import Project, read_project
from ..sources import addresses, clone_into
from ..sterile import sterile
from ..tempfolder import temporary_folder
from ..workspace import open_workspace
from .advice import about_line_ends
from .moves import compare_moves
from .onto import find_onto, refuse_patched
from .replay import Replay, plan_course, take_files_as_they_are
from .report import RebaseOutcome, RebaseReport


def check_against(request: Request) -> RebaseReport:
    """Replay the series on `request.against`. A patch that conflicts is left out and the others go on."""
    project = read_project(request.project)
    tried = addresses(project.upstream, request.upstream)
    with temporary_folder() as scratch:
        source = _source(request, project, scratch)
        (scratch / "apart").mkdir()
        repo = sterile(source, scratch / "apart")
        with (scratch / "fetch-lock").open("wb") as lock:
            new, shown = find_onto(repo, project, request.against, tried, lock, request.say)
            fetch_to_replay(repo, source, project, new, tried, lock, request.say)
        for name in ("now", "plan", "tree", "clean"):
            (scratch / name).mkdir()
        refuse_patched(repo, build_project(repo, project, {}, scratch / "now"), new, shown)
        course = plan_course(repo, project.upstream.commit, new, project.series, scratch / "plan")
        request.say(f"Replaying {len(course.commits)} patches onto {shown}")
        replay = Replay(_with_worktree(repo, project, scratch / "tree"), course)
        skipped, conflicts = _replay_all(replay, project)
        look = _where_to_look(request, source, new)
        moves = compare_moves(repo, course, project.series, replay.result(), skipped, scratch / "clean", look)
        tip = replay.repo.line("rev-parse", "HEAD")
        ports = check_ports(repo, course.tip, tip, project.overlay, project.rules, course.old, course.new)
        # Without the patches that were left out, more is missing than upstream took away.
        ports = tuple(port for port in ports if port.culprits or not skipped)
        fits = not (conflicts or ports or any(move.drift or move.lost for move in moves))
        notes = ("patches behind a conflict, and what overlay/ needs, were tried without the patch that conflicts",)
        return RebaseReport(
            "check",
            RebaseOutcome.FITS if fits else RebaseOutcome.FITS_NOT,
            str(request.workspace.resolve()),
            shown=shown,
            old=course.old,
            new=new,
            moves=moves,
            conflicts=conflicts,
            ports=ports,
            skipped=skipped,
            notes=(*about_line_ends(conflicts), *(notes if skipped else ())),
        )


def _source(request: Request, project: Project, folder: Path) -> Repo:
    """The workspace's repository, or a clone in `folder`."""
    workspace = open_workspace(request.workspace)
    if workspace and has_pin(workspace.repo, project):
        return workspace.repo
    tried = addresses(project.upstream, request.upstream)
    with (folder / "clone-lock").open("wb") as lock:
        return clone_into(project.upstream, tried, folder / "clone", lock, request.say)


def _where_to_look(request: Request, source: Repo, new: str) -> str:
    """How a command starts that shows the new base: what was fetched for this run is gone in a moment."""
    folder = request.workspace.resolve()
    stays = source.worktree == folder and source.resolve(f"{new}^{{commit}}") != [None]
    return f"git -C {quote(str(folder))}" if stays else "in a clone of upstream: git"


def _with_worktree(repo: Repo, project: Project, folder: Path) -> Repo:
    """Nobody will look into it, so it holds no more than the files that patches change."""
    paths = {change.path for patch in project.series for change in patch.files}
    (repo.git_dir / "info").mkdir(exist_ok=True)
    escaped = [re.sub(r"([][*?!#\\ ])", r"\\\1", path) for path in sorted(paths)]
    patterns = "".join(f"/{path}\n" for path in escaped)
    (repo.git_dir / "info" / "sparse-checkout").write_text(patterns, encoding="utf-8", errors="surrogateescape")
    repo.git("config", "core.sparseCheckout", "true")
    take_files_as_they_are(repo)
    return replace(repo, worktree=folder)


def _replay_all(replay: Replay, project: Project) -> tuple[tuple[str, ...], tuple[Conflict, ...]]:
    skipped: list[Patch] = []
    conflicts: list[Conflict] = []
    replay.start()
    while replay.at_work:
        patch = project.series[replay.patch]
        conflicts += explain_conflicts(replay.repo, patch, replay.course.old, replay.course.new, skipped)
        skipped.append(patch)
        replay.skip()
    return tuple(patch.name for patch in skipped), tuple(conflicts)
