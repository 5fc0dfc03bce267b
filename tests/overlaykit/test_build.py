"""The build: a pure function that plain git confirms, and that says exactly why when something does not fit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from toys import BASE_MODEL, PATCHES, UPSTREAM, Toy, commit, git

from overlaykit.build import Built, build
from overlaykit.gitrepo import Repo
from overlaykit.project import read_project


def built(toy: Toy, scratch: Path, **settings: str) -> Built:
    project = read_project(toy.project)
    scratch.mkdir()
    repo = Repo(toy.upstream / ".git", toy.upstream)
    return build(repo, toy.pin, project.series, project.overlay, project.rules, settings, scratch)


def test_git_am_gives_the_same_tree_as_the_commits_before_the_overlays(toy: Toy, tmp_path: Path) -> None:
    result = built(toy, tmp_path / "scratch")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(toy.upstream), str(clone))
    git(clone, "am", "-q", *map(str, sorted((toy.project / "patches").glob("*.patch"))))
    assert git(clone, "rev-parse", "HEAD^{tree}").decode().strip() == result.patches[-1].tree
    ours = git(toy.upstream, "log", "--format=%an %ae %aI%n%B", f"{toy.pin}..{result.patches[-1].id}")
    theirs = git(clone, "log", "--format=%an %ae %aI%n%B", f"{toy.pin}..HEAD")
    assert ours == theirs, "authors, dates and messages are the patches' own"


def test_the_build_leaves_worktree_index_and_refs_alone(toy: Toy, tmp_path: Path) -> None:
    refs, index = git(toy.upstream, "for-each-ref"), (toy.upstream / ".git" / "index").read_bytes()
    built(toy, tmp_path / "scratch")
    assert (git(toy.upstream, "for-each-ref"), (toy.upstream / ".git" / "index").read_bytes()) == (refs, index)
    assert git(toy.upstream, "status", "--porcelain") == b""


def test_settings_change_the_last_commit_only(toy: Toy, tmp_path: Path) -> None:
    here, there = built(toy, tmp_path / "1"), built(toy, tmp_path / "2", model_path="/elsewhere")
    assert here.commits[:-1] == there.commits[:-1]
    assert here.config != there.config
    assert git(toy.upstream, "diff", "--name-only", here.config.id, there.config.id) == b"eval_configs/eval.yaml\n"


def test_modes_of_upstream_stay_and_overlay_files_are_plain(toy: Toy, tmp_path: Path) -> None:
    (toy.project / "overlay" / "run_predict.py").chmod(0o777)
    tree = Repo(toy.upstream / ".git").tree(built(toy, tmp_path / "scratch").config.id)
    assert tree["eval_configs/eval.yaml"].mode == "100755"
    assert tree["run_predict.py"].mode == "100644", "a ZIP of this project would forget the bit"


def test_litter_in_the_overlay_is_left_out(toy: Toy, tmp_path: Path) -> None:
    clean = built(toy, tmp_path / "1")
    for name in ("minigpt4/models/__pycache__/port.cpython-311.pyc", ".DS_Store", "run_predict.py~", ".x.swp"):
        toy.write_overlay({name: b"litter"})
    assert built(toy, tmp_path / "2") == clean


def test_bytes_are_stored_as_they_are(toy: Toy, tmp_path: Path) -> None:
    toy.write_overlay({"crlf.txt": b"a\r\nb\r\n", ".gitattributes": b"* text=auto eol=lf\n"})
    result = built(toy, tmp_path / "scratch")
    assert git(toy.upstream, "cat-file", "blob", f"{result.overlay.id}:crlf.txt") == b"a\r\nb\r\n"


def test_a_hunk_that_does_not_fit_is_explained(toy: Toy) -> None:
    """Upstream moves on: the line that a patch replaces has changed."""
    newer = BASE_MODEL.replace(b'return "cuda:0"', b'return "cuda:1"')
    toy.pin = commit(toy.upstream, {**UPSTREAM, "minigpt4/base_model.py": newer}, "newer", ["eval_configs/eval.yaml"])
    toy.write_pin()
    for done in (toy.run("lock"), toy.run(), toy.run("check")):
        assert done.code == 1
        for word in (
            "0001-Choose-autocast-by-device.patch",
            "minigpt4/base_model.py:6",
            "hunk 1",
            "BaseModel.device",
            'return "cuda:0"',
            'return "cuda:1"',
            "git log",
        ):
            assert word in done.err, word
    (misfit,) = toy.run("lock", "--json").json["error"]["misfits"]
    assert (misfit["path"], misfit["line"], misfit["function"]) == ("minigpt4/base_model.py", 6, "BaseModel.device")
    assert not (toy.workspace / "run_predict.py").exists(), "nothing is half applied"
    if toy.workspace.exists():
        assert toy.dirty() == []


def test_an_offset_is_a_misfit_too(toy: Toy) -> None:
    """git apply would tolerate it, and put a hunk into the wrong place one day (landley/toybox#533)."""
    newer = b"# one more line\n" + BASE_MODEL
    toy.pin = commit(toy.upstream, {**UPSTREAM, "minigpt4/base_model.py": newer}, "newer", ["eval_configs/eval.yaml"])
    toy.write_pin()
    done = toy.run("lock")
    assert (done.code, "0001-Choose-autocast-by-device.patch" in done.err) == (1, True)


@pytest.mark.parametrize("change", ["deleted", "mode"])
def test_a_file_that_is_gone_or_has_another_mode(toy: Toy, change: str) -> None:
    files = dict(UPSTREAM)
    executable = ["eval_configs/eval.yaml", "demo.py"] if change == "mode" else ["eval_configs/eval.yaml"]
    if change == "deleted":
        files["demo_v2.py"] = files.pop("demo.py")
    toy.pin = commit(toy.upstream, files, "newer", executable)
    toy.write_pin()
    done = toy.run("lock")
    assert done.code == 1
    for word in ("0002", "demo.py", "demo_v2.py" if change == "deleted" else "100755"):
        assert word in done.err


def test_index_lines_that_lie_are_refused(toy: Toy) -> None:
    patch = next((toy.project / "patches").glob("0001*"))
    lines = patch.read_text().split("\n")
    index = next(number for number, line in enumerate(lines) if line.startswith("index "))
    old, _, rest = lines[index].partition("..")
    lines[index] = f"{old}..{'1' * 40}{rest[40:]}"
    patch.write_text("\n".join(lines))
    done = toy.run("lock")
    assert (done.code, "0001" in done.err) == (2, True)


@pytest.mark.parametrize("path", ["demo.py", "minigpt4", "demo.py/inside.py"])
def test_the_overlay_may_not_replace_upstreams_files(toy: Toy, path: str) -> None:
    if path == "minigpt4":
        (toy.project / "overlay" / "minigpt4" / "models" / "port.py").unlink()
        (toy.project / "overlay" / "minigpt4" / "models").rmdir()
        (toy.project / "overlay" / "minigpt4").rmdir()
    toy.write_overlay({path: b"ours\n"})
    done = toy.run("lock")
    assert (done.code, f"overlay/{path}" in done.err) == (2, True)


def test_a_symlink_in_the_overlay_is_refused(toy: Toy) -> None:
    (toy.project / "overlay" / "link.py").symlink_to("/etc/passwd")
    done = toy.run("lock")
    assert (done.code, "link.py" in done.err) == (2, True)


def test_no_patches_and_no_overlay_are_allowed(toy: Toy) -> None:
    toy.make_patches([])
    for path in [path for path in (toy.project / "overlay").rglob("*") if path.is_file()]:
        path.unlink()
    (toy.project / "configs" / "paths.yaml").write_bytes(b"variables: {}\nrules: {}\n")
    toy.apply("lock")
    toy.apply()
    assert toy.git("rev-parse", "HEAD^{tree}") == git(toy.upstream, "rev-parse", "HEAD^{tree}").decode().strip()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("commit: main", "commit"),
        ("url: --upload-pack=evil", "url"),
        ("mirrors: one", "mirrors"),
        ("colour: red", "colour"),
        ("result: 12", "result"),
        (": [", "YAML"),
    ],
)
def test_a_broken_lock_file_is_named(toy: Toy, line: str, word: str) -> None:
    lock = toy.project / "configs" / "upstream.yaml"
    key = line.partition(":")[0]
    kept = [row for row in lock.read_text().split("\n") if not row.startswith(f"{key}:") or not key]
    lock.write_text("\n".join([*kept, line]) + "\n")
    done = toy.run("status")
    assert done.code == 2
    assert "upstream.yaml" in done.err
    assert word in done.err


def test_unicode_and_spaces_in_names_and_messages(toy: Toy) -> None:
    toy.make_patches([*PATCHES, ("Grüße 你好", {"minigpt4/with space.py": b"x = 1\n"})])
    toy.write_overlay({"docs/读我 ü.md": "你好\n".encode()})
    toy.apply("lock")
    toy.apply()
    assert (toy.workspace / "docs" / "读我 ü.md").read_text(encoding="utf-8") == "你好\n"
    assert "Grüße 你好" in toy.apply().out
    assert toy.dirty() == []
    assert subprocess.run(["git", "-C", str(toy.workspace), "fsck", "--no-dangling"], capture_output=True).stdout == b""


def test_an_upstream_whose_trees_git_would_write_otherwise(toy: Toy, tmp_path: Path) -> None:
    """An empty folder: no file tells of it, so the tree around it gets another id."""
    empty = git(toy.upstream, "mktree", stdin=b"").decode().strip()
    blob = git(toy.upstream, "rev-parse", f"{toy.pin}:demo.py").decode().strip()
    listed = f"100644 blob {blob}\tonly.py\n040000 tree {empty}\tempty\n"
    inner = git(toy.upstream, "mktree", stdin=listed.encode()).decode().strip()
    listed = git(toy.upstream, "ls-tree", toy.pin).decode() + f"040000 tree {inner}\tother\n"
    tree = git(toy.upstream, "mktree", stdin=listed.encode()).decode().strip()
    toy.pin = git(toy.upstream, "commit-tree", tree, "-p", "HEAD", stdin=b"odd\n").decode().strip()
    toy.write_pin()
    result = built(toy, tmp_path / "scratch")
    done = subprocess.run(["git", "-C", str(toy.upstream), "fsck", result.config.id], capture_output=True, text=True)
    assert "missing" not in done.stdout + done.stderr
    assert "other/only.py" in Repo(toy.upstream / ".git").tree(result.config.id)
