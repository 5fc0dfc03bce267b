"""`verify.py weights --download` on one folder, against a server that stands for Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hostile_server import HostileServer, hostile_server
from weights_project import Project

import verify

CKPT = "pretrain/prerained_minigpt4_7b.pth"
VICUNA = "/Vision-CAIR/vicuna-7b/resolve/main/"
SECOND = "/wangrongsheng/MiniGPT-4-LLaMA-7B/resolve/main/"
SHARD = "pytorch_model-0000{}-of-00002.bin"
INDEX = "pytorch_model.bin.index.json"
MIRRORS = (
    "/wangrongsheng/MiniGPT4-7B/resolve/main/prerained_minigpt4_7b.pth",
    "/ckpt/minigpt4-7B/resolve/main/prerained_minigpt4_7b.pth",
)


class Ran(NamedTuple):
    code: int
    report: dict[str, Any]
    err: str

    @property
    def bad(self) -> dict[str, str]:
        """Kind of what is wrong or missing, by file name."""
        wrong = (f for f in self.report["files"] if f["outcome"] in ("FAILED", "not run"))
        return {Path(f["path"]).name: f["kind"] for f in wrong}


class Doctor:
    """Runs the command on one folder against a server that stands for Hugging Face."""

    def __init__(self, project: Project, server: HostileServer, capsys: pytest.CaptureFixture[str]) -> None:
        self.project, self.server, self.capsys = project, server, capsys
        self.models = project.folder / "mine"

    def run(self, *more: str) -> Ran:
        common = ["weights", "--project", str(self.project.folder), "--model-path", str(self.models)]
        code = verify.main([*common, "--download", "--json", *more])
        out, err = self.capsys.readouterr()
        return Ran(code, json.loads(out) if out else {}, err)

    def asked(self, path: str) -> list[dict[str, str]]:
        return self.server.http.paths[path].asked  # type: ignore[attr-defined]

    def spoil(self, name: str, content: bytes) -> None:
        (self.models / name).unlink(missing_ok=True)
        (self.models / name).write_bytes(content)


@pytest.fixture
def doctor(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Doctor]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with hostile_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        project = Project(tmp_path / "project", tiny)
        project.serve(server)
        yield Doctor(project, server, capsys)
