"""Random commits: what is exported and applied again is what was committed; what is refused changes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from patchmaker import git, make_repo
from test_export import MODEL, YAML, commit
from toys import Toy, copy_toy, snapshot

from overlaykit.errors import RebaseThePatch
from overlaykit.exporting.fold import Step, fold
from overlaykit.exporting.sides import Work
from overlaykit.gitrepo import Entry, Repo
from overlaykit.project import read_project

# Lines that some reader of patches stumbles over, among plain ones.
PLAIN = ["", " ", "x = 1", "    pass", "\tx", "ä", "\x0c", "\u2028", "#", "-", "+", "\\ No newline at end of file"]
HEADS = ["--- a/x", "+++ b/x", "diff --git a/x b/x", "@@ -1 +1 @@", "-- ", "From x", "---", "<<<<<<< mine", "======="]
LINES = st.sampled_from([*PLAIN, *HEADS])
TEXT = st.lists(LINES, max_size=6)


def text_of(lines: list[str], newline: bool) -> bytes:
    return ("\n".join(lines) + ("\n" if newline and lines else "")).encode()


@st.composite
def edit(draw: st.DrawFn, data: bytes) -> bytes:
    """Some lines replaced by others, anywhere."""
    lines = data.decode().split("\n")
    start = draw(st.integers(0, len(lines)))
    end = min(len(lines), start + draw(st.integers(0, 3)))
    changed = [*lines[:start], *draw(TEXT), *lines[end:]]
    return "\n".join(changed).encode()


SUBJECTS = [
    "Say hello",
    "Größer: a change",
    "fixup! Choose autocast by device",
    "fixup! Drop what is old",
    "fixup! Say hello",
]
UPSTREAM = [MODEL, "demo.py", "minigpt4/hook.py", "README.md", YAML]
OVERLAY = ["run_predict.py", "minigpt4/models/port.py", "new.py", "deep/er/new file.txt"]


@settings(max_examples=7, deadline=None)
@given(data=st.data())
def test_export_of_an_apply_is_the_identity(applied_master: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        toy = copy_toy(applied_master, Path(folder) / "toy")
        for _ in range(data.draw(st.integers(1, 3), "commits")):
            make_a_commit(toy, data)
        toy.write("README.md", b"edited\n")
        before, workspace = snapshot(toy.project), snapshot(toy.workspace, inside_git=False)
        refs = toy.git("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/overlay")
        done = toy.run("export")
        event(f"exit {done.code}, {done.out.partition(' from ')[0]}")
        assert "Traceback" not in done.err
        assert snapshot(toy.workspace, inside_git=False) == workspace
        if done.code or "Nothing to export" in done.out:
            assert done.code in (0, 1, 2)
            assert snapshot(toy.project) == before
            assert toy.git("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/overlay") == refs
            return
        again = snapshot(toy.project)
        assert "Nothing to export" in toy.apply("export").out
        assert "Nothing to do" in toy.apply().out
        assert snapshot(toy.project) == again
        fresh = copy_toy(toy.folder, Path(folder) / "fresh")
        git(fresh.folder, "clone", "-q", str(toy.upstream), "elsewhere")
        fresh.workspace = fresh.folder / "elsewhere"
        settings_of = toy.apply("status", "--json").json["settings"]
        fresh.apply(*(word for name, value in settings_of.items() for word in ("--set", f"{name}={value}")))
        assert fresh.git("rev-parse", "HEAD^{tree}") == toy.git("rev-parse", "HEAD^{tree}")
        assert git_am(toy, Path(folder) / "am") == [patch.subject for patch in read_project(toy.project).series]


def make_a_commit(toy: Toy, data: st.DataObject) -> None:
    paths = data.draw(st.sampled_from([UPSTREAM, OVERLAY]), "side")
    files: dict[str, bytes | None] = {}
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2, unique=True), "paths"):
        there = (toy.workspace / path).exists()
        if there and path != YAML and data.draw(st.integers(0, 9), "delete") == 0:
            files[path] = None
        else:
            files[path] = data.draw(edit(toy.read(path) if there else b""), path)
    commit(toy, data.draw(st.sampled_from(SUBJECTS), "subject"), files)


def git_am(toy: Toy, folder: Path) -> list[str]:
    """A plain git takes the patches too."""
    git(toy.folder, "clone", "-q", str(toy.upstream), str(folder))
    names = [str(toy.project / "patches" / patch.name) for patch in read_project(toy.project).series]
    if names:
        git(folder, "am", "-q", "--keep-cr", *names)
    return git(folder, "log", "--reverse", "--format=%s", f"{toy.pin}..HEAD").decode().split("\n")[:-1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return Repo(make_repo(tmp_path_factory.mktemp("fold") / "repo", {"f": b"f\n"}) / ".git")


TREES = st.dictionaries(st.sampled_from("abc"), st.lists(st.sampled_from("123456"), max_size=8).map(tuple), max_size=3)


@settings(max_examples=60, deadline=None)
@given(trees=st.lists(TREES, min_size=3, max_size=5), targets=st.lists(st.integers(0, 9), min_size=1, max_size=3))
def test_folding_never_changes_the_final_tree(
    store: Repo, trees: list[dict[str, tuple[str, ...]]], targets: list[int]
) -> None:
    states = [files_of(store, tree) for tree in trees]
    base, *steps, last = states
    series = [Step(f"Step {number}\n", "A <a@b>", "0 +0000", files, None) for number, files in enumerate(steps)]
    works = [
        work(number, target % len(steps), files) for number, (target, files) in enumerate(zip(targets, [last, *steps]))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folded = fold(store, base, series, chained(works, steps[-1]), Path(scratch), Path(scratch))
        except RebaseThePatch:
            event("in the way")
            return
    event("folded")
    assert folded[-1].files == works[-1].files
    assert [step.message for step in folded] == [step.message for step in series]
    lowest = min(target % len(steps) for target in targets[: len(works)])
    assert [step.files for step in folded[:lowest]] == [step.files for step in series[:lowest]], "those below stay"


def files_of(store: Repo, tree: Mapping[str, tuple[str, ...]]) -> dict[str, Entry]:
    return {path: Entry("100644", store.write_blob(text_of(list(lines), True))) for path, lines in tree.items()}


def work(number: int, target: int, files: Mapping[str, Entry]) -> Work:
    return Work(f"{number}" * 40, f"fixup! Step {target}\n", "A <a@b>", "0 +0000", files, {}, ("?",), ())


def chained(works: list[Work], start: Mapping[str, Entry]) -> list[Work]:
    """Those that change something."""
    kept = []
    for one in works:
        if one.files != start:
            kept.append(one)
        start = one.files
    return kept


@pytest.mark.parametrize(("made", "deleted"), [("x/y", "x"), ("x", "x/y")])
def test_a_folder_and_a_file_of_one_name(store: Repo, tmp_path: Path, made: str, deleted: str) -> None:
    """The fixup fits on top, where a later patch has deleted what would be in its way below."""
    states = [files_of(store, tree) for tree in ({deleted: ("1",)}, {}, {made: ("2",)})]
    series = [Step(f"Step {number}\n", "A <a@b>", "0 +0000", files, None) for number, files in enumerate(states[:2])]
    with pytest.raises(RebaseThePatch) as told:
        fold(store, {}, series, [work(1, 0, states[2])], tmp_path, tmp_path)
    assert told.value.why == f'the new patch "Step 1", which comes later, changes the same lines: {made}'
