"""What a maintainer reads when a patch meets a changed upstream: one future each, with a real `git rebase`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from futures import AUTOCAST, MODEL, WHY, Future
from patchmaker import CLEAN, git

from overlaykit.explaining.conflict import Conflict, Kind, explain_conflicts

PATH = "model/base.py"
PATCHED = MODEL.replace(*AUTOCAST)


@pytest.fixture
def future(tmp_path: Path) -> Future:
    return Future(tmp_path / "repo", {PATH: MODEL, "model/other.py": b"other = 1\n", "README.md": b"# Toy\n"})


def explain(future: Future, changes: dict[str, bytes | None], message: str = WHY) -> tuple[Conflict, ...]:
    """Make the patch, rebase it onto the future's upstream, where it must stop."""
    patch = future.patch(changes, message)
    stopped = future.rebase()
    assert stopped is not None, "the rebase did not stop"
    return explain_conflicts(stopped, patch, future.old, future.new)


def subjects(conflict: Conflict) -> list[str]:
    return [culprit.subject for culprit in conflict.culprits]


def test_a_content_conflict_names_patch_place_and_culprit(future: Future) -> None:
    future.upstream("Unrelated", {"README.md": b"# A toy\n"})
    future.upstream("Autocast to bfloat16", {PATH: MODEL.replace(b"dtype=dtype)", b"dtype=torch.bfloat16)")})
    (conflict,) = explain(future, {PATH: PATCHED})
    assert conflict.patch == "0001-words.patch"
    assert conflict.subject == "Choose autocast by device"
    assert conflict.why == "torch.cuda.amp.autocast switches itself off without CUDA."
    assert (conflict.path, conflict.kind, conflict.line) == (PATH, Kind.CONTENT, 12)
    assert conflict.function == "BaseModel.maybe_autocast"
    assert conflict.upstream == ("            return torch.cuda.amp.autocast(dtype=torch.bfloat16)",)
    assert conflict.base == ("            return torch.cuda.amp.autocast(dtype=dtype)",)
    assert conflict.patched == ("            return torch.autocast(self.kind, dtype=dtype)",)
    assert subjects(conflict) == ["Autocast to bfloat16"]
    assert conflict.hint == (
        "Upstream removed `return torch.cuda.amp.autocast(dtype=dtype)` and added "
        "`return torch.cuda.amp.autocast(dtype=torch.bfloat16)` where the patch changes lines too. "
        "Make the patch's change again on upstream's lines: "
        "`return torch.cuda.amp.autocast(dtype=dtype)` becomes `return torch.autocast(self.kind, dtype=dtype)`."
    )
    text = str(conflict)
    assert "model/base.py:12 in BaseModel.maybe_autocast: both changed these lines" in text
    assert "touched by " in text


def test_a_landed_change_says_keep_upstreams_lines(future: Future) -> None:
    landed = MODEL.replace(AUTOCAST[0], AUTOCAST[1] + b"  # any device").replace(b"return self\n", b"return None\n")
    future.upstream("Autocast on any device", {PATH: landed.replace(b"  # any device", b"\n            # any device")})
    (conflict,) = explain(future, {PATH: PATCHED})
    assert subjects(conflict) == ["Autocast on any device"]
    assert conflict.hint == "Upstream already has every line that the patch adds here. Keep upstream's lines."


def test_a_neighbour_edit_says_keep_both(future: Future) -> None:
    future.upstream("Ask nobody", {PATH: MODEL.replace(b"        if enable:\n", b"        if enable or dtype:\n")})
    (conflict,) = explain(future, {PATH: PATCHED})
    assert subjects(conflict) == ["Ask nobody"]
    assert conflict.hint == (
        "Upstream changed `if enable:` beside the patch's lines, not the lines themselves. Keep both changes."
    )


def test_two_conflicts_in_a_file_are_two_explanations(future: Future) -> None:
    changed = MODEL.replace(b'"cuda:0"', b'"cuda:1"')
    future.upstream("Second card", {PATH: changed})
    future.upstream("Map to the CPU", {PATH: changed.replace(b"torch.load(path)", b'torch.load(path, "cpu")')})
    wanted = MODEL.replace(b'"cuda:0"', b'"npu:0"').replace(b"torch.load(path)", b"torch.load(path, weights_only=True)")
    first, second = explain(future, {PATH: wanted})
    assert (first.line, first.function, subjects(first)) == (7, "BaseModel.device", ["Second card"])
    assert (second.function, subjects(second)) == ("BaseModel.load", ["Map to the CPU"])
    marker = (future.rebased / PATH).read_text().split("\n")[second.line - 1]
    assert marker.startswith("<<<<<<< ")


def test_lines_that_look_like_markers_mislead_nobody(future: Future) -> None:
    heading = b'"""Title\n=======\n<<<<<<< HEAD\n>>>>>>> x\n"""\n'
    future.files[PATH] = heading + MODEL
    future.upstream("Title", {})
    future.old = future.new
    future.upstream("Second card", {PATH: heading + MODEL.replace(b'"cuda:0"', b'"cuda:1"')})
    (conflict,) = explain(future, {PATH: heading + MODEL.replace(b'"cuda:0"', b'"npu:0"')})
    assert conflict.line == 12
    assert conflict.upstream == ('        return "cuda:1"',)
    assert conflict.function == "BaseModel.device"


def test_a_deleted_file_names_who_deleted_it(future: Future) -> None:
    future.upstream("Drop the old model", {PATH: None})
    future.upstream("Later", {"README.md": b"# A toy\n"})
    (conflict,) = explain(future, {PATH: PATCHED})
    assert (conflict.kind, conflict.line, conflict.function) == (
        Kind.DELETED_UPSTREAM,
        0,
        "BaseModel.maybe_autocast",
    )
    assert subjects(conflict) == ["Drop the old model"]
    assert conflict.hint == (
        "None of this hunk's lines is left anywhere upstream. Read the commit above for what replaces them; if nothing "
        "does, this part of the patch has no object any more: git rm -- model/base.py"
    )


def test_a_split_file_says_where_each_hunk_went(future: Future) -> None:
    """Three files, none of them similar enough to count as a rename."""
    head, load = MODEL.split(b"    def load")
    load, count = (b"    def load" + load).split(b"\n\n\ndef number")
    padding = b"".join(b"SETTING_%d = 'a value of its own'\n" % number for number in range(60))
    parts: dict[str, bytes | None] = {
        "model/autocast.py": head + padding,
        "model/loading.py": padding + b"class Loading:\n" + load + b"\n",
        "model/counting.py": b"def number" + count + padding,
        PATH: None,
    }
    future.upstream("Split the model", parts)
    wanted = PATCHED.replace(b"torch.load(path)", b"torch.load(path, weights_only=True)")
    wanted = wanted.replace(b"parameter.numel() for", b"parameter.size for")
    conflicts = explain(future, {PATH: wanted})
    assert [conflict.kind for conflict in conflicts] == [Kind.DELETED_UPSTREAM] * len(conflicts)
    hints = " ".join(conflict.hint for conflict in conflicts)
    assert "now in model/autocast.py:12 in BaseModel.maybe_autocast" in hints
    assert "model/counting.py:2 in number_of_parameters" in hints
    assert all(subjects(conflict) == ["Split the model"] for conflict in conflicts)


def test_a_renamed_file_is_followed_to_the_culprit(future: Future) -> None:
    changed = MODEL.replace(b"dtype=dtype)", b"dtype=torch.bfloat16)")
    future.upstream("Autocast to bfloat16", {PATH: changed})
    future.upstream("Move the model", {PATH: None, "core/model.py": changed})
    (conflict,) = explain(future, {PATH: PATCHED})
    assert (conflict.path, conflict.kind) == ("core/model.py", Kind.CONTENT)
    assert conflict.hint.startswith("Upstream renamed model/base.py to core/model.py. Upstream removed `return torch")
    assert subjects(conflict) == ["Autocast to bfloat16"]


def test_lines_that_moved_to_another_function(future: Future) -> None:
    line = b"            return torch.cuda.amp.autocast(dtype=dtype)\n"
    moved = MODEL.replace(line, b"            return amp(dtype)\n")
    helper = b"\n\ndef amp(dtype):\n    return torch.cuda.amp.autocast(dtype=dtype)\n"
    future.upstream("Put amp into a function", {PATH: moved, "model/other.py": b"other = 1\n" + helper})
    (conflict,) = explain(future, {PATH: PATCHED})
    assert "Upstream moved these lines: they are now in model/other.py:5 in amp." in conflict.hint
    assert subjects(conflict) == ["Put amp into a function"]


def test_a_method_that_moved_within_the_file(future: Future) -> None:
    start, end = MODEL.index(b"    def maybe_autocast"), MODEL.index(b"    def load")
    behind = b"\n\nclass Autocast:\n" + MODEL[start:end].rstrip(b"\n") + b"\n"
    future.upstream("Give autocast a class", {PATH: MODEL[:start] + MODEL[end:] + behind})
    (conflict,) = explain(future, {PATH: PATCHED})
    assert subjects(conflict) == ["Give autocast a class"]
    assert conflict.hint.startswith(
        "Upstream moved these lines: they are now in model/base.py:23 in Autocast.maybe_autocast. Make the patch's"
    )


def test_an_indented_block_is_called_so(future: Future) -> None:
    old = b"        if enable:\n            return torch.cuda.amp.autocast(dtype=dtype)\n"
    new = b"        with self.lock:\n" + old.replace(b"        if", b"            if").replace(
        b"            return", b" " * 16 + b"return"
    )
    future.upstream("Lock", {PATH: MODEL.replace(old, new)})
    (conflict,) = explain(future, {PATH: PATCHED})
    assert conflict.hint == (
        "Upstream kept these lines, but indented them anew (+4 columns), and put new lines around or between them "
        "(`with self.lock:`). Make the patch's change again on upstream's lines: "
        "`return torch.cuda.amp.autocast(dtype=dtype)` becomes `return torch.autocast(self.kind, dtype=dtype)`."
    )
    assert subjects(conflict) == ["Lock"]


def test_a_file_indented_anew_is_called_so(future: Future) -> None:
    future.upstream("Two spaces", {PATH: MODEL.replace(b"    ", b"  ")})
    (conflict,) = explain(future, {PATH: PATCHED})
    assert "Upstream only changed white space here" in conflict.hint
    assert subjects(conflict) == ["Two spaces"]


@pytest.mark.parametrize("crlf", [True, False])
def test_converted_line_ends_are_named_and_the_command_resolves(tmp_path: Path, crlf: bool) -> None:
    def ends(text: bytes, crlf: bool) -> bytes:
        return text.replace(b"\n", b"\r\n") if crlf else text

    future = Future(tmp_path / "repo", {PATH: ends(MODEL, not crlf)})
    future.upstream("Convert line ends", {PATH: ends(MODEL, crlf)})
    future.upstream("Second card", {PATH: ends(MODEL.replace(b'"cuda:0"', b'"cuda:1"'), crlf)})
    patch = future.patch({PATH: MODEL.replace(*AUTOCAST)}) if crlf else None
    if patch is None:  # the mail format of the patches has no CR: made of another version of the same patch
        patch = Future(tmp_path / "twin", {PATH: MODEL}).patch({PATH: PATCHED})
        git(future.folder, "checkout", "-q", "--detach", future.old)
        future.files = {PATH: ends(PATCHED, True)}
        future.patches.append(future._commit(future.files, WHY, "2024-03-01"))
    stopped = future.rebase()
    assert stopped is not None
    (conflict,) = explain_conflicts(stopped, patch, future.old, future.new)
    assert conflict.kind is Kind.LINE_ENDS
    assert subjects(conflict) == ["Convert line ends"]
    assert f"converted the file to {'CR LF' if crlf else 'LF'} line ends" in conflict.hint
    command = conflict.hint[conflict.hint.index("git checkout --ours") :]
    subprocess.run(["sh", "-c", command], cwd=future.rebased, env=CLEAN, check=True)
    expected = PATCHED.replace(b'"cuda:0"', b'"cuda:1"')
    assert (future.rebased / PATH).read_bytes() == ends(expected, crlf)


def test_a_file_that_both_add(future: Future) -> None:
    future.upstream("Add hooks", {"model/hook.py": b"HOOK = 'upstream'\n"})
    (conflict,) = explain(future, {"model/hook.py": b"HOOK = 'ours'\n"})
    assert conflict.kind is Kind.ADDED_BY_BOTH
    assert subjects(conflict) == ["Add hooks"]
    assert "give the patch's file another name" in conflict.hint


def test_a_file_that_the_patch_deletes(future: Future) -> None:
    future.upstream("Improve", {"model/other.py": b"other = 2\n"})
    (conflict,) = explain(future, {"model/other.py": None})
    assert conflict.kind is Kind.DELETED_BY_PATCH
    assert subjects(conflict) == ["Improve"]
    assert f"git diff {future.old[:12]} {future.new[:12]} -- model/other.py" in conflict.hint


def test_an_earlier_patch_in_the_way_is_named_as_such(future: Future) -> None:
    """The first patch was resolved in another way than it was made, and the second one stands on it."""
    future.upstream("Map to the CPU", {PATH: MODEL.replace(b"torch.load(path)", b'torch.load(path, "cpu")')})
    npu = MODEL.replace(b'"cuda:0"', b'"npu:0"')
    future.patch({PATH: npu.replace(b"torch.load(path)", b"torch.load(path, weights_only=True)")}, "Use the NPU\n")
    second = future.patch({PATH: (future.folder / PATH).read_bytes().replace(b'"npu:0"', b'"npu:7"')})
    stopped = future.rebase()
    assert stopped is not None
    (future.rebased / PATH).write_bytes(MODEL.replace(b'"cuda:0"', b"self.where"))
    git(future.rebased, "add", PATH)
    go_on = ["git", "-C", str(future.rebased), "-c", "core.editor=true", "rebase", "--continue"]
    subprocess.run(go_on, env=CLEAN, capture_output=True)
    (conflict,) = explain_conflicts(stopped, second, future.old, future.new)
    assert conflict.function == "BaseModel.device"
    assert conflict.culprits == ()
    assert "No upstream commit touched these lines: an earlier patch of the series did, 'Use the NPU'." in conflict.hint
