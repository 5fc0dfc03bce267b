"""Reading the two weight files: formats, an older torch, and files that are damaged or another model's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from port.models import eva_vit_weights
from port.models.eva_vit_weights import read_weights
from vit_files import vit_state, write_files


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write_files(tmp_path)


def test_a_file_in_the_older_format_is_read_the_same(files: tuple[Path, Path], tmp_path: Path) -> None:
    """The one of torch before 1.6, which cannot be mapped."""
    old = tmp_path / "old.pth"
    torch.save(torch.load(files[0], weights_only=True), old, _use_new_zipfile_serialization=False)
    (geometry, state), (expected, right) = read_weights(old, files[1], 84), read_weights(*files, 84)
    assert geometry == expected
    assert state.keys() == right.keys()
    assert all(torch.equal(state[name], right[name]) for name in right)


def test_a_torch_that_cannot_map_files(files: tuple[Path, Path], monkeypatch) -> None:
    real, asked = torch.load, []

    def older(f, map_location=None, pickle_module=None, *, weights_only=False):
        asked.append(weights_only)
        return real(f, map_location=map_location, weights_only=weights_only)

    _, right = read_weights(*files)
    monkeypatch.setattr(torch, "load", older)
    _, state = read_weights(*files)
    assert asked == [True, True]
    assert all(torch.equal(state[name], right[name]) for name in right)


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), {"model": [1]}], ids=["list", "tensor", "model of a list"])
def test_what_is_no_table_of_weights(content, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth holds a (list|Tensor), not weights by name"):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("pos_embed", (1, 12, 176), r"pos_embed of \(1, 12, 176\), which is no square of patches"),
        ("pos_embed", (1, 10, 88), r"pos_embed of \(1, 10, 88\), which is no square of patches"),
        ("pos_embed", (10, 176), r"pos_embed of \(10, 176\): this is not an EVA ViT"),
        ("patch_embed.proj.weight", (176, 588), r"patch_embed\.proj\.weight of \(176, 588\): this is not an EVA ViT"),
        ("blocks.0.mlp.fc1.weight", (), r"blocks\.0\.mlp\.fc1\.weight of \(\): this is not an EVA ViT"),
    ],
)
def test_shapes_of_another_model_are_named(name: str, shape: tuple[int, ...], said: str, tmp_path: Path) -> None:
    torch.save({**vit_state(176, 96, 3, 56), name: torch.ones(shape)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=said):
        read_weights(tmp_path / "x.pth", image_size=84)


@pytest.mark.parametrize("error", [MemoryError("no room"), PermissionError(13, "Permission denied")])
def test_no_second_download_where_it_would_not_help(error: Exception, files: tuple[Path, Path], monkeypatch) -> None:
    def refused(path):
        raise error

    monkeypatch.setattr(eva_vit_weights, "_load", refused)
    with pytest.raises(type(error)):
        read_weights(*files)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_tensors_of_a_file_stay_on_the_disk(files: tuple[Path, Path]) -> None:
    if "mmap" not in torch.load.__kwdefaults__:
        pytest.skip("this torch cannot")
    _, state = read_weights(*files)
    assert str(files[0]) in Path("/proc/self/maps").read_text()
    assert state
