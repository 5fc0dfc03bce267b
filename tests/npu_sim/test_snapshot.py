"""The snapshot script against a small package index on this machine: with ranges, without, and broken."""

from __future__ import annotations

import http.server
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from snapshot_schemas import OPERATIONS, group
from wheel_files import IndexProblem, configured_index, open_wheel, wheels

SCRIPT = Path(__file__).with_name("snapshot_schemas.py")
OPS = {"custom": [{"func": "npu_swiglu(Tensor self, int dim=-1) -> Tensor"}, {"func": "npu_other(Tensor x) -> Tensor"}]}
GRAPHS = """
class NPUGraph(Base):
    def __new__(cls): ...
    def update(self, cpu_update_input: list): ...
class graph:
    def __init__(self, npu_graph, pool=None, mode: str = "global"): ...
def synchronize(device=None): ...
def private(x): ...
"""


def wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("torch_npu/lib/big.so", bytes(2_000_000))
        archive.writestr(OPERATIONS, yaml.safe_dump(OPS))
        archive.writestr("torch_npu/npu/graphs.py", GRAPHS)
        archive.writestr("torch_npu/npu/deeper/other.py", "def set_device(): ...")
    return buffer.getvalue()


class Index(http.server.BaseHTTPRequestHandler):
    """One project with two releases; `mode` of the server chooses how it answers."""

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        mode = self.server.mode
        name = "torch_npu-2.1.0-cp310-cp310-linux.whl"
        if not self.path.endswith(".whl"):
            if mode == "json":
                files = [{"filename": part, "url": f"../files/{part}"} for part in (name, name.replace("2.1", "2.2"))]
                self._send(200, json.dumps({"files": files}).encode(), "application/vnd.pypi.simple.v1+json")
            elif mode == "empty":
                self._send(200, b"<html></html>", "text/html")
            else:
                self._send(200, f'<a href="../files/{name}#sha256=1">{name}</a>'.encode(), "text/html")
            return
        data, wanted = wheel(), self.headers.get("Range")
        if wanted and mode != "no ranges":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1]
            self.server.sent += len(part)
            self._send(206, part, "application/zip", f"bytes {first}-{last}/{len(data)}")
        else:
            self._send(200, data, "application/zip")

    def _send(self, status: int, body: bytes, kind: str, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def index() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    server.mode, server.sent = "html", 0
    server.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("mode", ["html", "json", "no ranges"])
def test_it_reads_operations_and_functions(index, mode: str, tmp_path: Path) -> None:
    index.mode = mode
    out = tmp_path / "found.json"
    done = run("--index", index.url, "--out", out, "2.1.0")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    text = {"releases": ["2.1.0"], "text": ["npu_swiglu(Tensor self, int dim=-1) -> Tensor"]}
    assert found["ops"] == {"npu_swiglu": [text]}
    assert {name: entry[0]["text"] for name, entry in found["api"].items()} == {
        "NPUGraph": "",
        "NPUGraph.update": "cpu_update_input",
        "graph": "npu_graph, pool=None, mode='global'",
        "synchronize": "device=None",
    }
    assert "1/1 torch_npu-2.1.0" in done.stderr
    assert run("--index", index.url, "--out", out, "--check", "2.1.0").returncode == 0
    out.write_text("{}")
    changed = run("--index", index.url, "--out", out, "--check", "2.1.0")
    assert changed.returncode == 1
    assert "differs from the wheels" in changed.stderr


def test_ranges_fetch_only_what_is_needed(index) -> None:
    url = wheels(index.url, "torch-npu")["torch_npu-2.1.0-cp310-cp310-linux.whl"]
    assert "sha256" not in url
    with open_wheel(url) as archive:
        archive.read("torch_npu/npu/graphs.py")
    assert index.sent < len(wheel()) + 1000  # the toy wheel fits into one block


@pytest.mark.parametrize(
    ("mode", "release", "message"), [("empty", "2.1.0", "no wheels"), ("html", "9.9", "no wheel of")]
)
def test_errors_say_what_to_do(index, mode: str, release: str, message: str, tmp_path: Path) -> None:
    index.mode = mode
    done = run("--index", index.url, "--out", tmp_path / "x.json", release)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "x.json").exists()


def test_an_index_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(IndexProblem, match="PIP_INDEX_URL"):
        wheels("http://127.0.0.1:9/simple", "torch-npu")
    with pytest.raises(IndexProblem, match="a user and a password"):
        wheels("http://me:secret@127.0.0.1:9/simple", "torch-npu")


def test_the_committed_file_is_never_cut_to_fewer_releases() -> None:
    done = run("2.13.0")
    assert done.returncode == 2
    assert "--out" in done.stderr


def test_the_index_is_the_one_of_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    assert configured_index() == "https://mirror.example/simple"


def test_releases_with_the_same_text_stand_together() -> None:
    found = group({"1": {"f": "a"}, "2": {"f": "b"}, "3": {"f": "a", "g": "c"}})
    assert found == {
        "f": [{"releases": ["1", "3"], "text": "a"}, {"releases": ["2"], "text": "b"}],
        "g": [{"releases": ["3"], "text": "c"}],
    }
