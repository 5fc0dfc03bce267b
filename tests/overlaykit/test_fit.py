"""What a maintainer reads when a hunk does not fit: the function, both lines, where the lines went, what to do."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchmaker import make_patch, make_repo

from overlaykit.enclosing import enclosing
from overlaykit.explaining.meaning import find_changes
from overlaykit.fit import Misfit, explain
from overlaykit.gitrepo import blob_id
from overlaykit.patchfile import Patch, parse_patch
from overlaykit.series import read_series

MODEL = b'''import torch
from peft import get_peft_model


class BaseModel:
    """Base."""

    def __init__(self):
        super().__init__()

    @property
    def device(self):
        return list(self.parameters())[0].device

    def maybe_autocast(self, dtype=torch.float16):
        # if on cpu, don't use autocast
        enable_autocast = self.device != torch.device("cpu")
        if enable_autocast:
            return torch.cuda.amp.autocast(dtype=dtype)
        return None


def tail():
    return 1
'''
PATCHED = MODEL.replace(b"torch.cuda.amp.autocast(dtype", b"torch.autocast(self.device.type, dtype")
CONFIG = b"model:\n  arch: x\n\n  # encoder\n  image_size: 224\n  freeze: True\n\nrun:\n  task: y\n"


@pytest.fixture(scope="module")
def patch(tmp_path_factory: pytest.TempPathFactory) -> Patch:
    files = {"pkg/model.py": MODEL}, {"pkg/model.py": PATCHED}
    return parse_patch("0001-Autocast.patch", make_patch(tmp_path_factory.mktemp("repo"), *files))


def misfits(patch: Patch, files: dict[str, bytes]) -> tuple[Misfit, ...]:
    return explain(patch, files.get, sorted(files))


def one(patch: Patch, data: bytes) -> Misfit:
    (misfit,) = misfits(patch, {"pkg/model.py": data})
    return misfit


def test_the_very_file_is_no_misfit(patch: Patch) -> None:
    assert misfits(patch, {"pkg/model.py": MODEL}) == ()


def test_a_changed_line_is_shown_with_its_function(patch: Patch) -> None:
    now = MODEL.replace(b' != torch.device("cpu")', b'.type != "cpu"')
    misfit = one(patch, now)
    assert (misfit.patch, misfit.path, misfit.line) == ("0001-Autocast.patch", "pkg/model.py", 17)
    assert misfit.function == "BaseModel.maybe_autocast"
    assert misfit.hunk == (1, patch.files[0].hunks[0].header)
    assert misfit.expected == '        enable_autocast = self.device != torch.device("cpu")'
    assert misfit.found == '        enable_autocast = self.device.type != "cpu"'
    assert "6 of its 7 old lines are still there" in misfit.hint
    assert "git log -L 16,22:pkg/model.py" in misfit.hint
    assert "pkg/model.py:17 in BaseModel.maybe_autocast, hunk 1 (@@" in str(misfit)


def test_moved_lines_are_found(patch: Patch) -> None:
    misfit = one(patch, MODEL.replace(b"import torch\n", b"import torch\nimport os\nimport re\n"))
    assert (misfit.line, misfit.function) == (16, "BaseModel.maybe_autocast")
    assert misfit.hint.startswith("All its lines are 2 lines lower, from line 18.")
    misfit = one(patch, MODEL.replace(b"from peft import get_peft_model\n", b""))
    assert misfit.hint.startswith("All its lines are 1 line higher, from line 15.")


def test_moved_and_changed_lines_are_found(patch: Patch) -> None:
    now = MODEL.replace(b"import torch\n", b"import torch\n" + b"import os\n" * 50)
    misfit = one(
        patch, now.replace(b"        if enable_autocast:\n", b"        if enable_autocast and self.training:\n")
    )
    assert (misfit.line, misfit.function) == (68, "BaseModel.maybe_autocast")
    assert misfit.expected == "        if enable_autocast:"
    assert misfit.found == "        if enable_autocast and self.training:"
    assert "50 lines lower, from line 66" in misfit.hint


def test_an_insertion_is_shown_where_it_is(patch: Patch) -> None:
    inserted = b"        log()\n        if enable_autocast:\n"
    misfit = one(patch, MODEL.replace(b"        if enable_autocast:\n", inserted))
    assert (misfit.line, misfit.expected) == (18, "        if enable_autocast:")
    assert misfit.found == "        log()"
    assert "7 of its 7 old lines are still there" in misfit.hint


def test_white_space_is_named(patch: Patch) -> None:
    misfit = one(patch, MODEL.replace(b"        if enable_autocast:\n", b"\tif enable_autocast:\n"))
    assert "Only white space differs." in misfit.hint
    assert misfit.found == "\tif enable_autocast:"  # the file no longer parses; the function is still found
    assert misfit.function == "BaseModel.maybe_autocast"


def test_a_line_that_went_elsewhere_is_found(patch: Patch) -> None:
    line = b'        enable_autocast = self.device != torch.device("cpu")\n'
    now = MODEL.replace(line, b"        enable_autocast = self.on()\n").replace(
        b"    return 1\n", b"    return 1\n\n\n" + line
    )
    assert "The expected line is now line 27" in one(patch, now).hint


def test_a_change_that_landed_is_recognised(patch: Patch) -> None:
    now = PATCHED.replace(b"import torch\n", b"import torch\nimport os\n")
    misfit = one(patch, now)
    assert misfit.hint == "Upstream already has what this hunk makes of it, from line 17: drop the hunk."
    assert misfit.function == "BaseModel.maybe_autocast"
    assert "drop the hunk" in one(patch, PATCHED).hint


def test_the_function_is_that_of_the_change_not_of_its_context(tmp_path: Path) -> None:
    new = MODEL.replace(b"    return 1\n", b"    return 2\n")
    patch = parse_patch("p", make_patch(tmp_path, {"m.py": MODEL}, {"m.py": new}))
    (misfit,) = misfits(patch, {"m.py": b"\n" + MODEL})
    assert patch.files[0].hunks[0].old_lines[0] == "\n"
    assert misfit.function == "tail"
    (misfit,) = misfits(patch, {"m.py": b"\n" + new})
    assert "drop the hunk" in misfit.hint
    assert misfit.function == "tail"


def test_a_rare_line_tells_more_than_many_common_ones(tmp_path: Path) -> None:
    common = b"try:\n    run()\n    %s\n    done()\nexcept E:\n    stop()\n"
    old = b"".join(common % b"usual()" for _ in range(4)) + common % b"rare()" + b"end\n"
    patch = parse_patch("p", make_patch(tmp_path, {"f": old}, {"f": old.replace(b"rare()", b"rare(1)")}))
    now = old.replace(common % b"rare()", b"a\nb\n    rare()\n    done()\n    c()\n    d()\n")
    (misfit,) = misfits(patch, {"f": now})
    assert now.split(b"\n")[24:28] == [b"a", b"b", b"    rare()", b"    done()"]
    assert "from line 24." in misfit.hint


def test_lines_that_are_gone_are_not_guessed(patch: Patch) -> None:
    misfit = one(patch, b"import torch\n\n\ndef other():\n    return None\n")
    assert misfit.hint.startswith("Hardly any of its lines is left.")
    assert misfit.hint.endswith("-- pkg/model.py")
    assert misfit.found == "(end of the file)"
    common = b"        return None\n"  # this one line is no trace
    assert one(patch, common + b"x = 1\n" * 30).hint.startswith("Hardly any of its lines is left.")


def test_a_file_that_changed_elsewhere_is_a_misfit(patch: Patch) -> None:
    """git would apply the patch; but the change may have changed what the patch means."""
    now = MODEL.replace(b"return 1", b"return 2")
    misfit = one(patch, now)
    assert (misfit.hunk, misfit.line) == (None, 0)
    assert (misfit.expected, misfit.found) == (f"blob {blob_id(MODEL)}", f"blob {blob_id(now)}")
    assert f"git diff {blob_id(MODEL)} {blob_id(now)}" in misfit.hint


def test_a_missing_newline_at_the_end_is_shown(tmp_path: Path) -> None:
    patch = parse_patch("p", make_patch(tmp_path, {"f": b"a\nb\n"}, {"f": b"a\nc\n"}))
    (misfit,) = misfits(patch, {"f": b"a\nb"})
    assert (misfit.expected, misfit.found) == ("b", "b  (no newline at the end of the file)")


@pytest.mark.parametrize(
    ("paths", "guess"),
    [
        (["pkg/models/model.py", "other/x.py"], "The most similar path is pkg/models/model.py."),
        (["z/model.py", "pkg/mode.py"], "The most similar path is z/model.py."),  # the same name elsewhere wins
        (["pkg/modell.py", "x"], "The most similar path is pkg/modell.py."),
        (["x"], "See who removed it"),
    ],
)
def test_a_missing_file_names_the_nearest(patch: Patch, paths: list[str], guess: str) -> None:
    (misfit,) = explain(patch, lambda path: None, paths)
    assert (misfit.path, misfit.found) == ("pkg/model.py", "no such file")
    assert misfit.hint.startswith(guess)
    assert "git log --follow --diff-filter=DR -- pkg/model.py" in misfit.hint


def test_a_new_file_that_exists_already(tmp_path: Path) -> None:
    patch = parse_patch("p", make_patch(tmp_path, {"f": b"a\n"}, {"f": b"a\n", "new.py": b"x\n"}))
    assert misfits(patch, {"f": b"a\n"}) == ()
    assert "drop it from the patch" in misfits(patch, {"new.py": b"x\n"})[0].hint
    assert "Upstream now has a file of this name" in misfits(patch, {"new.py": b"y\n"})[0].hint


def test_every_misfit_is_reported(tmp_path: Path) -> None:
    old = {"a.py": b"".join(b"x%d = %d\n" % (n, n) for n in range(40)), "b.yaml": CONFIG}
    new = {
        "a.py": old["a.py"].replace(b"= 5\n", b"= 50\n").replace(b"= 30\n", b"= 300\n"),
        "b.yaml": CONFIG + b"z: 1\n",
    }
    patch = parse_patch("p", make_patch(tmp_path, old, new))
    now = {
        "a.py": old["a.py"].replace(b"= 4\n", b"= 44\n").replace(b"= 31\n", b"= 33\n"),
        "b.yaml": CONFIG[:-1] + b"y\n",
    }
    found = misfits(patch, now)
    assert [(m.path, m.hunk and m.hunk[0]) for m in found] == [("a.py", 1), ("a.py", 2), ("b.yaml", 1)]
    assert found[2].function == "run.task"


@pytest.mark.parametrize(
    ("path", "line", "name"),
    [
        ("m.py", 1, ""),
        ("m.py", 6, "BaseModel"),
        ("m.py", 11, "BaseModel.device"),  # a decorator belongs to its function
        ("m.py", 17, "BaseModel.maybe_autocast"),
        ("m.py", 24, "tail"),
        ("m.py", 99, ""),
        ("broken.py", 17, "BaseModel.maybe_autocast"),
        ("m.sh", 17, "from peft import get_peft_model"),
    ],
)
def test_the_enclosing_function(path: str, line: int, name: str) -> None:
    text = MODEL.decode() + ("<<<<<<< conflict\n" if path == "broken.py" else "")
    if path == "m.sh":
        text = text.replace("class ", " class ")
    assert enclosing(path, text.splitlines(keepends=True), line) == name


DEEP = {
    "signs": "-" * 5000 + "1",
    "more signs": "-" * 100_000 + "1",
    "sum": "1 + " * 700 + "1",
    "dots": "a" + ".b" * 999,
}


@pytest.mark.parametrize("case", DEEP)
def test_python_that_is_nested_without_end(case: str) -> None:
    lines = ["def f():\n", f"    x = {DEEP[case]}\n", "    return x\n"]
    assert enclosing("a.py", lines, 2) == "f"
    text = "".join(lines).encode()
    changed = list(find_changes(text, text + b"y = 1\n", text, (), lambda name: ()))
    assert all("cannot be compared" in finding.what for finding in changed)


def test_pythons_warnings_about_upstream_are_not_shown(recwarn: pytest.WarningsRecorder) -> None:
    assert enclosing("a.py", ["def f():\n", "    return '\\d'\n"], 2) == "f"
    assert not recwarn.list


def test_the_enclosing_key() -> None:
    lines = CONFIG.decode().splitlines(keepends=True)
    assert [enclosing("c.yaml", lines, n) for n in (1, 2, 5, 9)] == [
        "model",
        "model.arch",
        "model.image_size",
        "run.task",
    ]
    assert enclosing("Makefile", ["all:\n", "\techo\n", "\techo\n"], 3) == "all:"


LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"\n", b"c\n", b"return x\n", b"\xff\n"]), max_size=14)


@settings(max_examples=60, deadline=None)
@given(old=LINES, new=LINES, now=LINES, cut=st.booleans())
def test_silent_exactly_when_the_file_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, old: list[bytes], new: list[bytes], now: list[bytes], cut: bool
) -> None:
    """Whatever the file holds now: a reason for every other file, none for the same one, and never a crash."""
    before, after, data = (b"".join(lines)[: -1 if cut else None] for lines in (old, new, now))
    if before == after:
        return
    raw = make_patch(tmp_path_factory.mktemp("repo"), {"f": before}, {"f": after}, "S\n")
    patch = parse_patch("p", raw)
    assert (misfits(patch, {"f": data}) == ()) == (data == before)
    assert misfits(patch, {"f": before}) == ()
    assert all(str(misfit) for misfit in misfits(patch, {"f": data}))


# --- the real history: the five files that the port edits differ at these commits -------------------------------

PATCHES = Path(__file__).parents[2] / "patches"
COMMITS = ["bf605d5", "226cb38", "ada58a6", "89b6fbf", "99383a9", "7a575af"]


def shower(repo: Path, commit: str) -> dict[str, bytes]:
    """All files of a commit that the patches touch."""
    touched = {file.path for patch in read_series(PATCHES) for file in patch.files}
    files = {}
    for path in touched:
        done = subprocess.run(["git", "-C", str(repo), "show", f"{commit}:{path}"], capture_output=True)
        if done.returncode == 0:
            files[path] = done.stdout
    return files


@pytest.mark.upstream
@pytest.mark.parametrize("commit", COMMITS)
def test_the_explanation_agrees_with_git_on_real_history(upstream_repo: Path, tmp_path: Path, commit: str) -> None:
    """For the first patch of each file (later ones build on it): no hunk to explain if and only if git applies it."""
    files = shower(upstream_repo, commit)
    plain = make_repo(tmp_path, files)
    seen: set[str] = set()
    explained = 0
    for patch in read_series(PATCHES):
        first = not seen & {file.path for file in patch.files}
        seen |= {file.path for file in patch.files}
        found = explain(patch, files.get)
        same = all(blob_id(files.get(f.path, b"")) == f.old_blob for f in patch.files if f.old_path)
        assert bool(found) != same
        if not first:
            continue
        explained += len(found)
        applies = subprocess.run(
            ["git", "-C", str(plain), "apply", "--check", "-"], input=patch.diff, capture_output=True
        )
        if applies.returncode:
            assert any(misfit.hunk or misfit.found == "no such file" for misfit in found)
        elif found:  # git tolerates offsets; then the lines are all there, only elsewhere
            assert all(misfit.hunk is None or "All its lines are" in misfit.hint for misfit in found)
        for misfit in found:
            now = files.get(misfit.path, b"").decode().split("\n")
            if misfit.hunk and misfit.found != "(end of the file)":
                assert now[misfit.line - 1] == misfit.found.replace("  (no newline at the end of the file)", "")
    assert explained


@pytest.mark.upstream
def test_the_pin_fits_and_older_upstream_names_the_function(upstream_repo: Path) -> None:
    series = {patch.name[5:]: patch for patch in read_series(PATCHES)}
    at_pin = shower(upstream_repo, "d94738a7626ec43eba6c2cddf3cd2043f1a9689a")
    assert explain(series["Remove-peft.patch"], at_pin.get) == ()
    autocast = series["Choose-autocast-and-dtype-by-device.patch"]
    found = explain(autocast, shower(upstream_repo, "bf605d5").get)
    assert "BaseModel.maybe_autocast" in [misfit.function for misfit in found]
