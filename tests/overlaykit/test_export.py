"""apply.py export: commits made in the workspace become patches and files of overlay/."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from toys import BASE_MODEL, CLEAN, Toy, git, snapshot

from overlaykit.project import read_project

MODEL = "minigpt4/base_model.py"
YAML = "eval_configs/eval.yaml"
PATCHED = BASE_MODEL.replace(b'"cuda:0"', b'"auto"')
FIRST, SECOND = "0001-Choose-autocast-by-device.patch", "0002-Drop-what-is-old.patch"
THIRD = "0003-Say-hello.patch"
TRAILERS = "Hooks: demo.py\nUpstream: not-forwarded (toy)\nDrop-When: never\nTested-By: tests/x.py::test_y"


def commit(toy: Toy, message: str, files: Mapping[str, bytes | None] = {}, **env: str) -> str:
    """As a user would: edit, add, commit."""
    for path, data in files.items():
        if data is None:
            git(toy.workspace, "rm", "-q", path)
        else:
            toy.write(path, data)
            git(toy.workspace, "add", path)
    git(toy.workspace, "commit", "-q", "--allow-empty", "-F", "-", stdin=message.encode(), **env)
    return toy.git("rev-parse", "HEAD")


def patches(toy: Toy) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((toy.project / "patches").iterdir())}


def overlay(toy: Toy) -> dict[str, bytes]:
    folder = toy.project / "overlay"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def exported(toy: Toy) -> None:
    """Export, and then everything agrees: the workspace is current, a new one gets the same files, again is nothing."""
    tree, dirty = toy.git("rev-parse", "HEAD^{tree}"), toy.dirty()
    toy.apply("export")
    assert toy.git("rev-parse", "HEAD^{tree}") == tree
    assert toy.dirty() == dirty
    assert toy.apply("status", "--json").json["outcome"] == "current"
    assert "Nothing to do" in toy.apply().out
    before = snapshot(toy.project)
    assert "Nothing to export" in toy.apply("export", "--check").out
    assert "Nothing to export" in toy.apply("export").out
    assert snapshot(toy.project) == before
    assert toy.git("symbolic-ref", "HEAD") == "refs/heads/overlay"


def changes_nothing(toy: Toy, code: int, *words: str) -> None:
    """Both with and without --check the same refusal, and nothing was written."""
    before = snapshot(toy.project), toy.git("for-each-ref"), snapshot(toy.workspace, inside_git=False)
    for options in (["export"], ["export", "--check"]):
        done = toy.run(*options)
        assert done.code == code, done.out + done.err
        for word in words:
            assert word in done.err, done.err
        assert "Traceback" not in done.err
    assert (snapshot(toy.project), toy.git("for-each-ref"), snapshot(toy.workspace, inside_git=False)) == before


def test_an_untouched_workspace_has_nothing_to_export(applied: Toy) -> None:
    before = snapshot(applied.project)
    for options in ([], ["--check"]):
        assert "Nothing to export" in applied.apply("export", *options).out
    assert snapshot(applied.project) == before


def test_a_commit_becomes_a_patch(applied: Toy) -> None:
    before = patches(applied)
    (applied.project / "patches" / "series").write_text(f"# first\n{FIRST}  # why\n\n{SECOND}\n# the end\n")
    message = f"Say hello\n\nBecause greeting is polite.\n\n{TRAILERS}"
    made = commit(applied, message, {"demo.py": b"print('auto')\nprint('hello')\n"})
    exported(applied)
    after = patches(applied)
    assert {name: after[name] for name in (FIRST, SECOND)} == {name: before[name] for name in (FIRST, SECOND)}
    assert after["series"].decode() == f"# first\n{FIRST}  # why\n\n{SECOND}\n# the end\n{THIRD}\n"
    assert f"[0003]({THIRD})" in after["README.md"].decode()
    patch = read_project(applied.project).series[-1]
    assert (patch.subject, patch.author_name, patch.message) == ("Say hello", "Ada Lovelace", message + "\n")
    assert patch.author_date == "Mon, 2 Sep 2024 10:00:00 +0800"
    assert patch.trailers["Drop-When"] == ("never",)
    assert len(applied.git("log", "--format=%s", f"{applied.pin}..HEAD").split("\n")) == 5
    assert made in applied.git("log", "--format=%H", "--glob=refs/overlay/backup/*"), "their own commits are kept"


def test_the_report_names_everything(applied: Toy) -> None:
    commit(applied, "Say hello", {"demo.py": b"print('hello')\n"})
    commit(applied, "New option", {"run_predict.py": b"print('more')\n", "tool.py": b"TOOL = 1\n"})
    commit(applied, "fixup! Choose autocast by device", {MODEL: PATCHED.replace(b"cpu", b"npu")})
    applied.write("README.md", b"edited\n")
    for options, code in ((["--check"], 1), ([], 0)):
        copied = applied.run("export", "--json", *options)
        assert copied.code == code
        facts = copied.json
        assert (facts["verb"], facts["code"]) == ("export", code)
        assert facts["outcome"] == ("would_export" if code else "exported")
        assert [(patch["name"], patch["became"]) for patch in facts["patches"]] == [(FIRST, "changed"), (THIRD, "new")]
        assert facts["overlay"] == {"run_predict.py": "change", "tool.py": "add"}
        notes = "\n".join(facts["notes"])
        assert "README.md" in notes
        assert f"{THIRD} lacks Hooks, Upstream, Drop-When, Tested-By" in notes
    assert applied.read("README.md") == b"edited\n"


def test_check_writes_nothing(applied: Toy) -> None:
    commit(applied, "Say hello", {"demo.py": b"print('hello')\n"})
    before = snapshot(applied.folder)
    done = applied.run("export", "--check")
    assert (done.code, THIRD in done.out, "without --check" in done.out) == (1, True, True)
    after = snapshot(applied.folder)
    assert after.keys() == before.keys()
    # git renews the time of an object that it would write.
    assert [name for name in after if after[name] != before[name] and ".git/objects" not in name] == []


def test_overlay_files_are_changed_added_deleted_and_renamed(applied: Toy) -> None:
    before = patches(applied)
    commit(applied, "More", {"run_predict.py": b"print('more')\n", "minigpt4/models/deep/new.py": b"NEW = 1\n"})
    git(applied.workspace, "mv", "minigpt4/models/port.py", "ported.py")
    commit(applied, "Rename")
    exported(applied)
    assert overlay(applied) == {
        "run_predict.py": b"print('more')\n",
        "minigpt4/models/deep/new.py": b"NEW = 1\n",
        "ported.py": b"PORT = 1\n",
    }
    assert patches(applied) == before


def test_a_file_that_a_patch_makes_is_upstreams_side(applied: Toy) -> None:
    commit(applied, "fixup! Drop what is old", {"minigpt4/hook.py": b"HOOK = 2\n", "old.py": b"x = 2\n"})
    exported(applied)
    assert b"+HOOK = 2" in patches(applied)[SECOND]
    assert b"+x = 2" in patches(applied)[SECOND]
    assert set(overlay(applied)) == {"run_predict.py", "minigpt4/models/port.py"}


def test_fixup_squash_and_amend(applied: Toy) -> None:
    before = patches(applied)
    lines = PATCHED.replace(b"return None", b"return 0")
    commit(applied, "fixup! Choose autocast by device", {MODEL: lines})
    commit(applied, "fixup! fixup! Choose autocast by device", {MODEL: lines.replace(b"return 0", b"return 1")})
    commit(applied, "squash! Choose autocast by device\n\nNever None.\n\nDrop-When: later", {})
    commit(applied, "amend! Drop what is old\n\nDrop old files\n\nAnother reason.", {})
    commit(applied, "squash! Drop what is old", {})  # its subject is another by now
    exported(applied)
    first, second = read_project(applied.project).series
    assert (first.name, second.name) == (FIRST, "0002-Drop-old-files.patch")
    assert b"+        return 1\n" in first.raw
    body = "Because the toy needs it.\n\nNever None.\n\nTested-By: toys.py\nDrop-When: later"
    assert (first.body, second.message) == (body, "Drop old files\n\nAnother reason.\n")
    assert second.diff == before[SECOND][before[SECOND].index(b"diff --git") :]
    assert "0002-Drop-old-files.patch" in patches(applied)["series"].decode()


def test_a_fixup_of_a_new_commit(applied: Toy) -> None:
    commit(applied, "Say hello", {"demo.py": b"print('hello')\n"})
    commit(applied, "Say it twice", {"README.md": b"# Toy\n\nHello.\n"})
    commit(applied, "fixup! Say hello", {"demo.py": b"print('hello, world')\n"})
    exported(applied)
    after = patches(applied)
    assert b"+print('hello, world')" in after[THIRD]
    assert b"demo.py" not in after["0004-Say-it-twice.patch"]


def test_a_fixup_below_a_patch_of_the_same_file(applied: Toy) -> None:
    """The later patch of the file is replayed; its own change and message stay."""
    commit(applied, "Return zero", {MODEL: PATCHED.replace(b"return None", b"return 0")})
    exported(applied)
    later = read_project(applied.project).series[-1]
    commit(applied, "fixup! Choose autocast by device", {MODEL: applied.read(MODEL).replace(b'"auto"', b'"npu"')})
    exported(applied)
    first, _, third = read_project(applied.project).series
    assert b'+        return "npu"' in first.raw
    assert b"return 0" not in first.raw
    assert third.files[0].hunks == later.files[0].hunks
    assert (third.message, third.author_date) == (later.message, later.author_date)


def test_a_fixup_that_undoes_a_patch_drops_it(applied: Toy) -> None:
    commit(applied, "fixup! Choose autocast by device", {MODEL: BASE_MODEL})
    assert [patch["became"] for patch in applied.apply("export", "--json").json["patches"]] == ["dropped"]
    assert [patch.name for patch in read_project(applied.project).series] == [SECOND]


def test_values_of_this_machine_are_not_exported(applied: Toy) -> None:
    before = patches(applied)
    yaml = applied.read(YAML)
    commit(applied, "My weights", {YAML: yaml.replace(b"/data/model/ckpt.pth", b"/my/ckpt.pth")})
    done = applied.apply("export")
    assert ("Nothing to export" in done.out, "My weights" in done.out) == (True, True)
    both = applied.read(YAML).replace(b"low_resource: False", b"low_resource: True\n  more: 1")
    commit(applied, "More keys", {YAML: both.replace(b"image_text_pretrain", b"mine")})
    exported(applied)
    raw = patches(applied)["0003-More-keys.patch"]
    assert b"+  more: 1\n" in raw
    assert b"+  task: mine\n" in raw
    assert b"/my/" not in raw
    assert b"low_resource: False" not in raw
    assert {name: patches(applied)[name] for name in (FIRST, SECOND)} == {n: before[n] for n in (FIRST, SECOND)}
    assert applied.apply("status", "--json").json["settings"]["ckpt"] == "/my/ckpt.pth"


def test_a_commit_of_both_sides_is_refused_and_the_commands_split_it(applied: Toy) -> None:
    for later in ([], [("Later", {"README.md": b"# Later\n"})]):
        files = {"demo.py": b"print('both')\n", "new dir/x.py": b"X = 1\n", "run_predict.py": None}
        commit(applied, "Both", files if not later else {"old.py": b"x = 3\n", "new dir/x.py": b"X = 2\n"})
        for message, changes in later:
            commit(applied, message, changes)
        tree = applied.git("rev-parse", "HEAD^{tree}")
        changes_nothing(applied, 1, '"Both" touches files of upstream and files of the overlay', "new dir/x.py")
        told = applied.run("export").err
        script = "\n".join(line for line in told.split("\n") if line.startswith("  git "))
        subprocess.run(["sh", "-ec", script], env=CLEAN, check=True, capture_output=True)
        assert applied.git("rev-parse", "HEAD^{tree}") == tree
        exported(applied)
    assert overlay(applied)["new dir/x.py"] == b"X = 2\n"
    assert [patch.subject for patch in read_project(applied.project).series[2:]] == ["Both", "Both", "Later"]


def test_a_killed_install_is_finished_first(applied: Toy) -> None:
    (applied.project / ".overlay-install.new").mkdir()
    applied.apply("export")
    assert not (applied.project / ".overlay-install.new").exists()


def test_the_first_patch_of_a_project(applied: Toy, tmp_path: Path) -> None:
    for path in (applied.project / "patches").iterdir():
        path.unlink()
    rules = json.dumps({"variables": {}, "rules": {}})
    (applied.project / "configs" / "paths.yaml").write_text(rules)
    applied.apply("lock")
    applied.apply()
    commit(applied, "Say hello", {"demo.py": b"print('hello')\n"})
    exported(applied)
    assert sorted(patches(applied)) == ["0001-Say-hello.patch", "README.md", "series"]


def test_values_of_this_machine_in_a_file_of_the_overlay(applied: Toy) -> None:
    applied.write_overlay({"port.yaml": b"port:\n  om: ''  # the model\n  more: 1\n"})
    with (applied.project / "configs" / "paths.yaml").open("a") as file:
        file.write("  port.yaml:\n    om: {key: port.om, value: '${model_path}/x.om'}\n")
    applied.apply("lock")
    applied.apply()
    commit(applied, "More", {"port.yaml": applied.read("port.yaml").replace(b"more: 1", b"more: 2")})
    exported(applied)
    assert overlay(applied)["port.yaml"] == b"port:\n  om: ''  # the model\n  more: 2\n"


def test_a_value_that_cannot_be_a_setting_keeps_the_workspace_where_it_is(applied: Toy) -> None:
    head = commit(
        applied, "More", {YAML: applied.read(YAML).replace(b"low_resource: False", b"low_resource: maybe\n  a: 1")}
    )
    done = applied.apply("export")
    assert b"+  a: 1" in patches(applied)["0003-More.patch"]
    assert b"maybe" not in patches(applied)["0003-More.patch"]
    assert "the workspace stays as it is" in done.out
    assert applied.git("rev-parse", "HEAD") == head
    applied.apply("--force")
    assert "Nothing to export" in applied.apply("export").out


def test_commits_that_cancel_out(applied: Toy) -> None:
    before = snapshot(applied.project)
    commit(applied, "Say hello", {"demo.py": b"print('hello')\n"})
    commit(applied, "fixup! Say hello", {"demo.py": b"print('auto')\n"})
    done = applied.apply("export")
    assert ("Nothing to export" in done.out, "later commits undo it" in done.out) == (True, True)
    assert snapshot(applied.project) == before


def test_a_branch_that_cannot_follow_is_finished_by_the_next_export(applied: Toy) -> None:
    commit(applied, "Say hello", {"demo.py": b"print('hello')\n"})
    lock = applied.workspace / ".git" / "refs" / "heads" / "overlay.lock"
    lock.write_bytes(b"")
    done = applied.run("export")
    assert (done.code, "the workspace did not follow" in done.err) == (3, True)
    assert THIRD in patches(applied)
    lock.unlink()
    assert "Finished an interrupted export" in applied.apply("export").out
    exported(applied)
