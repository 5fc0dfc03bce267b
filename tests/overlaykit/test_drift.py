"""Patches that still apply while what they depend on changed: which futures are drift, and which are not."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest
from futures import AUTOCAST, MODEL, WHY, Future
from patchmaker import CLEAN

from overlaykit.explaining.drift import Drift, accepted, find_drift, record
from overlaykit.explaining.pyast import canonical
from overlaykit.explaining.whereabouts import renamed_to

PATH = "model/base.py"
ENABLE = b'enable = self.device() != "cpu"'
REWRITTEN = MODEL.replace(ENABLE, b"enable = self.training")


@pytest.fixture
def future(tmp_path: Path) -> Future:
    return Future(tmp_path / "repo", {PATH: MODEL, "model/other.py": b"other = 1\n"})


def drifts(future: Future, text: bytes = MODEL.replace(*AUTOCAST)) -> tuple[Drift, ...]:
    """A patch that makes `text` of the model, rebased without a conflict."""
    before = future.patch({PATH: text})
    assert future.rebase() is None
    after = future.after()[0]
    repo = future.repo
    renames = renamed_to(repo, future.old, future.new)
    return find_drift(repo, future.old, future.new, before, after, future.old, renames)


def told(found: tuple[Drift, ...]) -> list[tuple[str, str]]:
    return [(drift.symbol, drift.what) for drift in found]


def test_a_function_rewritten_around_a_hook(future: Future) -> None:
    future.upstream("Unrelated", {"model/other.py": b"other = 2\n"})
    commit = future.upstream("Autocast only when training", {PATH: REWRITTEN})
    (drift,) = drifts(future)
    assert (drift.patch, drift.path, drift.symbol) == ("0001-words.patch", PATH, "BaseModel.maybe_autocast")
    assert drift.what == "changed"
    assert [culprit.subject for culprit in drift.culprits] == ["Autocast only when training"]
    shown = subprocess.run(["sh", "-c", drift.look], cwd=future.folder, env=CLEAN, capture_output=True, check=True)
    assert commit in shown.stdout.decode()
    assert "+        enable = self.training" in shown.stdout.decode()
    assert str(drift).startswith("0001-words.patch: model/base.py: BaseModel.maybe_autocast changed\n  ")


DOCSTRING = b'dtype=None):\n        """Enter autocast\n        where there is some."""\n'


@pytest.mark.parametrize(
    "text",
    [
        MODEL.replace(b"        enable =", b"        # ask the device\n        enable ="),
        MODEL.replace(b"dtype=None):\n", DOCSTRING),
        MODEL.replace(ENABLE, b"enable = (\n            self.device() != 'cpu'\n        )"),
        MODEL.replace(b"torch.load(path)", b"torch.load(path, 'cpu')"),  # another function
        MODEL.replace(b"import torch\n", b"import sys\n\nimport torch\n"),
        MODEL.replace(b"class BaseModel:", b"class BaseModel(object):"),
    ],
)
def test_what_does_not_change_the_meaning_is_no_drift(future: Future, text: bytes) -> None:
    future.upstream("Tidy", {PATH: text})
    assert drifts(future) == ()


@pytest.mark.parametrize(
    "text",
    [
        MODEL.replace(b"dtype=None", b"dtype=torch.float16"),
        MODEL.replace(b"    def maybe_autocast", b"    @property\n    def maybe_autocast"),
        MODEL.replace(b"(self, dtype=None)", b"(self, dtype=None, *, kind: str = 'cuda')"),
    ],
)
def test_defaults_decorators_and_arguments_are_drift(future: Future, text: bytes) -> None:
    future.upstream("Change", {PATH: text})
    assert told(drifts(future)) == [("BaseModel.maybe_autocast", "changed")]


def test_a_function_that_only_moved_is_no_drift(future: Future) -> None:
    method = MODEL[MODEL.index(b"    def maybe_autocast") : MODEL.index(b"    def load")]
    moved = MODEL.replace(method, b"").replace(b"    def device", method + b"    def device")
    future.upstream("Sort methods", {PATH: moved})
    assert drifts(future) == ()


@pytest.mark.parametrize("text", [MODEL, REWRITTEN])
def test_a_renamed_file_is_followed(future: Future, text: bytes) -> None:
    future.upstream("Move", {PATH: None, "core/model.py": MODEL})
    future.upstream("Perhaps change", {"core/model.py": text})
    found = drifts(future)
    if text == MODEL:
        assert found == ()
    else:
        (drift,) = found
        assert drift.path == "core/model.py"
        assert [culprit.subject for culprit in drift.culprits] == ["Perhaps change"]
        subprocess.run(["sh", "-c", drift.look], cwd=future.folder, env=CLEAN, capture_output=True, check=True)


def test_a_renamed_method_is_gone_under_its_name(future: Future) -> None:
    future.upstream("Rename", {PATH: MODEL.replace(b"maybe_autocast", b"autocast_if_any")})
    ((symbol, what),) = told(drifts(future))
    assert (symbol, what) == ("BaseModel.maybe_autocast", "is gone")


def test_new_users_of_a_name_that_an_import_binds(future: Future) -> None:
    """The patch takes torch away from a module that did not need it; upstream starts to need it."""
    text = MODEL.replace(b"import contextlib\nimport torch\n", b"import contextlib\n\nfrom other import torch\n")
    new = MODEL.replace(b"return sum(", b"return torch.tensor(")
    future.upstream("Count with torch", {PATH: new})
    future.upstream("Not about torch", {PATH: new.replace(b'"cuda:0"', b'"cuda:1"')})
    (drift,) = drifts(future, text)
    assert (drift.symbol, drift.what) == ("number_of_parameters", "uses torch now, which the patch changes")
    assert [culprit.subject for culprit in drift.culprits] == ["Count with torch"]


def test_changed_users_of_a_name_that_an_import_binds(future: Future) -> None:
    text = MODEL.replace(b"import torch\n", b"from other import torch\n")
    future.upstream("Load to the CPU", {PATH: MODEL.replace(b"torch.load(path)", b"torch.load(path, 'cpu')")})
    what = "changed, and has to do with torch, which the patch changes"
    assert told(drifts(future, text)) == [("BaseModel.load", what)]


TABLE = b"""
TABLE = {
    "a": 1,
    "b": 2,
    "c": 3,
    "d": 4,
    "e": 5,
    "f": 6,
    "g": 7,
}
"""


def test_a_statement_at_module_level(tmp_path: Path) -> None:
    future = Future(tmp_path / "repo", {PATH: MODEL + TABLE})
    future.upstream("Other lines of the file", {PATH: MODEL.replace(b"cuda:0", b"cuda:1") + TABLE})
    future.upstream("The last entry", {PATH: MODEL + TABLE.replace(b"7", b"77")})
    (drift,) = drifts(future, MODEL + TABLE.replace(b'"a": 1', b'"a": 11'))
    assert (drift.symbol, drift.what) == ("module", "statement `TABLE = {` changed")
    assert [culprit.subject for culprit in drift.culprits] == ["The last entry"]


def test_a_class_counts_without_its_methods(tmp_path: Path) -> None:
    text = MODEL.replace(
        b"class BaseModel:\n", b"class BaseModel:\n    kind = 'cuda'\n    size = 1\n\n    deep = 1\n\n"
    )
    future = Future(tmp_path / "repo", {PATH: text})
    wanted = text.replace(b"    kind = 'cuda'\n", b"    kind = 'npu'\n")
    future.upstream("A method", {PATH: text.replace(*AUTOCAST)})
    future.upstream("An attribute", {PATH: text.replace(*AUTOCAST).replace(b"deep = 1", b"deep = 2")})
    (drift,) = drifts(future, wanted)
    assert (drift.symbol, drift.what) == ("BaseModel", "changed")
    assert [culprit.subject for culprit in drift.culprits] == ["An attribute"]


def test_a_function_that_the_patch_adds_and_upstream_too(future: Future) -> None:
    kind = b"    def kind(self):\n        return 'cuda'\n\n"
    future.upstream("Kind", {PATH: MODEL.replace(b"    def load", kind + b"    def load")})
    found = drifts(future, MODEL.replace(b"    def device", kind.replace(b"cuda", b"npu") + b"    def device"))
    assert told(found) == [("BaseModel.kind", "is added by the patch, and upstream now has its own")]


def test_a_file_whose_part_of_the_patch_landed_is_still_compared(tmp_path: Path) -> None:
    future = Future(tmp_path / "repo", {PATH: MODEL, "model/twin.py": MODEL})
    future.upstream("Half of it", {PATH: REWRITTEN.replace(*AUTOCAST)})
    before = future.patch({PATH: MODEL.replace(*AUTOCAST), "model/twin.py": MODEL.replace(*AUTOCAST)})
    assert future.rebase() is None
    (after,) = future.after()
    assert [change.path for change in after.files] == ["model/twin.py"]
    (drift,) = find_drift(future.repo, future.old, future.new, before, after, future.old, {})
    assert (drift.path, drift.symbol) == (PATH, "BaseModel.maybe_autocast")


def test_a_function_that_was_carried_to_another_file_is_compared_there(future: Future) -> None:
    method = REWRITTEN[REWRITTEN.index(b"    def maybe_autocast") : REWRITTEN.index(b"    def load")]
    future.upstream("Split", {PATH: None, "core/autocast.py": b"class BaseModel:\n" + method})
    before = future.patch({PATH: MODEL.replace(*AUTOCAST)})
    later = Future(future.folder / "later", {"core/autocast.py": b"class BaseModel:\n" + method})
    after = later.patch({"core/autocast.py": b"class BaseModel:\n" + method.replace(*AUTOCAST)})
    (drift,) = find_drift(future.repo, future.old, future.new, before, after, future.old, {})
    assert (drift.path, drift.symbol, drift.what) == ("core/autocast.py", "BaseModel.maybe_autocast", "changed")
    assert [culprit.subject for culprit in drift.culprits] == ["Split"]


def test_what_is_not_python_is_left_alone(tmp_path: Path) -> None:
    yaml = b"".join(b"key%d: 1\n" % number for number in range(20))
    future = Future(tmp_path / "repo", {"a.yaml": yaml})
    future.upstream("Other key", {"a.yaml": yaml.replace(b"key19: 1", b"key19: 2")})
    before = future.patch({"a.yaml": yaml.replace(b"key1: 1", b"key1: 2")})
    assert future.rebase() is None
    assert find_drift(future.repo, future.old, future.new, before, future.after()[0], future.old, {}) == ()


def test_a_file_that_cannot_be_parsed_is_reported_not_skipped(future: Future) -> None:
    future.upstream("Python 2", {PATH: MODEL + b"\nprint 'hello'\n"})
    ((symbol, what),) = told(drifts(future))
    assert symbol == "module"
    assert what == "cannot be compared, and the file changed (line 24 of upstream's new version is not Python)"


# ---- decisions ----


def test_a_decision_holds_for_exactly_the_code_that_was_read(tmp_path: Path, future: Future) -> None:
    future.upstream("Autocast only when training", {PATH: REWRITTEN})
    (drift,) = drifts(future)
    message = record(WHY, [drift, drift])
    assert message == WHY + f"Drift-Reviewed: model/base.py BaseModel.maybe_autocast {drift.digest}\n"
    assert not accepted(future.patch({PATH: MODEL + b"# 1\n"}, WHY), drift)
    patch = future.patch({PATH: MODEL + b"# 2\n"}, message)
    assert accepted(patch, drift)
    later = Future(tmp_path / "later", {PATH: MODEL})
    later.upstream("Autocast in another way", {PATH: REWRITTEN.replace(b"self.training", b"self.eval")})
    (other,) = drifts(later)
    assert not accepted(patch, other)
    assert record(message, [other]) == WHY + f"Drift-Reviewed: {other.decision}\n"


def test_a_message_without_trailers_gets_a_paragraph(future: Future) -> None:
    future.upstream("Autocast only when training", {PATH: REWRITTEN})
    found = drifts(future)
    assert record("Subject\n", found) == f"Subject\n\nDrift-Reviewed: {found[0].decision}\n"
    assert record("Subject\n", []) == "Subject\n"


def test_the_digest_is_the_same_in_every_version_of_python(future: Future) -> None:
    """A decision is kept in the patch for years, and read by whatever Python there is then."""
    future.upstream("Autocast only when training", {PATH: REWRITTEN})
    (drift,) = drifts(future)
    assert drift.digest == "b35e71c2b78a"


def test_versions_of_python_that_see_other_trees_agree() -> None:
    """Python 3.12 ends parts of some f-strings with an empty one; what is newer is empty where it is not used."""
    (statement,) = ast.parse('f"{x:{width}}"').body
    (other,) = ast.parse('f"{x:{width}}"').body
    part = next(node for node in ast.walk(other) if isinstance(node, ast.JoinedStr) and node is not other.value)
    part.values.append(ast.Constant(value=""))
    assert canonical(statement) == canonical(other)
    (function,) = ast.parse("def f(): pass").body
    assert "type_params" not in canonical(function)
    assert canonical(ast.parse("u'text'")) == canonical(ast.parse("'text'"))
