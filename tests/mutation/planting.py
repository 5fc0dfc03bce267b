"""Make a workspace, and copies of it with one fault each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from damage import KINDS
from faults import BadList, Fault

PROJECT = Path(__file__).resolve().parents[2]
SETTINGS = "/data/model/MiniGPT-4"  # configs/paths.yaml's default, which stands in the workspace's YAML files
YAML = (
    "minigpt4/configs/models/minigpt4_vicuna0.yaml",
    "minigpt4/configs/models/minigpt4_llama2.yaml",
    "eval_configs/minigpt4_eval.yaml",
)
# Three: one alone cannot be confused with another, and two of them make a batch.
PICTURES = ("office.jpg", "KFC-20-for-20-Nuggets.jpg", "2000x1372_wmkn_0012149409555.jpg")


@dataclass(frozen=True)
class Place:
    """Where faults are planted. workspace, weights: undamaged; scratch: for copies; golden: of these weights."""

    workspace: Path
    weights: Path
    scratch: Path
    pictures: Path
    golden: Path


def make_workspace(target: Path) -> Path:
    """Upstream with patches/ and overlay/ as they are. Raises CalledProcessError; apply.py has said why."""
    command = [sys.executable, "apply.py", "--workspace", str(target)]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return target


def choose_pictures(workspace: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in PICTURES:
        shutil.copy(workspace / "examples_v2" / name, folder)
    return folder


def record_golden(place: Place, half: str) -> None:
    """What the reference computes from the undamaged weights; half: dtype in which the port is to run as well."""
    command = [sys.executable, "verify.py", "record", "--out", str(place.golden), "--halves", half]
    command += ["--workspace", str(place.workspace), "--weights", str(place.weights), "--images", str(place.pictures)]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)


def link_copy(source: Path, target: Path) -> Path:
    """A second folder, of hard links where the file system allows: replace a file in it, never write into one."""

    def link(file: str, copy: str) -> None:
        try:
            os.link(file, copy)
        except OSError:
            shutil.copy2(file, copy)

    return Path(shutil.copytree(source, target, copy_function=link, symlinks=True))


def rewrite(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text, encoding="utf-8")


def check_edits(faults: Iterable[Fault], workspace: Path) -> None:
    """Raises BadList when the text that a fault replaces does not stand in its file once."""
    for fault in faults:
        if fault.file and not (workspace / fault.file).is_file():
            raise BadList(f"{fault.name}: {workspace} has no file {fault.file}.")
        if fault.file:
            fault.apply_to((workspace / fault.file).read_text(encoding="utf-8"))


def plant(fault: Fault, place: Place) -> list[str]:
    """Make the copies that the fault needs; returns the arguments of verify.py for them."""
    workspace, weights = place.workspace, place.weights
    if fault.file or fault.settings:
        workspace = link_copy(workspace, place.scratch / fault.folder / "MiniGPT-4")
    if fault.file:
        path = workspace / fault.file
        rewrite(path, fault.apply_to(path.read_text(encoding="utf-8")))
    if fault.damage:
        weights = link_copy(weights, place.scratch / fault.folder / "weights")
        KINDS[fault.damage](weights, place.workspace)
    arguments = ["--workspace", str(workspace), "--images", str(place.pictures), "--device", "cpu"]
    arguments += ["--cfg-path", fault.cfg_path] if fault.cfg_path else ["--against", str(place.golden)]
    arguments += [] if fault.sampled else ["--no-sampling"]
    if fault.settings:
        _use_settings(workspace, weights)
    else:
        arguments += ["--weights", str(weights)]
    return arguments


def _use_settings(workspace: Path, weights: Path) -> None:
    """Let the YAML files name `weights`; the encoder is the one that was exported into its om/, else its .pth."""
    exported = weights / "om" / "eva_vit_g.onnx"
    encoder = exported if exported.is_file() else weights / "othfiles" / "eva_vit_g.pth"
    for file in YAML:
        text = (workspace / file).read_text(encoding="utf-8")
        text = re.sub(rf"{SETTINGS}/om/eva_vit_g(_llama2)?\.om", str(encoder), text)
        rewrite(workspace / file, text.replace(SETTINGS, str(weights)))


def clear(fault: Fault, place: Place) -> None:
    shutil.rmtree(place.scratch / fault.folder, ignore_errors=True)
