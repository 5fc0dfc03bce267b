"""Editing upstream's YAML by hand stays a legitimate way to configure, before and after apply."""

from __future__ import annotations

import os

import pytest
from toys import Toy, git, snapshot

YAML = "eval_configs/eval.yaml"


def edit(toy: Toy, old: bytes, new: bytes) -> None:
    data = toy.read(YAML)
    assert old in data
    toy.write(YAML, data.replace(old, new))


def test_an_edited_value_is_adopted_and_said(applied: Toy) -> None:
    edit(applied, b"/data/model/ckpt.pth", b"/my/ckpt.pth")
    done = applied.apply()
    assert "adopted ckpt = /my/ckpt.pth" in done.out
    assert b"ckpt: '/my/ckpt.pth'" in applied.read(YAML)
    assert applied.dirty() == [], "it is in the configuration commit now"
    assert applied.apply("--json").json["settings"] == {"ckpt": "/my/ckpt.pth"}
    applied.apply("--set", "model_path=/b")
    assert b"ckpt: '/my/ckpt.pth'" in applied.read(YAML)
    assert b"encoder: '/b/eva.om'" in applied.read(YAML)


def test_an_adopted_file_is_not_written_again(applied: Toy) -> None:
    edit(applied, b"/data/model/ckpt.pth", b"/my/ckpt.pth")
    os.utime(applied.workspace / YAML, ns=(1, 1))
    before = snapshot(applied.workspace, inside_git=False)
    applied.apply()
    assert snapshot(applied.workspace, inside_git=False) == before


def test_a_value_keeps_its_type(applied: Toy) -> None:
    edit(applied, b"low_resource: False", b"low_resource: True")
    assert "adopted low_resource = True" in applied.apply().out
    assert b"low_resource: True\n" in applied.read(YAML)


def test_other_edits_of_the_same_file_stay_local_changes(applied: Toy) -> None:
    edit(applied, b"/data/model/ckpt.pth", b"/my/ckpt.pth")
    edit(applied, b"task: image_text_pretrain", b"task: mine  # my note")
    applied.apply()
    assert applied.dirty() == [f"M {YAML}"]
    diff = applied.git("diff", "-U0", YAML).split("\n")
    changed = [line for line in diff if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert changed == ["-  task: image_text_pretrain", "+  task: mine  # my note"]
    before = snapshot(applied.workspace)
    assert "Nothing to do" in applied.apply().out
    assert snapshot(applied.workspace) == before


def test_settings_change_under_other_edits(applied: Toy) -> None:
    edit(applied, b"task: image_text_pretrain", b"task: mine")
    applied.apply("--set", "model_path=/b")
    assert b"ckpt: '/b/ckpt.pth'" in applied.read(YAML)
    assert b"task: mine" in applied.read(YAML)
    assert "ckpt" not in applied.git("diff", "-U0", YAML)


def test_set_wins_over_a_hand_edit_and_says_so(applied: Toy) -> None:
    edit(applied, b"/data/model/ckpt.pth", b"/my/ckpt.pth")
    done = applied.apply("--set", "ckpt=/asked/ckpt.pth")
    assert "replaced /my/ckpt.pth" in done.out
    assert b"ckpt: '/asked/ckpt.pth'" in applied.read(YAML)
    edit(applied, b"/asked/ckpt.pth", b"/my/ckpt.pth")
    applied.apply("--set", "ckpt=/asked/ckpt.pth")
    assert b"ckpt: '/asked/ckpt.pth'" in applied.read(YAML), "also where no commit changes"
    assert applied.dirty() == []


def test_a_clone_that_was_configured_by_hand_before_the_first_apply(toy: Toy) -> None:
    git(toy.folder, "clone", "-q", str(toy.upstream), str(toy.workspace))
    edit(toy, b"'please set this value'", b"'/my/ckpt.pth'")
    edit(toy, b"task: image_text_pretrain", b"task: mine")
    done = toy.apply()
    assert "adopted ckpt = /my/ckpt.pth" in done.out
    text = toy.read(YAML)
    assert b"ckpt: '/my/ckpt.pth'" in text
    assert b"encoder: '/data/model/eva.om'" in text, "the key that a patch adds"
    assert b"task: mine" in text
    assert "task: mine" in toy.git("diff", YAML)
    assert "ckpt" not in toy.git("diff", "-U0", YAML)


def test_committed_hand_edits_are_not_undone(applied: Toy) -> None:
    edit(applied, b"/data/model/ckpt.pth", b"/my/ckpt.pth")
    applied.git("-c", "user.name=U", "-c", "user.email=u@localhost", "commit", "-qam", "My paths")
    before = snapshot(applied.workspace)
    assert "Nothing to do" in applied.apply().out
    assert snapshot(applied.workspace) == before


@pytest.mark.parametrize("broken", [b"model: [unclosed\n", b"\xff\xfe\0", b"", b"other: 1\n"])
def test_a_file_that_is_no_longer_the_yaml_we_know(applied: Toy, broken: bytes) -> None:
    applied.write(YAML, broken)
    assert "Nothing to do" in applied.apply().out
    assert applied.read(YAML) == broken
    assert applied.run("--set", "model_path=/b").code in (0, 3)
    assert applied.read(YAML) == broken, "kept as a local change, or refused"


def test_a_value_that_cannot_be_a_setting_is_kept(applied: Toy) -> None:
    edit(applied, b"ckpt: '/data/model/ckpt.pth'", b"ckpt:")
    before = applied.read(YAML)
    applied.apply()
    assert applied.read(YAML) == before
    assert applied.run("--set", "model_path=/b").code == 3
    assert applied.read(YAML) == before


def test_an_executable_yaml_stays_executable_when_rewritten(applied: Toy) -> None:
    edit(applied, b"task: image_text_pretrain", b"task: mine")
    applied.apply("--set", "model_path=/b")
    assert os.access(applied.workspace / YAML, os.X_OK)
    assert not list((applied.workspace / "eval_configs").glob("*overlay-new*"))
