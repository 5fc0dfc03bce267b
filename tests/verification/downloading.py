"""One small file to download, and how the download tests ask for it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_server import HostileServer, hostile_server, sha256

from overlaykit.errors import TryAgain
from verification.download.fetch import Fetched, Patience, Wanted, fetch
from verification.download.progress import Quiet

CONTENT = random.Random(0).randbytes(3000)
SUM = sha256(CONTENT)


class Heard(Quiet):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "file.pth"


def patience(slept: list[float] | None = None, **others: Any) -> Patience:
    return Patience(**{"timeout": 5.0, "sleep": (slept if slept is not None else []).append, **others})


def get(target: Path, *urls: str, known: bool = True, show: Quiet | None = None, **how: Any) -> Fetched:
    wanted = Wanted(target, urls, len(CONTENT) if known else None, SUM if known else None)
    return fetch(wanted, show or Quiet(), patience(**how))


def leftovers(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} if target.parent.exists() else set()


def refused(target: Path, *urls: str, **how: Any) -> str:
    with pytest.raises(TryAgain) as caught:
        get(target, *urls, **how)
    assert not target.exists()
    assert "Run the same command again" in caught.value.fix
    return caught.value.why
