"""apply.py check --against REF: the answer for CI, with nothing touched."""

from __future__ import annotations

from test_rebase import DRIFTED, REWRITTEN, project_files, upstream_commits
from toys import EVAL_YAML, PATCHES, Toy, git, snapshot


def untouched(toy: Toy) -> dict[str, object]:
    """All but the dates of git's objects, which git renews when it makes the same object elsewhere."""
    return {
        name: about[2] if name.startswith(".git/objects/") else about for name, about in snapshot(toy.workspace).items()
    }


def test_patches_that_fit(applied: Toy) -> None:
    upstream_commits(applied, "Write a manual", {"MANUAL.md": b"# How\n"})
    before, project = untouched(applied), project_files(applied)
    done = applied.apply("check", "--against", "main")
    assert "would fit main at" in done.out
    assert done.out.count("  same ") == 2
    assert untouched(applied) == before
    assert project_files(applied) == project


def test_every_patch_is_tried_also_behind_one_that_conflicts(applied: Toy) -> None:
    culprit = upstream_commits(applied, "Use the second card", {"minigpt4/base_model.py": REWRITTEN})
    before = untouched(applied)
    done = applied.run("check", "--against", "main", "--json")
    assert done.code == 1
    assert [row["fate"] for row in done.json["patches"]] == ["conflict", "same"]
    (conflict,) = done.json["conflicts"]
    assert (conflict["function"], conflict["culprits"][0]["commit"]) == ("BaseModel.device", culprit)
    assert untouched(applied) == before


def test_what_a_patch_that_was_left_out_would_have_made_is_not_upstreams_doing(toy: Toy) -> None:
    later = {"minigpt4/hook.py": b"HOOK = False\n", "demo.py": b"print('more')\n"}
    toy.make_patches([*PATCHES, ("Change the hook", later)])
    toy.apply("lock")
    toy.apply()
    yaml = EVAL_YAML.replace(b"arch: minigpt4  # the architecture", b"arch: minigpt5")
    culprit = upstream_commits(toy, "Name the fifth", {"eval_configs/eval.yaml": yaml})
    facts = toy.run("check", "--against", "main", "--json").json
    assert [row["fate"] for row in facts["patches"]] == ["same", "conflict", "conflict"]
    theirs, *others = facts["conflicts"]
    assert (theirs["kind"], theirs["culprits"][0]["commit"]) == ("content", culprit)
    assert [(each["path"], each["kind"], each["culprits"]) for each in others] == [
        ("demo.py", "left_out", []),
        ("minigpt4/hook.py", "left_out", []),
    ]
    assert all("0002-Drop-what-is-old.patch was left out" in each["hint"] for each in others)
    assert facts["ports"] == []  # model.encoder is missing for want of that patch


def test_drift_does_not_fit(applied: Toy) -> None:
    upstream_commits(applied, "Rewrite around the hook", {"minigpt4/base_model.py": DRIFTED})
    done = applied.run("check", "--against", "main")
    assert (done.code, ", drifted" in done.out, "BaseModel.device" in done.out) == (1, True, True)


def test_how_to_see_drift_is_said_for_where_the_commits_are(applied: Toy) -> None:
    new = upstream_commits(applied, "Rewrite around the hook", {"minigpt4/base_model.py": DRIFTED})
    assert "see: in a clone of upstream: git " in applied.run("check", "--against", "main").out
    applied.git("fetch", "-q", str(applied.upstream), "+refs/heads/*:refs/remotes/origin/*")
    assert f"see: git -C {applied.workspace} " in applied.run("check", "--against", new).out


def test_without_a_workspace_a_clone_passes(toy: Toy) -> None:
    new = upstream_commits(toy, "Write a manual", {"MANUAL.md": b"# How\n"})
    done = toy.apply("check", "--against", new[:10])
    assert f"would fit {new[:12]}" in done.out
    assert not toy.workspace.exists()


def test_a_tag_of_upstream(applied: Toy) -> None:
    upstream_commits(applied, "Use the second card", {"minigpt4/base_model.py": REWRITTEN})
    git(applied.upstream, "tag", "v2")
    assert applied.run("check", "--against", "v2").code == 1


def test_what_upstream_does_not_have(applied: Toy) -> None:
    done = applied.run("check", "--against", "v3")
    assert (done.code, "no commit, branch or tag v3" in done.err) == (2, True)


def test_upstream_out_of_reach(applied: Toy) -> None:
    applied.upstream.rename(applied.upstream.with_name("gone"))
    done = applied.run("check", "--against", "main")
    assert (done.code, "could not be had" in done.err) == (5, True)


def test_a_plain_check_is_as_before(applied: Toy) -> None:
    assert "Nothing to do" in applied.apply("check").out
