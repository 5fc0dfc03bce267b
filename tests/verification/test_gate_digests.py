"""Which weights and which pictures: by content, whatever the files are called and however they are cut."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from recordings import small_golden
from test_gate_stream import as_safetensors

from overlaykit.errors import FixTheCommand
from verification import weights
from verification.gate.digests import check_digests, weight_digests
from verification.gate.pictures import in_order
from verification.gate.record import sha256_of_file
from verification.report import Outcome


def test_the_same_tensors_in_another_format_have_the_same_sum(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("llama2"))
    shutil.rmtree(folder / "weights")
    as_safetensors(tiny / "weights", folder / "weights")
    assert weight_digests(weights.from_folder(folder)) == weight_digests(weights.from_folder(tiny))


@pytest.mark.parametrize("name", ["pretrain/prerained_minigpt4_7b.pth", "othfiles/eva_vit_g.pth"])
def test_one_changed_value_is_one_wrong_file(tiny: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("llama2"))
    state = torch.load(folder / name, weights_only=True)
    tensor = next(iter(state.get("model", state).values()))
    tensor.view(-1)[-1] += 1
    torch.save(state, folder / name)
    right, found = (weight_digests(weights.from_folder(path)) for path in (tiny, folder))
    (line,) = check_digests(right, found)
    assert line.outcome is Outcome.FAILED
    assert line.measured == "4 of 5 equal"
    assert {key for key in right if right[key] != found[key]} == {"ckpt" if "pretrain" in name else "vit_weights"}


def test_a_golden_of_no_weights_is_no_good_one() -> None:
    assert check_digests({}, {})[0].outcome is Outcome.FAILED


def test_pictures_are_found_by_content_in_the_goldens_order(pictures: list[Path], tmp_path: Path) -> None:
    sums = [sha256_of_file(path) for path in pictures]
    golden = small_golden(pictures=[{"sha256": digest, "pixels": "0" * 64} for digest in sums])
    copies = [tmp_path / "b.png", tmp_path / "a.png"]
    for path, copy in zip(pictures, copies):
        shutil.copy(path, copy)
    assert in_order(golden, sorted(copies)) == tuple(copies)
    with pytest.raises(FixTheCommand, match=f"(?s)1 of the golden's 2 pictures.*{sums[1]}"):
        in_order(golden, copies[:1])
