"""configs/prompts.yaml and --images: which pictures are found, and that they are the ones described."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from overlaykit.errors import FixTheCommand, FixTheProjectFile
from verification.prompts import check_pictures, find_pictures, load_prompts
from verification.report import Outcome

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / "configs" / "prompts.yaml"
PROMPTS = load_prompts(CONFIG)
OFFICE = PROMPTS.pictures["office.jpg"]


@pytest.mark.parametrize("cut", [0, 3000])
def test_what_is_no_picture_is_refused_at_once(tmp_path: Path, pictures: list[Path], cut: int) -> None:
    file = tmp_path / "house.png"
    file.write_bytes(pictures[0].read_bytes()[:cut] if cut else b"# README\n")
    for images in (file, tmp_path):
        with pytest.raises(FixTheCommand, match="cannot be read as a picture"):
            find_pictures(str(images), tmp_path, PROMPTS)


def test_another_picture_under_a_known_name_is_caught(tmp_path: Path, pictures: list[Path]) -> None:
    office = tmp_path / OFFICE.file
    shutil.copy(pictures[0], office)
    (check,) = check_pictures([office, pictures[0]], PROMPTS)
    assert check.outcome is Outcome.FAILED
    assert "another picture" in check.detail


def test_images_are_found_as_given_then_in_the_workspace(
    tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "workspace" / "examples_v2"
    folder.mkdir(parents=True)
    for name in (OFFICE.file, "other.png"):
        shutil.copy(pictures[0], folder / name)
    (folder / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    found = find_pictures("examples_v2/", tmp_path / "workspace", PROMPTS)
    assert [path.name for path in found] == [OFFICE.file]  # of a folder, those that are known
    assert find_pictures(str(folder / "other.png"), tmp_path, PROMPTS) == (folder / "other.png",)
    (folder / OFFICE.file).unlink()
    found = find_pictures("examples_v2", tmp_path / "workspace", PROMPTS)
    assert [path.name for path in found] == ["other.png"]
    with pytest.raises(FixTheCommand, match="does not exist"):
        find_pictures("elsewhere", tmp_path, PROMPTS)


@pytest.mark.upstream
def test_the_pictures_are_those_of_upstream(workspace: Path) -> None:
    found = find_pictures("examples_v2", workspace, PROMPTS)
    assert {path.name for path in found} == set(PROMPTS.pictures)
    assert {check.outcome for check in check_pictures(found, PROMPTS)} == {Outcome.PASSED}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content.pop("pictures"), "KeyError: 'pictures'"),
        (lambda content: content["pictures"][0].pop("words_from"), "words_from"),
        (lambda content: content["pictures"][0].update(groups=[]), "it needs groups"),  # any answer would pass
        (lambda content: content["pictures"][0]["groups"].append([]), "it needs groups"),
        (lambda content: content["sampling"].update(passing=6), "`passing` is no number of the seeds"),
        (lambda content: content["sampling"].update(seeds=[1, 1, 1, 1, 1]), "a seed is there twice"),
        (lambda content: content["rules"].update(min_verbs=3), "min_verbs"),
        (lambda content: content.update(rules=[]), "cannot be read as prompts"),
    ],
)
def test_a_broken_prompts_file_is_named(tmp_path: Path, spoil: Any, said: str) -> None:
    content = yaml.safe_load(CONFIG.read_text())
    spoil(content)
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(FixTheProjectFile, match=r"prompts\.yaml") as refused:
        load_prompts(tmp_path / "prompts.yaml")
    assert said in str(refused.value)
