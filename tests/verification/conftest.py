"""Synthetic weights, and the overlay loaded alone beside the reference: what the tests without upstream need."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# The models are so small that a second thread only waits for the first.
os.environ["OMP_NUM_THREADS"] = "1"

PROJECT = Path(__file__).resolve().parents[2]
QUESTION = "Describe this image in detail."


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    if importlib.util.find_spec("torch") is None:  # tests/torch_free.sh
        yield
        return
    import torch  # may have been imported before the variable above was set

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic set in the seed's layout. Do not change it: copy it."""
    from verification.synthetic import write_tiny

    return write_tiny(tmp_path_factory.mktemp("weights") / "tiny", seed=0)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two drawn pictures that differ."""
    from PIL import Image

    from verification.demo import draw

    house, flipped = (tmp_path_factory.mktemp("pictures") / name for name in ("house.png", "flipped.png"))
    draw(house)
    with Image.open(house) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((300, 500)).save(flipped)
    return [house, flipped]


@pytest.fixture
def port(tiny: Path):
    """The overlay alone, fresh for each test, so that a planted fault stays inside it."""
    from verification import weights
    from verification.overlay_alone import OverlayAlone

    return OverlayAlone(PROJECT / "overlay", weights.from_folder(tiny), "cpu")


@pytest.fixture(scope="session")
def golden(tiny: Path, pictures: list[Path]):
    """What the reference computes for the two pictures: recorded once, for no test changes it."""
    from verification import weights
    from verification.gate.record import record

    return record(weights.from_folder(tiny), pictures, [QUESTION], new_tokens=12, halves=["float16", "bfloat16"])


@pytest.fixture(scope="session")
def locked_project(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project with short answers and a lock that is up to date, whatever the one in the checkout says."""
    folder = tmp_path_factory.mktemp("project")
    for part in ("patches", "overlay", "configs"):
        shutil.copytree(PROJECT / part, folder / part)
    prompts = folder / "configs" / "prompts.yaml"
    text = prompts.read_text(encoding="utf-8")
    assert text.count("max_new_tokens: 300") == 1
    prompts.write_text(text.replace("max_new_tokens: 300", "max_new_tokens: 40"), encoding="utf-8")
    command = [sys.executable, "apply.py", "lock", "--project", str(folder), "--workspace", str(workspace)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    return folder
