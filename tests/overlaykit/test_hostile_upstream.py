"""An upstream that holds what hurts: apply works or says why not, and nothing outside the workspace is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from toys import OVERLAY, Toy, git, snapshot

FILE, PROGRAM, LINK, SUBMODULE = "100644", "100755", "120000", "160000"
Entries = Sequence[tuple[str, bytes, bytes]]  # mode, path, content


def hostile(toy: Toy, entries: Entries) -> None:
    """Move the pin to a commit that also holds these entries; git itself would refuse to add some of them."""
    parts = [b"commit refs/heads/main\ncommitter U <u@example.org> 1700000000 +0000\ndata 7\nhostile\n"]
    parts.append(b"from %s\n" % toy.pin.encode())
    for mode, path, content in entries:
        quoted = b'"' + b"".join(b"\\%03o" % byte for byte in path) + b'"'
        if mode == SUBMODULE:
            parts.append(b"M 160000 %s %s\n" % (content, quoted))
        else:
            parts.append(b"M %s inline %s\ndata %d\n%s\n" % (mode.encode(), quoted, len(content), content))
    git(toy.upstream, "fast-import", "--quiet", "--force", stdin=b"".join(parts))
    toy.pin = git(toy.upstream, "rev-parse", "main").decode().strip()
    toy.write_pin()


def outside(toy: Toy) -> dict[str, tuple[object, ...]]:
    """Everything beside the workspace. (git renews the times of objects.)"""
    seen = snapshot(toy.folder).items()
    return {n: s[0::2] for n, s in seen if not n.startswith(toy.workspace.name) and "/.git" not in n}


def run_all(toy: Toy) -> None:
    toy.apply("lock")
    before = outside(toy)
    assert "would" in toy.apply("check").out.lower()
    toy.apply()
    assert "Nothing to do" in toy.apply().out
    assert toy.read("run_predict.py").replace(b"\r\n", b"\n") == OVERLAY["run_predict.py"]
    toy.apply("revert")
    assert not (toy.workspace / "run_predict.py").exists()
    assert outside(toy) == before


ODD = (
    *(b"new\nline.txt", b'quo"te.txt', b"tab\there.txt", b"not-utf8-\xff.txt", b"-rf", b"--force", b" lead", b"trail "),
    *(b"back\\slash", b"*", b"?", b"[a]", b":(top)x", b"!x", b"#x", b"~", b"$HOME", b"`id`", b"a;b", b"HEAD", b"index"),
    *(b"refs/heads/main", b"hooks/post-checkout", b".gitconfig", "你好/ü.txt".encode(), b"a" * 250, b"\x1b[31mred"),
)


def test_odd_names(toy: Toy) -> None:
    hostile(toy, [(PROGRAM, name, b"#!/bin/sh\ntouch ran\n") for name in ODD])
    run_all(toy)
    for name in ODD:
        assert (Path(os.fsencode(toy.workspace).decode()) / os.fsdecode(name)).read_bytes().startswith(b"#!")
    assert not list(toy.folder.rglob("ran"))
    assert toy.dirty() == []


def test_deep_paths(toy: Toy) -> None:
    hostile(toy, [(FILE, b"d/" * 400 + b"x.txt", b"deep\n")])
    run_all(toy)
    assert toy.workspace.joinpath(*["d"] * 400, "x.txt").read_bytes() == b"deep\n"


def test_links_to_the_outside_are_links_and_nothing_is_written_through_them(toy: Toy) -> None:
    away = toy.folder / "away"
    away.mkdir()
    (away / "port.py").write_text("not yours\n")
    links = {b"etc": b"/etc", b"up": b"../..", b"self": b"self", b"passwd": b"/etc/passwd", b"home": bytes(away)}
    hostile(toy, [(LINK, path, target) for path, target in links.items()])
    run_all(toy)
    for path, target in links.items():
        assert os.readlink(os.fsencode(toy.workspace) + b"/" + path) == target
    assert (away / "port.py").read_text() == "not yours\n"


@pytest.mark.parametrize(
    ("path", "target", "words"),
    [
        (b"minigpt4/models", b"../../away", "overlay/minigpt4/models/port.py would replace"),
        (b"run_predict.py", b"../away/port.py", "overlay/run_predict.py would replace"),
        (b"demo.py", b"../away/port.py", "demo.py"),
        (b"eval_configs/eval.yaml", b"../../away/port.py", "eval_configs/eval.yaml"),
    ],
)
def test_a_link_where_a_file_must_be_written(toy: Toy, path: bytes, target: bytes, words: str) -> None:
    (toy.folder / "away").mkdir()
    (toy.folder / "away" / "port.py").write_text("not yours\n")
    hostile(toy, [(LINK, path, target)])
    before = outside(toy)
    for verb in ("lock", "check", "apply"):
        done = toy.run(verb)
        assert done.code in (1, 2), done.out + done.err
        assert words in done.err
    assert outside(toy) == before


def test_a_link_in_place_of_a_file_with_rules(toy: Toy) -> None:
    """Its content is the path that it points to, which may even be YAML with the right key."""
    toy.make_patches([("One", {"demo.py": b"print('auto')\n"})])
    (toy.project / "configs" / "paths.yaml").write_text("rules:\n  link.yaml:\n    key: {key: a, value: /etc/passwd}\n")
    hostile(toy, [(LINK, b"link.yaml", b"a: b")])
    done = toy.run("lock")
    assert (done.code, "link.yaml" in done.err) == (2, True)


@pytest.mark.parametrize(
    "names",
    [(b"readme.md",), (b"Demo.py", b"DEMO.PY"), (b"MiniGPT4/__init__.py",), ("ｅ\u0301".encode(), "é".encode())],
)
def test_names_that_differ_in_case_alone(toy: Toy, names: tuple[bytes, ...]) -> None:
    hostile(toy, [(FILE, name, b"other\n") for name in names])
    run_all(toy)
    assert (toy.workspace / os.fsdecode(names[0])).read_bytes() == b"other\n"


@pytest.mark.parametrize("name", [b".git/config", b".GIT/config", b"a/.git/hooks/x", b"git~1/config", b".git./x"])
def test_names_that_mean_the_repository_itself(toy: Toy, name: bytes) -> None:
    hostile(toy, [(FILE, name, b"[core]\n\tfsmonitor = touch /tmp/ran\n")])
    before = outside(toy)
    for verb in ("check", "apply"):
        done = toy.run(verb)
        assert done.code == 2, done.out + done.err
        assert os.fsdecode(name) in done.err
    assert outside(toy) == before
    assert not toy.workspace.exists()


@pytest.mark.parametrize("name", [".git/hooks/post-checkout", "a/.GIT/x", "git~1/x"])
def test_such_names_in_the_overlay(toy: Toy, name: str) -> None:
    toy.write_overlay({name: b"#!/bin/sh\n"})
    before = outside(toy)
    for verb in ("lock", "check", "apply"):
        done = toy.run(verb)
        assert (done.code, name in done.err) == (2, True), done.out + done.err
    assert outside(toy) == before


def test_a_submodule_is_neither_fetched_nor_entered(toy: Toy, tmp_path: Path) -> None:
    modules = b'[submodule "m"]\n\tpath = sub\n\turl = ext::touch %s\n\tupdate = !touch %s\n\tignore = none\n' % (
        (bytes(tmp_path / "ran"),) * 2
    )
    hostile(toy, [(FILE, b".gitmodules", modules), (SUBMODULE, b"sub", b"1" * 40), (SUBMODULE, b"-x", b"2" * 40)])
    run_all(toy)
    assert not (tmp_path / "ran").exists()
    assert list((toy.workspace / "sub").iterdir()) == []


ATTRIBUTES: Mapping[str, bytes] = {
    "lfs": b"*.bin filter=lfs diff=lfs merge=lfs -text\n",
    "crlf": b"* text eol=crlf\n*.png -text\n",
    "encoding": b"*.txt text working-tree-encoding=UTF-16\n",
    "ident": b"* ident\n",
    "drivers": b"* filter=evil diff=evil merge=evil\n",
    "broken": b"[attr]x y\n* [attr]\n\xff\xfe\n" + b"* a" * 3000 + b"\n",
}


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_attributes(toy: Toy, kind: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 12\n" % (b"0" * 64)
    data = [(FILE, b"w.bin", pointer), (FILE, b"a.txt", b"text $Id$\n")]
    hostile(toy, [(FILE, b".gitattributes", ATTRIBUTES[kind]), *data])
    run_all(toy)
    assert toy.read("w.bin").replace(b"\r\n", b"\n") == pointer


def test_a_huge_file(toy: Toy) -> None:
    size = 60 << 20
    hostile(toy, [(FILE, b"huge.txt", b"0123456789abcde\n" * (size >> 4)), (FILE, b"huge.yaml", b"a: 1\n" * 200000)])
    run_all(toy)
    assert (toy.workspace / "huge.txt").stat().st_size == size


def test_a_hostile_reference_name(toy: Toy) -> None:
    """git refuses the worst names itself; what is left must not be taken for an option or a command."""
    for name in ("--upload-pack=x", "a;touch${IFS}ran", "$(touch${IFS}ran)", "ü", "overlay", "refs/heads/main"):
        git(toy.upstream, "update-ref", f"refs/heads/{name}", toy.pin)
    run_all(toy)
    assert not list(toy.folder.rglob("ran"))
