from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from lintmaker import make_clean
from toys import Toy, copy_toy, outcome

# The same examples at every run: a suite that fails by chance teaches people to run it again.
settings.register_profile("repeatable", derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
settings.load_profile("repeatable")


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


@pytest.fixture(scope="session")
def applied_master(toy_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy = copy_toy(toy_master, tmp_path_factory.mktemp("applied") / "master")
    toy.apply()
    return toy.folder


@pytest.fixture
def applied(applied_master: Path, tmp_path: Path) -> Toy:
    """A toy whose workspace has been applied once."""
    return copy_toy(applied_master, tmp_path / "toy")


@pytest.fixture(scope="session")
def clean_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy that keeps every rule of lint."""
    return make_clean(tmp_path_factory.mktemp("lint") / "master").folder


@pytest.fixture
def clean(clean_master: Path, tmp_path: Path) -> Toy:
    return copy_toy(clean_master, tmp_path / "toy")


@pytest.fixture(scope="session")
def expected(toy_master: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Refs and files of a workspace made on a tidy machine."""
    toy = copy_toy(toy_master, tmp_path_factory.mktemp("tidy") / "toy")
    toy.apply()
    return outcome(toy)
