"""What lint finds with upstream at hand: true names in Hooks, git's own bytes, patches that fit, the lock and rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from lintmaker import FIRST, SECOND, brief, lint, spoil
from patchmaker import git, make_patch
from toys import UPSTREAM, Toy

from overlaykit.linting.hooks import Hook, check_symbols, parse_hooks
from overlaykit.patchfile import parse_patch


def test_hooks_that_are_not_true(clean: Toy) -> None:
    spoil(clean, f"patches/{FIRST}", b"(BaseModel.device)", b"(BaseModel.devices, BaseModel.maybe_autocast)")
    spoil(clean, f"patches/{SECOND}", b"demo.py (imports, module)", b"demo.py")
    facts = lint(clean)
    assert [(f["line"], f["what"]) for f in facts["findings"] if f["rule"] == "Hooks"] == [
        (8, "minigpt4/base_model.py has no BaseModel.devices, before or after"),
        (8, "the patch changes nothing in BaseModel.maybe_autocast of minigpt4/base_model.py"),
        (24, "this line is in BaseModel.device, which Hooks does not name"),
    ]
    text = clean.run("lint").out
    assert "Did you mean BaseModel.device?" in text
    assert "It changes: BaseModel.device." in text


@pytest.mark.parametrize(
    ("text", "hooks"),
    [
        ("", ()),
        ("a.py", (Hook("a.py", ()),)),
        ("a.py (f, C.g), b/c.yaml", (Hook("a.py", ("f", "C.g")), Hook("b/c.yaml", ()))),
        ("a.py(f) ,b.py", (Hook("a.py", ("f",)), Hook("b.py", ()))),
    ],
)
def test_reading_hooks(text: str, hooks: tuple[Hook, ...]) -> None:
    assert parse_hooks(text) == hooks


PYTHON = b"""import os
from x import (
    y,
)

FLAG = 1


# about f
def f(a, b):
    def inner():
        return a
    return inner


class C:
    size = 3

    @property
    def g(self):
        return f(1, 2)


try:
    import z
except ImportError:
    z = None
"""


def edited(*pairs: tuple[bytes, bytes]) -> bytes:
    data = PYTHON
    for old, new in pairs:
        assert data.count(old) == 1
        data = data.replace(old, new)
    return data


def complaints(
    folder: Path, new: bytes | None, symbols: tuple[str, ...], path: str = "a.py", old: bytes | None = PYTHON
) -> list[str]:
    def files(data: bytes | None) -> Mapping[str, bytes]:
        return {"other": b""} if data is None else {"other": b"", path: data}

    patch = parse_patch("patches/0001-S.patch", make_patch(folder, files(old), files(new), "S\n"))
    found = check_symbols(patch.files[0], Hook(path, symbols), old or b"", new or b"", "patches/0001-S.patch", 1)
    return [each.what.split(", which")[0].replace("this line is in ", "-> ") for each in found]


@pytest.mark.parametrize(
    ("change", "symbols", "words"),
    [
        ((b"    y,\n", b"    y,\n    w,\n"), ("imports",), []),
        ((b"    y,\n", b"    y,\n    w,\n"), (), []),
        ((b"    y,\n", b"    y,\n    w,\n"), ("f",), ["the patch changes nothing in f of a.py", "-> imports"]),
        ((b"    import z\n", b"    import zz as z\n"), ("imports",), []),
        ((b"FLAG = 1", b"FLAG = 2"), ("module",), []),
        ((b"FLAG = 1", b"FLAG = 2"), ("imports",), ["the patch changes nothing in imports of a.py", "-> module"]),
        ((b"    z = None", b"    z = 0"), ("module",), []),
        ((b"        return a\n", b"        return b\n"), ("f",), []),
        ((b"        return a\n", b"        return b\n"), ("f.inner",), []),
        ((b"        return a\n", b"        return b\n"), (), ["-> f.inner"]),
        ((b"def f(a, b):", b"def f(a, b, c):"), ("f",), []),
        ((b"    @property\n", b""), ("C.g",), []),
        ((b"    size = 3", b"    size = 4"), ("C",), []),
        ((b"    size = 3", b"    size = 4"), ("C.g",), ["the patch changes nothing in C.g of a.py", "-> C"]),
        ((b"# about f\n", b"# about f and g\n"), (), []),
        ((b"class C:", b"def new():\n    pass\n\n\nclass C:"), ("new",), []),
        ((b"class C:", b"def new():\n    pass\n\n\nclass C:"), (), ["-> new"]),
    ],
)
def test_where_a_change_is(
    tmp_path: Path, change: tuple[bytes, bytes], symbols: tuple[str, ...], words: list[str]
) -> None:
    assert complaints(tmp_path, edited(change), symbols) == words


def test_a_removed_function_is_named_as_it_was(tmp_path: Path) -> None:
    new = PYTHON[: PYTHON.index(b"# about f")] + PYTHON[PYTHON.index(b"class C") :]
    assert complaints(tmp_path, new, ("f",)) == []


def test_new_and_deleted_files_need_no_names(tmp_path: Path) -> None:
    assert complaints(tmp_path / "1", PYTHON, (), old=None) == []
    assert complaints(tmp_path / "2", None, ()) == []
    assert complaints(tmp_path / "3", None, ("f", "x")) == ["a.py has no x, before or after"]
    assert complaints(tmp_path / "4", b"many: 1\n" * 3000, ("x",), "a.yaml", None) == []


def test_files_that_are_not_python(tmp_path: Path) -> None:
    old, new = b"model:\n  a: 1\nrun:\n  b: 2\n", b"model:\n  a: 1\nrun:\n  b: 3\n"
    assert complaints(tmp_path / "1", new, (), "a.yaml", old) == []
    assert complaints(tmp_path / "2", new, ("run",), "a.yaml", old) == []
    assert complaints(tmp_path / "3", new, ("run.b",), "a.yaml", old) == []
    assert complaints(tmp_path / "4", new, ("model",), "a.yaml", old) == [
        "the patch changes nothing in model of a.yaml",
        "-> run.b",
    ]


def test_python_that_this_python_cannot_read(tmp_path: Path) -> None:
    old = b"import a\nprint 'x'\n\ndef f():\n    print 'y'\n"
    new = b"import b\nprint 'X'\n\ndef f():\n    print 'Y'\n"
    assert complaints(tmp_path, new, ("imports", "module", "f"), old=old) == []


def test_lines_of_a_file_without_a_newline_at_its_end(tmp_path: Path) -> None:
    patch = parse_patch("p", make_patch(tmp_path, {"a.py": b"def f():\n    a"}, {"a.py": b"def f():\n    b\nc"}, "S\n"))
    lines = patch.raw.decode().split("\n")
    found = check_symbols(patch.files[0], Hook("a.py", ("f",)), b"def f():\n    a", b"def f():\n    b\nc", "p", 1)
    assert [lines[each.line - 1] for each in found] == ["+c"]


def test_a_patch_that_does_not_fit_names_the_hunk(clean: Toy) -> None:
    blob = parse_patch(f"patches/{FIRST}", (clean.project / "patches" / FIRST).read_bytes()).files[0].old_blob
    spoil(clean, f"patches/{FIRST}", f"index {blob}".encode(), b"index " + b"1" * 40)
    spoil(clean, f"patches/{FIRST}", b'-        return "cuda:0"', b'-        return "cuda"')
    facts = lint(clean)
    assert brief(facts) == [f"patches/{FIRST}:20 fits"]
    assert "expected '        return \"cuda\"'" in facts["findings"][0]["what"]
    assert any("the tree cannot be built" in note for note in facts["notes"])


@pytest.mark.parametrize(
    ("name", "old", "new", "line", "what"),
    [
        (FIRST, b'-        return "cuda:0"', b'-        return "cuda"', 20, "py:6 is '        return \"cuda:0\"', not"),
        (FIRST, b"+        return ", b"+        yield ", 16, "these hunks do not make blob"),
        (FIRST, b" 100644\n", b" 100755\n", 16, "does not fit the upstream commit"),
        (SECOND, b"+HOOK = True", b"+HOOK = False", 42, "these hunks do not make blob"),
    ],
)
def test_a_patch_edited_by_hand(clean: Toy, name: str, old: bytes, new: bytes, line: int, what: str) -> None:
    spoil(clean, f"patches/{name}", old, new)
    facts = lint(clean)
    assert brief(facts) == [f"patches/{name}:{line} fits"]
    assert what in facts["findings"][0]["what"]


def test_every_patch_edited_by_hand_is_named(clean: Toy) -> None:
    for name in (FIRST, SECOND):
        blob = parse_patch(name, (clean.project / "patches" / name).read_bytes()).files[0].new_blob
        spoil(clean, f"patches/{name}", blob.encode(), b"1" * 40)
    assert brief(lint(clean)) == [f"patches/{FIRST}:16 fits", f"patches/{SECOND}:22 fits"]


def test_an_overlay_file_in_the_place_of_upstreams(clean: Toy) -> None:
    (clean.project / "overlay" / "README.md").write_text("mine\n")
    (found,) = lint(clean)["findings"]
    assert (found["path"], found["rule"]) == ("overlay/README.md", "fits")


def test_names_that_differ_from_upstreams_in_case_only(clean: Toy) -> None:
    (clean.project / "overlay" / "Readme.md").write_text("mine\n")
    (clean.project / "overlay" / "MiniGPT4").mkdir()
    (clean.project / "overlay" / "MiniGPT4" / "extra.py").write_text("x = 1\n")
    clean.apply("lock")
    facts = lint(clean)
    assert brief(facts) == ["overlay/MiniGPT4/extra.py:0 overlay", "overlay/Readme.md:0 overlay"]
    assert [found["what"] for found in facts["findings"]] == [
        "differs from upstream's minigpt4 in case or accents only",
        "differs from upstream's README.md in case or accents only",
    ]


def test_a_patch_that_makes_such_a_name(clean: Toy) -> None:
    spoil(
        clean, f"patches/{SECOND}", b"create mode 100644 minigpt4/hook.py", b"create mode 100644 minigpt4/Base_model.py"
    )
    path = clean.project / "patches" / SECOND
    path.write_bytes(path.read_bytes().replace(b"minigpt4/hook.py", b"minigpt4/Base_model.py"))
    clean.apply("lock")
    (found,) = [found for found in lint(clean, "--fix")["findings"]]
    assert (found["line"], found["rule"]) == (42, "name")
    assert (
        found["what"] == "minigpt4/Base_model.py differs from upstream's minigpt4/base_model.py in case or accents only"
    )


def test_a_partial_clone_that_lacks_what_is_patched(clean: Toy) -> None:
    git(clean.upstream, "config", "uploadpack.allowFilter", "true")
    source, target = clean.upstream.as_uri(), clean.folder / "partial"
    git(clean.folder, "clone", "-q", "--no-checkout", "--filter=blob:none", source, str(target))
    facts = lint(clean, "--workspace", str(target))
    assert not facts["findings"]
    assert "this partial clone lacks minigpt4/base_model.py" in facts["notes"][0]


def test_a_partial_clone_that_lacks_other_files_only(clean: Toy) -> None:
    git(clean.upstream, "config", "uploadpack.allowFilter", "true")
    source, target = clean.upstream.as_uri(), clean.folder / "partial"
    git(clean.folder, "clone", "-q", "--no-checkout", "--filter=blob:none", source, str(target))
    git(target, "checkout", "-q", "HEAD", "--", *(path for path in UPSTREAM if not path.startswith("figs/")))
    assert lint(clean, "--workspace", str(target))["notes"] == []


def test_a_backport_of_what_the_pin_holds(clean: Toy) -> None:
    spoil(clean, f"patches/{SECOND}", b"https://example.org/pull/1", b"backport " + clean.pin.encode())
    spoil(clean, f"patches/{FIRST}", b"not-forwarded (the port's own)", b"backport " + b"1a" * 20)
    facts = lint(clean, "--fix")
    assert brief(facts) == [f"patches/{SECOND}:10 Upstream"]
    assert facts["notes"] == [f"Not checked, because the workspace lacks commit 1a1a1a1a1a1a: Upstream of {FIRST}."]


def test_the_lock(clean: Toy) -> None:
    (clean.project / "overlay" / "run_predict.py").write_text("print('another answer')\n")
    assert brief(lint(clean)) == ["configs/upstream.yaml:5 lock"]
    clean.apply("lock")
    assert brief(lint(clean)) == []


def test_files_and_keys_of_the_rules(clean: Toy) -> None:
    paths = clean.project / "configs" / "paths.yaml"
    more = b"  eval_configs/evil.yaml:\n    other: {key: model.ckpt, value: x}\n"
    paths.write_bytes(paths.read_bytes().replace(b"model.encoder", b"model.encode") + more)
    facts = lint(clean)
    assert brief(facts) == ["configs/paths.yaml:6 configuration", "configs/paths.yaml:8 configuration"]
    fixes = [found["fix"] for found in facts["findings"]]
    assert fixes == ["Did you mean model.encoder?", "Did you mean eval_configs/eval.yaml?"]


def test_a_value_of_another_type_than_upstreams(clean: Toy) -> None:
    spoil(clean, "configs/paths.yaml", b"value: False", b'value: "False"')
    (found,) = lint(clean)["findings"]
    assert brief({"findings": [found]}) == ["configs/paths.yaml:7 configuration"]
    assert found["what"] == "low_resource: upstream's value is True, 'False' is text"


def test_more_of_upstreams_text_than_git_needs(clean: Toy) -> None:
    patch = clean.project / "patches" / FIRST
    raw = patch.read_bytes()
    spoil(clean, f"patches/{FIRST}", b"@@ -3,7 +3,7 @@ import contextlib", b"@@ -1,9 +1,9 @@\n import contextlib\n ")
    assert {found["rule"] for found in lint(clean)["findings"]} == {"bytes", "context"}
    lint(clean, "--fix")
    assert patch.read_bytes() == raw
