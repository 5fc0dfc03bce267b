"""apply.py lint finds everything that is wrong with patches/, overlay/ and configs/ in one go, with file and line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from lintmaker import FIRST, SECOND, brief, lint, shallow, spoil
from toys import ROOT, Toy, snapshot


def test_nothing_to_say(clean: Toy) -> None:
    before = contents(clean.folder)
    done = clean.run("lint")
    assert (done.code, done.out, done.err) == (0, "No findings\n", "")
    assert contents(clean.folder) == before


def contents(folder: Path) -> dict[str, object]:
    """Without times: git freshens those of objects that it would have written, so that `git gc` keeps them."""
    return {path: (mode, content) for path, (mode, _, content) in snapshot(folder).items()}


def test_without_a_workspace_it_says_what_was_not_checked(clean: Toy) -> None:
    done = clean.run("lint", "--workspace", str(clean.folder / "none"))
    assert done.code == 0
    for words in ("Not checked, because there is no workspace", "--workspace", "Hooks", "as git writes them", "lock"):
        assert words in done.out


def test_without_the_pin_it_says_so_too(clean: Toy) -> None:
    spoil(clean, "configs/upstream.yaml", clean.pin.encode(), b"a" * 40)
    assert "does not hold upstream's commit aaaaaaaaaaaa" in lint(clean)["notes"][0]


def test_all_findings_come_at_once_and_in_order(clean: Toy) -> None:
    spoil(clean, f"patches/{FIRST}", b"Drop-When: never\n", b"")
    spoil(clean, f"patches/{SECOND}", b"Upstream: https://example.org/pull/1", b"Upstream: yes")
    spoil(clean, "configs/paths.yaml", b"low_resource: {key: model.low_resource", b"low_resource: {key: model.low_res")
    spoil(clean, "configs/upstream.yaml", b"result: ", b"result: ''  # ")
    (clean.project / "patches" / "0002-x.patch.orig").write_text("")
    (clean.project / "overlay" / "dos.py").write_bytes(b"one\r\n")
    facts = lint(clean)
    assert brief(facts) == [
        "configs/paths.yaml:7 configuration",
        "configs/upstream.yaml:5 lock",
        "overlay/dos.py:1 overlay",
        f"patches/{FIRST}:11 trailers",
        f"patches/{SECOND}:10 Upstream",
        "patches/0002-x.patch.orig:0 stray file",
        "patches/README.md:0 table",
    ]
    assert not facts["ok"]
    text = clean.run("lint")
    assert text.code == 1
    assert f"patches/{FIRST}:11: trailers: there is no Drop-When\n    The last paragraph" in text.out
    assert text.out.endswith("7 findings\n")


def test_fix_writes_the_table_and_says_so(clean: Toy) -> None:
    table = clean.project / "patches" / "README.md"
    good = table.read_bytes()
    table.write_text("edited by hand\n")
    found = lint(clean)
    assert brief(found) == ["patches/README.md:0 table"]
    assert "apply.py lint --fix" in found["findings"][0]["fix"]
    assert table.read_text() == "edited by hand\n"
    done = clean.run("lint", "--fix")
    assert (done.code, done.out) == (0, "Wrote patches/README.md\nNo findings\n")
    assert table.read_bytes() == good


def test_fix_lets_git_write_a_patch_again_that_says_the_same(clean: Toy) -> None:
    patch = clean.project / "patches" / FIRST
    good = patch.read_bytes()
    patch.write_bytes(good.replace(b"@@ class BaseModel:", b"@@").replace(b"From 0000", b"From 1234"))
    facts = lint(clean)
    assert brief(facts) == [f"patches/{FIRST}:1 bytes"]
    assert lint(clean, "--fix")["fixed"] == [f"patches/{FIRST}"]
    assert patch.read_bytes() == good


def test_fix_leaves_what_it_cannot_read(clean: Toy) -> None:
    spoil(clean, f"patches/{FIRST}", b'+        return "auto"\n', b"")
    before = snapshot(clean.project)
    facts = lint(clean, "--fix")
    assert brief(facts) == [f"patches/{FIRST}:20 form"]
    assert any("patches/README.md" in note for note in facts["notes"])
    assert snapshot(clean.project) == before


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        (f"{FIRST}\n", ["patches/series:0 series"]),
        (f"{FIRST}\n{SECOND}\n0003-gone.patch\n\nx.patch\n", ["patches/series:3 series", "patches/series:5 series"]),
        (f"{SECOND}\n{FIRST}\n", ["patches/series:2 series"]),
        (f"{FIRST}\n{FIRST}\n{SECOND}\n", ["patches/series:2 series"]),
        (None, ["patches/series:0 series"]),
    ],
)
def test_series(clean: Toy, text: str | None, findings: list[str]) -> None:
    series = clean.project / "patches" / "series"
    series.unlink() if text is None else series.write_text(text)
    facts = shallow(clean)
    assert brief(facts) == findings
    assert any("not every" in note for note in facts["notes"])


def test_strays(clean: Toy) -> None:
    folder = clean.project / "patches"
    names = [".0001-a.patch.swp", "0001-a.patch.rej", "a.diff", "notes.txt", f"{FIRST}~"]
    for name in names:
        (folder / name).write_text("")
    (folder / "old").mkdir()
    (folder / "link.txt").symlink_to("series")
    facts = shallow(clean)
    assert brief(facts) == [f"patches/{name}:0 stray file" for name in sorted([*names, "old", "link.txt"])]
    assert "did not apply" in facts["findings"][2]["what"]


def test_strays_elsewhere(clean: Toy) -> None:
    for name in ("overlay/run_predict.py.orig", "overlay/x.rej", "configs/paths.yaml.orig"):
        (clean.project / name).write_text("x\n")
    assert brief(shallow(clean)) == [
        "configs/paths.yaml.orig:0 stray file",
        "overlay/run_predict.py.orig:0 stray file",
        "overlay/x.rej:0 stray file",
    ]


def test_a_linked_patch_is_none(clean: Toy, tmp_path: Path) -> None:
    patch = clean.project / "patches" / FIRST
    shutil.move(patch, tmp_path / FIRST)
    patch.symlink_to(tmp_path / FIRST)
    assert brief(shallow(clean)) == [f"patches/{FIRST}:0 form"]


def test_overlay(clean: Toy) -> None:
    folder = clean.project / "overlay"
    (folder / "Run_predict.py").write_text("print('other')\n")
    (folder / "latin.py").write_bytes(b"# one\n# caf\xe9\n")
    (folder / "zero.py").write_bytes(b"x\0")
    (folder / "demo.py").write_text("mine\n")  # upstream's, patched
    (folder / "minigpt4" / "hook.py").mkdir(parents=True)  # made by a patch
    (folder / "minigpt4" / "hook.py" / "deep.py").write_text("")
    (folder / "old.py").write_text("a patch took upstream's away\n")
    (folder / "link.py").symlink_to("/etc/passwd")
    (folder / "ok.py~").write_text("litter is not of the overlay\r\n")
    facts = shallow(clean)
    assert brief(facts) == [
        "overlay/demo.py:0 overlay",
        "overlay/latin.py:2 overlay",
        "overlay/link.py:0 overlay",
        "overlay/minigpt4/hook.py/deep.py:0 overlay",
        "overlay/run_predict.py:0 overlay",
        "overlay/zero.py:1 overlay",
    ]
    assert SECOND in facts["findings"][0]["what"]
    assert "overlay/Run_predict.py" in facts["findings"][4]["what"]


@pytest.mark.skipif(os.sep != "/", reason="names are bytes on POSIX only")
def test_a_name_in_the_overlay_that_is_not_utf8(clean: Toy) -> None:
    try:
        (clean.project / "overlay" / os.fsdecode(b"caf\xe9.py")).write_text("")
    except OSError:
        pytest.skip("this file system refuses such names")
    (found,) = shallow(clean)["findings"]
    assert "not UTF-8" in found["what"]


def test_configs(clean: Toy) -> None:
    spoil(clean, "configs/paths.yaml", b"${model_path}/eva.om", b"${modelpath}/eva.om")
    spoil(clean, "configs/upstream.yaml", b"commit: ", b"comit: ")
    facts = lint(clean)
    assert brief(facts) == ["configs/paths.yaml:6 configuration", "configs/upstream.yaml:0 configuration"]
    assert "model_path" in facts["findings"][0]["fix"]
    assert any("not every file" in note for note in facts["notes"])


def test_configs_that_are_no_yaml(clean: Toy) -> None:
    spoil(clean, "configs/paths.yaml", b"value: False}", b"value: False")
    spoil(clean, "configs/upstream.yaml", b"mirrors: []", b"mirrors: [")
    found = shallow(clean)["findings"]
    assert [(each["path"], each["line"] > 0) for each in found] == [
        ("configs/paths.yaml", True),
        ("configs/upstream.yaml", True),
    ]
    assert "\n" not in found[1]["what"]


def test_a_killed_install_is_named_first(clean: Toy) -> None:
    (clean.project / ".overlay-install").mkdir()
    done = clean.run("lint")
    assert done.code == 5
    assert "rebase --abort" in done.err


@pytest.mark.upstream
def test_this_project_is_clean(workspace: Path) -> None:
    import apply

    assert apply.main(["lint", "--json", "--project", str(ROOT), "--workspace", str(workspace)]) == 0
