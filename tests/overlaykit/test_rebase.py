"""apply.py rebase: what a maintainer sees when upstream moved on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from toys import BASE_MODEL, CLEAN, EVAL_YAML, OVERLAY, PATCHES, UPSTREAM, Toy, commit, git, snapshot

from overlaykit.project import read_upstream

MOVED = BASE_MODEL.replace(b"import contextlib\n", b"import contextlib\nimport os\n")
REWRITTEN = BASE_MODEL.replace(b'return "cuda:0"', b'return "cuda:1"')


def upstream_commits(toy: Toy, message: str, changes: Mapping[str, bytes | None]) -> str:
    """One more commit on upstream's branch; None deletes a file."""
    files = {**UPSTREAM, **getattr(toy, "moved", {})}
    toy.moved = {**getattr(toy, "moved", {}), **changes}  # type: ignore[attr-defined]
    files = {path: data for path, data in {**files, **changes}.items() if data is not None}
    return commit(toy.upstream, files, message, executable=["eval_configs/eval.yaml"])


def project_files(toy: Toy) -> dict[str, bytes]:
    return {
        path.relative_to(toy.project).as_posix(): path.read_bytes() for path in toy.project.rglob("*") if path.is_file()
    }


def pin(toy: Toy) -> tuple[str, str]:
    upstream = read_upstream(toy.project / "configs" / "upstream.yaml")
    return upstream.commit, upstream.result


def worktree(toy: Toy) -> Path:
    return toy.workspace / ".git" / "overlay" / "rebase-worktree"


def resolve(toy: Toy, path: str, data: bytes) -> None:
    (worktree(toy) / path).write_bytes(data)
    subprocess.run(["git", "add", path], cwd=worktree(toy), env=CLEAN, check=True)


def test_nothing_to_do_when_upstream_did_not_move(applied: Toy) -> None:
    before = project_files(applied)
    done = applied.apply("rebase")
    assert "already" in done.out
    assert project_files(applied) == before


def test_patches_that_fit_keep_every_byte_and_the_pin_moves(applied: Toy) -> None:
    before, tip = project_files(applied), applied.git("rev-parse", "overlay")
    new = upstream_commits(applied, "Write a manual", {"MANUAL.md": b"# How\n"})
    done = applied.apply("rebase")
    after = project_files(applied)
    assert pin(applied)[0] == new
    assert {path for path in after if after[path] != before.get(path)} == {"configs/upstream.yaml"}
    assert done.out.count("same") >= len(PATCHES)
    assert applied.git("rev-parse", "overlay") != tip
    assert (applied.workspace / "MANUAL.md").exists()
    assert applied.git("rev-parse", "refs/overlay/result^{tree}") == pin(applied)[1]
    assert not worktree(applied).exists()
    assert "Nothing to do" in applied.apply("apply").out
    assert "already" in applied.apply("rebase").out


def test_lines_that_moved_are_recorded_anew(applied: Toy) -> None:
    upstream_commits(applied, "Use os", {"minigpt4/base_model.py": MOVED})
    done = applied.apply("rebase")
    assert "moved" in done.out or "context" in done.out
    text = (applied.workspace / "minigpt4" / "base_model.py").read_bytes()
    assert b"import os" in text
    assert b'"auto"' in text


def test_a_conflict_names_patch_function_culprit_and_what_to_type(applied: Toy) -> None:
    upstream_commits(applied, "Write a manual", {"MANUAL.md": b"# How\n"})
    culprit = upstream_commits(applied, "Use the second card", {"minigpt4/base_model.py": REWRITTEN})
    before, project = snapshot(applied.workspace, inside_git=False), project_files(applied)
    done = applied.run("rebase")
    assert done.code == 1
    for fact in ("0001-Choose-autocast-by-device.patch", "BaseModel.device", culprit[:12], "Use the second card"):
        assert fact in done.out
    for command in (f"cd {worktree(applied)}", "git add -A -- minigpt4/base_model.py", "rebase --continue"):
        assert command in done.out
    assert "Because the toy needs it." in done.out
    assert "Write a manual" not in done.out
    assert b"|||||||" in (worktree(applied) / "minigpt4" / "base_model.py").read_bytes()
    assert snapshot(applied.workspace, inside_git=False) == before
    assert project_files(applied) == project
    assert applied.git("status", "--porcelain") == ""


def test_a_conflict_resolved_goes_on_to_the_end(applied: Toy) -> None:
    upstream_commits(applied, "Use the second card", {"minigpt4/base_model.py": REWRITTEN})
    assert applied.run("rebase").code == 1
    assert "a rebase of the patches is going on" in applied.apply("status").out
    again = applied.run("rebase")
    assert (again.code, "Use the second card" in again.out) == (1, True)
    unresolved = applied.run("rebase", "--continue")
    assert (unresolved.code, "Use the second card" in unresolved.out) == (1, True)
    resolve(applied, "minigpt4/base_model.py", REWRITTEN.replace(b'"cuda:1"', b'"auto"'))
    read = applied.run("rebase", "--continue")
    assert (read.code, "BaseModel.device" in read.out) == (
        1,
        True,
    )  # the function is another than the patch was made for
    done = applied.apply("rebase", "--continue", "--accept-drift")
    assert "resolved" in done.out
    assert (applied.workspace / "minigpt4" / "base_model.py").read_bytes().count(b'"auto"') == 1
    first = (applied.project / "patches" / "0001-Choose-autocast-by-device.patch").read_bytes()
    assert b'-        return "cuda:1"' in first
    assert b"Because the toy needs it." in first


def test_markers_and_unstaged_edits_are_refused(applied: Toy) -> None:
    upstream_commits(applied, "Use the second card", {"minigpt4/base_model.py": REWRITTEN})
    applied.run("rebase")
    marked = (worktree(applied) / "minigpt4" / "base_model.py").read_bytes()
    resolve(applied, "minigpt4/base_model.py", marked)
    done = applied.run("rebase", "--continue")
    assert (done.code, "conflict markers" in done.err) == (3, True)
    resolve(applied, "minigpt4/base_model.py", REWRITTEN)
    (worktree(applied) / "minigpt4" / "base_model.py").write_bytes(REWRITTEN + b"# more\n")
    done = applied.run("rebase", "--continue")
    assert (done.code, "not staged" in done.err) == (3, True)


def test_a_resolution_that_leaves_nothing_drops_the_patch(applied: Toy) -> None:
    upstream_commits(applied, "Use the second card", {"minigpt4/base_model.py": REWRITTEN})
    applied.run("rebase")
    resolve(applied, "minigpt4/base_model.py", REWRITTEN)
    done = applied.apply("rebase", "--continue")
    assert "dropped" in done.out
    assert not (applied.project / "patches" / "0001-Choose-autocast-by-device.patch").exists()
    assert "0001" not in (applied.project / "patches" / "series").read_text()


def test_a_patch_that_landed_is_dropped_and_its_commit_named(applied: Toy) -> None:
    landed = upstream_commits(
        applied, "Choose it by device", {"minigpt4/base_model.py": PATCHES[0][1]["minigpt4/base_model.py"]}
    )
    done = applied.apply("rebase", "--json").json
    row = done["patches"][0]
    assert (row["fate"], row["by_hand"], row["now"]) == ("landed", False, None)
    assert [culprit["commit"] for culprit in row["upstream"]] == [landed]
    assert not (applied.project / "patches" / "0001-Choose-autocast-by-device.patch").exists()
    assert "0002-Drop-what-is-old.patch" in (applied.project / "patches" / "series").read_text()


def test_a_file_that_upstream_renamed_is_followed(applied: Toy) -> None:
    upstream_commits(
        applied,
        "Move it",
        {"minigpt4/base_model.py": None, "minigpt4/core/model.py": BASE_MODEL, "minigpt4/core/__init__.py": b""},
    )
    done = applied.apply("rebase")
    assert "moved" in done.out
    assert b'"auto"' in (applied.workspace / "minigpt4" / "core" / "model.py").read_bytes()
    assert (
        b"minigpt4/core/model.py" in (applied.project / "patches" / "0001-Choose-autocast-by-device.patch").read_bytes()
    )


DRIFTED = BASE_MODEL.replace(b"    def device(self):", b"    @staticmethod\n    def device(self):")


def test_drift_stops_until_it_was_read_and_is_recorded(applied: Toy) -> None:
    culprit = upstream_commits(applied, "Rewrite around the hook", {"minigpt4/base_model.py": DRIFTED})
    project = project_files(applied)
    done = applied.run("rebase")
    assert done.code == 1
    assert "drifted" in done.out
    assert "BaseModel.device" in done.out
    assert culprit[:12] in done.out
    assert project_files(applied) == project
    assert applied.run("rebase", "--continue").code == 1
    done = applied.apply("rebase", "--continue", "--accept-drift")
    assert (
        b"Drift-Reviewed: minigpt4/base_model.py"
        in (applied.project / "patches" / "0001-Choose-autocast-by-device.patch").read_bytes()
    )
    upstream_commits(applied, "Write a manual", {"MANUAL.md": b"# How\n"})
    assert applied.run("rebase").code == 0


def test_drift_cannot_be_accepted_unseen(applied: Toy) -> None:
    upstream_commits(applied, "Rewrite around the hook", {"minigpt4/base_model.py": DRIFTED})
    assert applied.run("rebase", "--accept-drift").code == 2
    conflict = DRIFTED.replace(b'return "cuda:0"', b'return "cuda:1"')
    upstream_commits(applied, "Use the second card", {"minigpt4/base_model.py": conflict})
    assert applied.run("rebase").code == 1
    resolve(applied, "minigpt4/base_model.py", conflict.replace(b'"cuda:1"', b'"auto"'))
    unseen = applied.run("rebase", "--continue", "--accept-drift")
    assert (unseen.code, "drifted" in unseen.out) == (1, True)
    assert applied.run("rebase", "--continue", "--accept-drift").code == 0


def test_abort_leaves_everything_as_before(applied: Toy) -> None:
    upstream_commits(applied, "Use the second card", {"minigpt4/base_model.py": REWRITTEN})
    before, project = snapshot(applied.workspace, inside_git=False), project_files(applied)
    applied.run("rebase")
    assert "given up" in applied.apply("rebase", "--abort").out
    assert snapshot(applied.workspace, inside_git=False) == before
    assert project_files(applied) == project
    assert not worktree(applied).exists()
    assert applied.git("worktree", "list").count("\n") == 0
    assert applied.run("rebase", "--abort").code == 2


def test_skipping_by_hand_drops_the_patch(applied: Toy) -> None:
    upstream_commits(applied, "Use the second card", {"minigpt4/base_model.py": REWRITTEN})
    applied.run("rebase")
    subprocess.run(["git", "rebase", "--skip"], cwd=worktree(applied), env=CLEAN, check=True, capture_output=True)
    assert "dropped" in applied.apply("rebase", "--continue").out


def test_the_users_edits_survive_and_obstacles_are_refused_before_anything_is_installed(applied: Toy) -> None:
    applied.write("README.md", b"# Mine\n")
    upstream_commits(applied, "Say more", {"README.md": b"# Toy\n\nMore.\n"})
    project = project_files(applied)
    done = applied.run("rebase")
    assert (done.code, "README.md" in done.err) == (3, True)
    assert project_files(applied) == project
    assert (applied.workspace / "README.md").read_bytes() == b"# Mine\n"
    done = applied.apply("rebase", "--continue", "--force")
    assert (applied.workspace / "README.md").read_bytes() == b"# Toy\n\nMore.\n"
    assert "refs/overlay/backup" in done.out + done.err


def test_own_commits_have_to_be_exported_first(applied: Toy) -> None:
    applied.write("README.md", b"# Mine\n")
    git(applied.workspace, "commit", "-qam", "Mine")
    upstream_commits(applied, "Write a manual", {"MANUAL.md": b"# How\n"})
    done = applied.run("rebase")
    assert (done.code, "export" in done.err) == (3, True)


def test_a_file_of_the_overlay_that_upstream_has_now_is_reported(applied: Toy) -> None:
    culprit = upstream_commits(applied, "Add a script of our own", {"run_predict.py": b"print('theirs')\n"})
    project = project_files(applied)
    done = applied.run("rebase")
    assert done.code == 1
    assert "overlay/run_predict.py" in done.out
    assert culprit[:12] in done.out
    assert project_files(applied) == project
    (applied.project / "overlay" / "run_predict.py").unlink()
    applied.write_overlay({"predict.py": OVERLAY["run_predict.py"]})
    applied.apply("rebase", "--continue")
    assert (applied.workspace / "predict.py").exists()


def test_a_name_that_a_patch_takes_away_and_upstream_now_uses_has_to_be_read(applied: Toy) -> None:
    upstream_commits(applied, "Use what is old", {"fresh.py": b"from old import x\n\nprint(x)\n"})
    done = applied.run("rebase")
    assert done.code == 1
    assert "fresh.py:1" in done.out
    assert "--accept-drift" in done.out, "nothing in overlay/ or configs/ could change it"
    applied.apply("rebase", "--continue", "--accept-drift")


def test_a_key_that_moved_is_reported(applied: Toy) -> None:
    moved = EVAL_YAML.replace(b"  low_resource: True\n", b"").replace(b"run:\n", b"run:\n  low_resource: True\n")
    upstream_commits(applied, "Move a key", {"eval_configs/eval.yaml": moved})
    done = applied.run("rebase")
    assert done.code == 1
    assert "low_resource" in done.out
    assert "run.low_resource" in done.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--continue"], "No rebase is going on"),
        (["--abort"], "No rebase is going on"),
        (["--abort", "--continue"], "stands alone"),
        (["--onto", "nonsense"], "no commit, branch or tag nonsense"),
        (["--onto", "--help-me"], ""),
        (["--onto", "a b"], "not the name"),
    ],
)
def test_wrong_commands(applied: Toy, words: list[str], says: str) -> None:
    done = applied.run("rebase", *words)
    assert (done.code, says in done.err) == (2, True)


def test_patches_must_not_change_in_between(applied: Toy) -> None:
    upstream_commits(applied, "Use the second card", {"minigpt4/base_model.py": REWRITTEN})
    applied.run("rebase")
    path = applied.project / "patches" / "0001-Choose-autocast-by-device.patch"
    path.write_bytes(path.read_bytes().replace(b"Because the toy", b"For the toy"))
    done = applied.run("rebase", "--continue")
    assert (done.code, "changed since" in done.err) == (3, True)


def test_json_has_the_same_facts(applied: Toy) -> None:
    culprit = upstream_commits(applied, "Use the second card", {"minigpt4/base_model.py": REWRITTEN})
    done = applied.run("rebase", "--json")
    facts = json.loads(done.out)
    assert (facts["ok"], facts["code"], facts["outcome"]) == (False, 1, "conflict")
    (conflict,) = facts["conflicts"]
    assert conflict["function"] == "BaseModel.device"
    assert [who["commit"] for who in conflict["culprits"]] == [culprit]
