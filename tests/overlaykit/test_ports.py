"""overlay/ and the rules need files, keys, names and signatures of upstream: what a newer upstream breaks is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from patchmaker import git, make_repo, write_tree

from overlaykit.configs import load_rules
from overlaykit.gitrepo import Repo
from overlaykit.ports.ports import PortKind, PortProblem, check_ports

CHAT = b"""class Talk:
    def reset(self):
        self.turns = []


class Chat(Talk):
    def __init__(self, model, device="cuda:0"):
        self.model = model

    def ask(self, text, conv):
        return text

    def answer(self, conv, max_new_tokens=300):
        return conv


def load(path, strict=True):
    return path


TEMPLATE = Talk()
"""
MODEL = b"""model:
  arch: minigpt4
  llama_model: "please set this value to the path of vicuna"
  image_size: 224
"""
FILES = {
    "mini/__init__.py": b"from mini.chat import *\n",
    "mini/chat.py": CHAT,
    "mini/common/registry.py": b"class R:\n    def get(self, name):\n        return name\n\n\nregistry = R()\n",
    "mini/lazy/__init__.py": b"def __getattr__(name):\n    return name\n",
    "configs/model.yaml": MODEL,
    "configs/other.yaml": b"run:\n  task: text\n",
}
CODE = b"""import json

from mini.chat import Chat, load
from mini.common.registry import registry


def run(path):
    from mini import chat

    model = load(path)
    talk = Chat(model, device="cpu")
    talk.reset()
    talk.ask("hello", chat.TEMPLATE)
    return json.dumps(registry.get("name"))
"""
RULES = """rules:
  configs/model.yaml:
    llama_model: {key: model.llama_model, value: /data/llama}
"""


class Future:
    """An upstream and what it became, one commit per step; overlay files; and what is said of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repo = folder / "upstream"
        make_repo(self.repo, FILES)
        self.old = self.head()
        self.files: dict[str, bytes] = dict(FILES)
        self.rules = RULES
        self.overlay = {"run.py": CODE}

    def head(self) -> str:
        return git(self.repo, "rev-parse", "HEAD").decode().strip()

    def step(self, subject: str, changes: Mapping[str, bytes | None]) -> None:
        self.files = {path: data for path, data in {**self.files, **changes}.items() if data is not None}
        write_tree(self.repo, self.files)
        git(self.repo, "commit", "-q", "--allow-empty", "-m", subject)

    def edit(self, path: str, old: bytes, new: bytes, subject: str = "Change it") -> None:
        assert old in self.files[path]
        self.step(subject, {path: self.files[path].replace(old, new)})

    def check(self) -> tuple[PortProblem, ...]:
        overlay = {}
        for path, data in self.overlay.items():
            overlay[path] = self.folder / "overlay" / path
            overlay[path].parent.mkdir(parents=True, exist_ok=True)
            overlay[path].write_bytes(data)
        (self.folder / "paths.yaml").write_text(self.rules)
        rules = load_rules(self.folder / "paths.yaml")
        self.step("Something else", {"README.md": b"# Read\n"})
        new, repo = self.head(), Repo(self.repo / ".git")
        return check_ports(repo, self.old, new, overlay, rules, self.old, new)

    def only(self) -> PortProblem:
        (problem,) = self.check()
        return problem


@pytest.fixture
def future(tmp_path: Path) -> Future:
    return Future(tmp_path)


def subjects(problem: PortProblem) -> list[str]:
    return [culprit.subject for culprit in problem.culprits]


def test_nothing_is_said_of_an_upstream_that_changes_elsewhere(future: Future) -> None:
    future.edit("mini/chat.py", b"return text", b"return text + '!'")
    future.edit("mini/chat.py", b"def load(path, strict", b"# a comment\ndef load(path: str, strict: bool")
    future.step("Add", {"mini/new.py": b"x = 1\n", "configs/new.yaml": b"model:\n  size: 1\n"})
    assert future.check() == ()


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("run.py", "Keep one"),
        ("RUN.py", "Keep one"),
        ("run.py/inside.txt", "another name"),
    ],
)
def test_a_name_that_upstream_takes(future: Future, path: str, hint: str) -> None:
    future.step("Take the name", {path: b"upstream's\n"})
    problem = future.only()
    assert (problem.kind, problem.where) == (PortKind.COLLISION, "overlay/run.py")
    assert path.split("/")[0] in problem.what
    assert hint in problem.hint
    assert subjects(problem) == ["Take the name"]


def test_the_same_file_upstream_and_a_file_where_the_overlay_has_a_folder(future: Future) -> None:
    future.overlay = {"run.py": b"x = 1\n", "tools/port.py": b"x = 2\n"}
    future.step("Take both", {"run.py": b"x = 1\n", "Tools": b"a file\n"})
    same, folder = future.check()
    assert "Delete overlay/run.py" in same.hint
    assert (folder.where, folder.what) == ("overlay/tools/port.py", "Upstream has a file Tools.")


@pytest.mark.parametrize(
    ("new", "kind", "words"),
    [
        (MODEL.replace(b"llama_model", b"language_model"), PortKind.KEY_MOVED, "model.language_model"),
        (b"model:\n  arch: minigpt4\n  llm:\n    llama_model: other\n", PortKind.KEY_MOVED, "model.llm.llama_model"),
        (b"model:\n  arch: minigpt4\n  image_size: 224\n", PortKind.KEY_GONE, "Did you mean"),
        (b"model:\n  llama_model: [a, b]\n", PortKind.KEY_GONE, ""),
        (b"model:\n  llama_model: |\n    text\n", PortKind.KEY_UNFIT, ""),
        (b"model: [\n", PortKind.KEY_UNFIT, ""),
    ],
)
def test_a_key_that_moved_or_vanished(future: Future, new: bytes, kind: PortKind, words: str) -> None:
    future.step("Touch another key", {"configs/model.yaml": MODEL + b"  size: 1\n"})
    future.step("Change the key", {"configs/model.yaml": new})
    problem = future.only()
    assert (problem.kind, problem.where) == (kind, "configs/paths.yaml: llama_model")
    assert words in problem.hint
    assert subjects(problem) == ["Change the key"]


def test_a_key_that_moved_to_another_file(future: Future) -> None:
    future.step("Split", {"configs/model.yaml": b"model:\n  arch: x\n", "configs/llm.yaml": MODEL})
    problem = future.only()
    assert problem.kind is PortKind.KEY_MOVED
    assert "configs/llm.yaml: model.llama_model" in problem.hint
    assert subjects(problem) == ["Split"]


def test_a_rules_file_that_was_renamed_or_deleted(future: Future) -> None:
    future.step("Rename", {"configs/model.yaml": None, "conf/vicuna.yaml": MODEL})
    problem = future.only()
    assert (problem.kind, subjects(problem)) == (PortKind.FILE_GONE, ["Rename"])
    assert "It is conf/vicuna.yaml now" in problem.hint
    future.step("Delete", {"conf/vicuna.yaml": None})
    assert future.only().kind is PortKind.FILE_GONE


def test_a_module_that_moved(future: Future) -> None:
    moved = {"mini/chat.py": None, "mini/talk/chat.py": CHAT, "mini/__init__.py": b"from mini.talk.chat import *\n"}
    future.step("Move", moved)
    problems = future.check()
    assert {p.kind for p in problems} == {PortKind.IMPORT_GONE}
    assert [(p.where, p.what) for p in problems] == [("overlay/run.py:3", "mini.chat is gone.")]
    assert problems[0].hint == "mini/chat.py is mini/talk/chat.py now."
    assert subjects(problems[0]) == ["Move"]


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        (b"def load(", b"def load_model(", "overlay/run.py:3", "mini.chat.load is gone."),
        (b"TEMPLATE =", b"TEMPLATES =", "overlay/run.py:13", "mini.chat.TEMPLATE is gone."),
        (b"def ask(", b"def question(", "overlay/run.py:13", "Chat.ask is gone, and a method of that name"),
        (b"def reset(", b"def restart(", "overlay/run.py:12", "Chat.reset is gone, and a method of that name"),
    ],
)
def test_a_name_that_is_gone(future: Future, old: bytes, new: bytes, where: str, what: str) -> None:
    future.edit("mini/chat.py", b"return conv", b"return conv or None", "Change a body")
    future.edit("mini/chat.py", old, new, "Rename it")
    problem = future.only()
    assert (problem.kind, problem.where) == (PortKind.IMPORT_GONE, where)
    assert problem.what.startswith(what)
    assert subjects(problem) == ["Rename it"]


def test_where_a_name_went(future: Future) -> None:
    start = CHAT.index(b"def load")
    future.step("Split the file", {"mini/chat.py": CHAT[:start], "mini/files.py": CHAT[start:]})
    gone = [p for p in future.check() if "load" in p.what]
    assert [p.hint for p in gone] == ["load is defined in mini/files.py now."]


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        (b"def load(path, strict=True)", b"def load(path, device, strict=True)", "Line 10 no longer fits: missing"),
        (b"def load(path, strict=True)", b"def load(path, strict=False)", "still fits"),
        (b"model, device=", b"model, place=", "Line 11 no longer fits: got an unexpected keyword argument 'device'"),
        (b"def ask(self, text, conv)", b"def ask(self, text)", "Line 13 no longer fits: too many positional"),
        (b"    def ask(", b"    @property\n    def ask(", "it is a property"),
        (b"    def reset(self)", b"    @staticmethod\n    def reset(self)", "Line 12 no longer fits: missing"),
    ],
)
def test_other_arguments(future: Future, old: bytes, new: bytes, hint: str) -> None:
    future.edit("mini/chat.py", b"return text", b"return text.strip()", "Change a body")
    future.edit("mini/chat.py", old, new, "Take something else")
    problem = future.only()
    assert problem.kind is PortKind.SIGNATURE
    assert hint in problem.hint
    assert subjects(problem) == ["Take something else"]


def test_the_method_of_an_object_in_a_module(future: Future) -> None:
    future.edit("mini/common/registry.py", b"def get(self, name)", b"def get(self, kind, name)")
    problem = future.only()
    assert (problem.kind, problem.where) == (PortKind.SIGNATURE, "overlay/run.py:14")
    assert "(self, kind, name) now, before it took (self, name)" in problem.what


def test_a_dataclass_by_its_fields(future: Future) -> None:
    talk = b"import dataclasses\n\n\n@dataclasses.dataclass(frozen=True)\nclass Talk:\n    system: str\n"
    future.step("Add", {"mini/talk.py": talk})
    future.old = future.head()
    future.overlay = {"run.py": b"from mini.talk import Talk\n\nTalk('hello')\n"}
    assert future.check() == ()
    future.edit("mini/talk.py", b"system: str", b"system: str\n    roles: tuple")
    assert "missing a required argument: 'roles'" in future.only().hint


def test_an_overridden_method(future: Future) -> None:
    code = b"from ..chat import Chat\n\n\nclass Port(Chat):\n    def ask(self, text, conv):\n        ...\n"
    future.overlay = {"mini/port/base.py": code}
    future.edit("mini/chat.py", b"def ask(self, text, conv)", b"def ask(self, text, conv, image=None)")
    problem = future.only()
    assert (problem.kind, problem.where) == (PortKind.SIGNATURE, "overlay/mini/port/base.py:5")
    future.edit("mini/chat.py", b"def ask(", b"def question(")
    assert "nothing may call it any more" in future.only().what


@pytest.mark.parametrize(
    "code",
    [
        b"from mini.lazy import Anything\n",  # nobody knows without running it
        b"try:\n    from mini.gone import x\nexcept ImportError:\n    x = None\n",
        b"import contextlib\nwith contextlib.suppress(ImportError):\n    import mini.gone\n",
        b"import json.gone\nimport numpy as mini\nmini.gone()\n",
        b"from mini import chat\n\n\ndef f(chat):\n    return chat.gone\n",
        b"from mini import chat\n\nchat = 1\nchat.gone\n",
        b"from mini.port import own\nfrom . import mini\n",
        b"class C:\n    from mini import chat\n\n    def f(self):\n        return chat.gone\n",
        b"this is no Python\n",
    ],
)
def test_what_cannot_be_judged_is_not_reported(future: Future, code: bytes) -> None:
    future.overlay = {"run.py": code, "mini/port.py": b"own = 1\n"}
    assert future.check() == ()


@pytest.mark.parametrize(
    ("code", "gone"),
    [
        (b"import mini.gone\n", "mini.gone"),
        (b"import mini.chat as c\n\nprint(lambda: c.gone)\n", "mini.chat.gone"),
        (b"from mini import gone\n", "mini.gone"),
        (b"import importlib\n\nimportlib.import_module('mini.gone')\n", "mini.gone"),
        (b"try:\n    import mini.gone\nexcept ImportError as e:\n    raise SystemExit from e\n", "mini.gone"),
        (b"from mini.chat import Chat\n\nprint(Chat.gone)\n", "mini.chat.Chat.gone"),
        (b"def f(x: 'int' = 1):\n    import mini\n\n    class C:\n        y = mini.chat.gone\n", "mini.chat.gone"),
    ],
)
def test_every_way_to_name_something(future: Future, code: bytes, gone: str) -> None:
    future.overlay = {"run.py": code}
    problem = future.only()
    assert (problem.kind, problem.what) == (PortKind.IMPORT_GONE, f"There is no {gone}.")
    assert problem.culprits == ()


def test_upstream_code_is_never_run(future: Future, tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n".encode()
    future.step("Trap", {path: trap + data for path, data in FILES.items() if path.endswith(".py")})
    future.edit("mini/chat.py", b"def load(", b"def load_model(")
    assert future.only().kind is PortKind.IMPORT_GONE
    assert not (tmp_path / "ran").exists()


def test_strange_files_upstream_stop_nothing(future: Future) -> None:
    deep = b"x = " + b"(" * 5000 + b"1" + b")" * 5000 + b"\n"
    strange = {"mini/deep.py": deep, "mini/old.py": b"print 'two'\n", "mini/nul.py": b"\0\n", "b.yaml": b"\xff"}
    sums = b"def f(x=" + b"1 + " * 1500 + b"1):\n    pass\n\n\nn = x" + b".a" * 1500 + b"()\n"
    future.step("Be strange", {**strange, "mini/sums.py": sums})
    names = {"deep": "a", "old": "b", "nul": "c", "sums": "f"}
    future.overlay = {"run.py": "".join(f"from mini.{m} import {n}\n{n}()\n" for m, n in names.items()).encode()}
    assert future.check() == ()
