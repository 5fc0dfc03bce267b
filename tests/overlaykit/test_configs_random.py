"""The in-place edit by property, on drawn files and on upstream's own: PyYAML alone says what a file means."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from yaml_edits import get_value, set_value

from overlaykit.errors import FixTheProjectFile
from overlaykit.project import read_upstream
from overlaykit.yamltext import Document, Value, same

PIN = read_upstream(Path(__file__).parents[2] / "configs" / "upstream.yaml")
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
LINE_END = st.sampled_from(["\n", "\r\n"])
VALUES = st.one_of(
    st.text(max_size=20),
    st.text(st.sampled_from("ab/$ '\"\\#:{}[],&*!|>%@`-?~\n\t=<.0e"), max_size=12),
    st.sampled_from(["yes", "null", "~", "0x1F", "1_0", "12:30", ".inf", "2024-01-01", "<<", "=", "- a", "a: b"]),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.none(),
)


@st.composite
def scalars(draw: st.DrawFn) -> str:
    """A value as somebody may have written it, on one line."""
    word = draw(WORDS)
    plain = draw(st.sampled_from(["old", "True", "3", "1e-5", "~", "/a/b", "two words", "图像", "", "x#y", "${m}/w"]))
    single = "'" + word.replace("'", "''") + "'"
    double = '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
    prefix = draw(st.sampled_from(["", "", "", "&an ", "!!str "]))
    return prefix + draw(st.sampled_from([plain, single, double]))


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """A YAML file as people write them, and its dotted keys that hold a value of their own."""
    end = draw(LINE_END)
    out = [draw(st.sampled_from(["", "", "\ufeff", "# head" + end, "---" + end]))]
    keys = []
    if draw(st.booleans()):
        out.append(f"base: &base {{k: &v 1, l: 'x'}}{end}other: *v{end}")
    for section in draw(st.lists(st.sampled_from(["model", "run", "数据", "'q k'"]), unique=True, min_size=1)):
        name = section.strip("'")
        style = draw(st.sampled_from(["block", "block", "flow", "merge"]))
        names = draw(st.lists(st.sampled_from(["a", "b", "ckpt", "low_resource", "1"]), unique=True, min_size=1))
        keys += [f"{name}.{key}" for key in names]
        if style == "flow":
            out.append(section + ": {" + ", ".join(f"{key}: {draw(scalars())}" for key in names) + "}" + end)
            continue
        indent = " " * draw(st.integers(1, 5))
        out.append(f"{section}:{draw(st.sampled_from(['', '   # why', ' &anchor']))}{end}")
        if style == "merge" and "&base" in out[1]:
            out.append(f"{indent}<<: *base{end}")
        for key in names:
            out.append(draw(st.sampled_from(["", "", end, f"{indent}# about{end}", f"    # odd{end}"])))
            if draw(st.integers(0, 5)) == 0:
                keys.remove(f"{name}.{key}")
                out.append(f"{indent}{key}: {draw(st.sampled_from('|>'))}{end}{indent}  some{end}{indent}  text{end}")
            else:
                out.append(f"{indent}{key}:{' ' * draw(st.integers(1, 3))}{draw(scalars())}")
                out.append(draw(st.sampled_from(["", " ", "  # note: 'x'", "\t# tab"])) + end)
    data = "".join(out).encode()
    return (data.rstrip(b"\r\n") if draw(st.booleans()) else data), keys


def meaning(data: bytes) -> object:
    return yaml.safe_load(io.StringIO(data.decode()))


def lookup(tree: object, key: str) -> object:
    for part in key.split("."):
        assert isinstance(tree, dict)
        tree = {str(name): value for name, value in tree.items()}[part]
    return tree


@settings(max_examples=150, deadline=None)
@given(file=files(), data=st.data())
def test_only_the_values_own_characters_change(file: tuple[bytes, list[str]], data: st.DataObject) -> None:
    """PyYAML alone, not our reader, says what the files mean."""
    text, keys = file
    try:
        before = meaning(text)
    except yaml.YAMLError:
        assume(False)
    assume(keys)
    chosen = data.draw(st.lists(st.sampled_from(keys), unique=True, min_size=1, max_size=3))
    values = {key: data.draw(VALUES) for key in chosen}
    try:
        new = Document("f.yaml", text).replace(values)
    except FixTheProjectFile:
        # Refusing is allowed only where a tag in front would turn the new value into another.
        assert b"!!str" in text
        assert not all(isinstance(value, str) for value in values.values())
        return
    after = meaning(new)
    for key, value in values.items():
        assert same(lookup(after, key), value) or same(lookup(before, key), value)
    assert paths_that_differ(before, after, "") <= set(values)
    assert outside_is_equal(text.decode(), new.decode(), chosen)
    assert Document("f.yaml", new).replace(values) == new


def paths_that_differ(one: object, other: object, at: str) -> set[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        assert list(one) == list(other)
        return set().union(*(paths_that_differ(one[k], other[k], f"{at}.{k}" if at else str(k)) for k in one), set())
    return set() if type(one) is type(other) and repr(one) == repr(other) else {at}


def outside_is_equal(old: str, new: str, keys: list[str]) -> bool:
    """Blank out the scalars of these keys in both texts: what is left must be the same characters."""

    def blanked(text: str) -> str:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        spans = []
        for key in keys:
            node = root
            for part in key.split("."):
                node = next(value for name, value in node.value if name.value == part)
            start, end = node.start_mark.index, node.end_mark.index
            for prefix in ("&an ", "!!str ", "&an", "!!str"):
                if text[start:end].startswith(prefix):
                    start += len(prefix)
            spans.append((start, end))
        for start, end in sorted(spans, reverse=True):
            text = text[:start].rstrip(" ") + "\0" + text[end:]
        return text

    return blanked(old) == blanked(new)


@settings(max_examples=300, deadline=None)
@given(
    value=VALUES,
    style=st.sampled_from(["a: old # c\n", "a: 'old' # c\n", 'a: "old" # c\n', "{a: old} # c\n", "a: # c\n"]),
)
def test_every_value_can_be_written_in_every_style(value: Value, style: str) -> None:
    new = set_value(style.encode(), "a", value)
    assert new.decode().startswith(style[: style.index(":") + 1])
    assert new.decode().endswith(" # c\n")
    assert same(yaml.safe_load(io.StringIO(new.decode()))["a"], value)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60))
def test_no_bytes_crash_it(data: bytes) -> None:
    try:
        new = set_value(data, "a", "/new")
    except FixTheProjectFile:
        return
    assert get_value(new, "a") == "/new"


@pytest.mark.upstream
def test_every_value_of_every_upstream_file_can_be_rewritten(upstream_repo: Path) -> None:
    def show(*args: str) -> bytes:
        return subprocess.run(["git", "-C", str(upstream_repo), *args], check=True, capture_output=True).stdout

    names = show("ls-tree", "-r", "--name-only", PIN.commit).decode().split("\n")
    seen = 0
    for name in names:
        if not name.endswith((".yaml", ".yml")):
            continue
        data = show("show", f"{PIN.commit}:{name}")
        document = Document(name, data)
        keys = document.scalar_keys()
        for value in ("/data/图/x.pth", False):
            new = document.replace(dict.fromkeys(keys, value))
            after = meaning(new)
            assert all(same(lookup(after, key), value) for key in keys)
            assert paths_that_differ(meaning(data), after, "") <= set(keys)
            assert outside_is_equal(data.decode(), new.decode(), keys)
        seen += len(keys)
    assert seen > 300
