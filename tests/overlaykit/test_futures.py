"""What upstream may do to a patched file, and what a maintainer then reads, pastes and gets: from check to the end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from test_rebase import pin, project_files, upstream_commits, worktree
from toys import BASE_MODEL, CLEAN, Toy

MODEL, FIRST = "minigpt4/base_model.py", "0001-Choose-autocast-by-device.patch"
HOOK, PATCHED = b'return "cuda:0"', b'return "auto"'
DEVICE = b'    def device(self):\n        return "cuda:0"\n\n'
SPLIT = b"from minigpt4.device import Device\n" + BASE_MODEL.replace(
    b"class BaseModel:\n" + DEVICE, b"class BaseModel(Device):\n"
)
OTHER = b'"""Where the model computes."""\n\n\nclass Device:\n' + DEVICE.rstrip() + b"\n"
INDENTED = b"".join(line.replace(b"    ", b"  ") for line in BASE_MODEL.splitlines(keepends=True))
CRLF = BASE_MODEL.replace(b"\n", b"\r\n")
NEIGHBOUR = BASE_MODEL.replace(b"def device(self)", b"def device(self, index=0)")
REWRITTEN = BASE_MODEL.replace(b"    def device", b"    @property\n    def device").replace(
    b"self.device()", b"self.device"
)


@dataclass(frozen=True)
class Future:
    upstream: Mapping[str, bytes | None]
    outcomes: tuple[str, ...]  # of rebase, and of each round of pasted commands
    fate: str  # of the first patch, by check
    said: tuple[str, ...] = ()
    kind: str = ""  # of the conflict
    edits: Mapping[str, bytes] = field(default_factory=dict)  # what $EDITOR leaves; b"" deletes
    result: Mapping[str, bytes | None] = field(default_factory=dict)
    kept: bool = True


FUTURES = {
    "rename": Future(
        {MODEL: None, "minigpt4/models/base.py": BASE_MODEL},
        ("done",),
        "moved",
        result={MODEL: None, "minigpt4/models/base.py": BASE_MODEL.replace(HOOK, PATCHED)},
    ),
    "delete": Future(
        {MODEL: None},
        ("conflict", "done"),
        "conflict",
        ("upstream deleted the file", "git rm -- minigpt4/base_model.py"),
        "deleted_upstream",
        {MODEL: b""},
        {MODEL: None},
        kept=False,
    ),
    "landed": Future(
        {MODEL: BASE_MODEL.replace(HOOK, PATCHED)},
        ("done",),
        "landed",
        result={MODEL: BASE_MODEL.replace(HOOK, PATCHED)},
        kept=False,
    ),
    "neighbour edit": Future(
        {MODEL: NEIGHBOUR},
        ("conflict", "review", "done"),
        "conflict",
        ("BaseModel.device", "beside the patch's lines, not the lines themselves. Keep both changes."),
        "content",
        {MODEL: NEIGHBOUR.replace(HOOK, PATCHED)},
        {MODEL: NEIGHBOUR.replace(HOOK, PATCHED)},
    ),
    "function rewritten around a hook": Future(
        {MODEL: REWRITTEN},
        ("review", "done"),
        "context",
        (", drifted", "BaseModel.device", "see: "),
        result={MODEL: REWRITTEN.replace(HOOK, PATCHED)},
    ),
    "file split": Future(
        {MODEL: SPLIT, "minigpt4/device.py": OTHER},
        ("conflict", "unstaged", "done"),
        "conflict",
        ("Upstream moved these lines: they are now in minigpt4/device.py",),
        "content",
        {MODEL: SPLIT, "minigpt4/device.py": OTHER.replace(HOOK, PATCHED)},
        {MODEL: SPLIT, "minigpt4/device.py": OTHER.replace(HOOK, PATCHED)},
    ),
    "CRLF conversion": Future(
        {MODEL: CRLF},
        ("conflict", "no patch"),
        "conflict",
        ("upstream converted the line ends", "patches are mails, which hold no CRLF"),
        "line_ends",
        {MODEL: CRLF.replace(HOOK, PATCHED)},
    ),
    "re-indentation": Future(
        {MODEL: INDENTED},
        ("conflict", "done"),
        "conflict",
        ("Upstream only changed white space here", "BaseModel.device"),
        "content",
        {MODEL: INDENTED.replace(HOOK, PATCHED)},
        {MODEL: INDENTED.replace(HOOK, PATCHED)},
    ),
}


@pytest.mark.parametrize("name", FUTURES)
def test_a_future(applied: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    future = FUTURES[name]
    culprit = upstream_commits(applied, f"The {name}", future.upstream)
    project = project_files(applied)
    fits = future.outcomes == ("done",)

    text, facts = applied.run("check", "--against", "main"), applied.run("check", "--against", "main", "--json")
    assert (text.code, facts.code, facts.json["ok"]) == (not fits, not fits, fits), text.out + text.err
    assert (facts.json["outcome"], facts.json["new"]) == ("fits" if fits else "fits_not", culprit)
    assert [row["fate"] for row in facts.json["patches"]] == [future.fate, "same"]
    judge(future, culprit, text.out, facts.json)

    done = applied.run("rebase")
    seen, out = [outcome(done.code, done.out)], done.out
    assert project_files(applied) == project or fits
    judge(future, culprit, out, applied.run("rebase", "--json").json if not fits else {})
    while seen[-1] not in ("done", "no patch") and len(seen) < 5:
        pasted = paste(applied, tmp_path, out, future.edits)
        seen.append(outcome(pasted.returncode, pasted.stdout + pasted.stderr))
        if seen[-1] == "unstaged":
            stage = next(line for line in pasted.stderr.split("\n") if line.startswith("Stage them: "))
            assert paste(applied, tmp_path, f"\n{stage.partition(': ')[2]}", {}).returncode == 0
        out = pasted.stdout if seen[-1] == "review" else out
    assert tuple(dict.fromkeys(seen)) == future.outcomes, pasted.stdout + pasted.stderr

    if seen[-1] == "no patch":
        applied.apply("rebase", "--abort")
        assert project_files(applied) == project
        return
    assert pin(applied)[0] == culprit
    assert (applied.project / "patches" / FIRST).exists() == future.kept
    for path, data in future.result.items():
        assert (applied.read(path) if data is not None else (applied.workspace / path).exists()) == (data or False)
    assert applied.dirty() == []
    assert not worktree(applied).exists()
    assert "already" in applied.apply("rebase").out


def judge(future: Future, culprit: str, text: str, facts: Mapping[str, object]) -> None:
    for sentence in future.said:
        assert sentence in text
    if future.said:
        assert culprit[:12] in text
    if facts and future.kind:
        (conflict,) = facts["conflicts"]  # type: ignore[misc]
        assert (conflict["patch"], conflict["kind"], conflict["path"]) == (FIRST, future.kind, MODEL)
        assert [row["commit"] for row in conflict["culprits"]] == [culprit]
        assert conflict["hint"] in text
    elif facts and future.said:
        (drift,) = facts["patches"][0]["drift"]  # type: ignore[index]
        assert (drift["symbol"], drift["culprits"][0]["commit"]) == ("BaseModel.device", culprit)


def outcome(code: int, text: str) -> str:
    signs = {
        "does not fit": "conflict",
        "read this first": "review",
        "not staged": "unstaged",
        "cannot be written as a patch": "no patch",
    }
    found = [name for sign, name in signs.items() if sign in text]
    return "done" if code == 0 else found[0] if found and code in (1, 3) else f"exit {code}: {text}"


def paste(toy: Toy, folder: Path, text: str, edits: Mapping[str, bytes]) -> subprocess.CompletedProcess[str]:
    """Paste the commands at the end of a report into a shell, as they are."""
    editor = folder / "editor.py"
    editor.write_text(
        "import os, pathlib\n"
        f"for path, data in {dict(edits)!r}.items():\n"
        "    pathlib.Path(path).write_bytes(data) if data else os.unlink(path)\n"
    )
    commands = text.rstrip("\n").rpartition("\n\n")[2] if "\n\n" in text else text
    functions = f'python() {{ "{sys.executable}" "$@" --project "{toy.project}"; }}\n'
    env = {**CLEAN, "EDITOR": f"{sys.executable} {editor}"}
    script = functions + commands + "\n"
    return subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True)
