from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from toys import Toy


@pytest.fixture(scope="session")
def toy_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy and, beside it, a copy of its workspace right after the first apply."""
    folder = tmp_path_factory.mktemp("toy") / "master"
    Toy(folder)
    return folder


@pytest.fixture
def toy(toy_master: Path, tmp_path: Path) -> Toy:
    """A toy of one's own; its workspace does not exist yet."""
    return copy_toy(toy_master, tmp_path / "toy")


def copy_toy(master: Path, folder: Path) -> Toy:
    shutil.copytree(master, folder, symlinks=True)
    toy = object.__new__(Toy)
    toy.folder, toy.upstream, toy.project = folder, folder / "upstream", folder / "project"
    toy.workspace = folder / "MiniGPT-4"
    pin = (toy.project / "configs" / "upstream.yaml").read_text()
    (toy.project / "configs" / "upstream.yaml").write_text(pin.replace(str(master), str(folder)))
    toy.pin = next(line.split()[1] for line in pin.split("\n") if line.startswith("commit:"))
    return toy


@pytest.fixture
def applied(toy: Toy) -> Toy:
    """A toy whose workspace has been applied once."""
    toy.apply()
    return toy
