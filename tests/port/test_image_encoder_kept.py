"""IMAGE_ENCODER_OM keeps the last pictures and their features, so that a conversation's picture is encoded once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from om_files import SIZE, write_om
from port.models import image_encoder
from port.models.image_encoder import IMAGE_ENCODER_OM


@pytest.fixture
def encoder(tmp_path: Path) -> IMAGE_ENCODER_OM:
    return IMAGE_ENCODER_OM(write_om(tmp_path / "any.onnx", batch=None)[0], "cpu")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The pictures of every real computation."""
    computed: list[torch.Tensor] = []
    real = IMAGE_ENCODER_OM.encode
    monkeypatch.setattr(IMAGE_ENCODER_OM, "encode", lambda self, x: (computed.append(x), real(self, x))[1])
    return computed


def test_the_same_pictures_are_computed_once(encoder, images, counted) -> None:
    first = encoder(images)
    for again in (images, images.clone(), images.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(encoder(again), first)
    assert len(counted) == 1


OTHERS = {
    "one pixel": lambda x: x.index_put((torch.tensor([2]), torch.tensor([1]), torch.tensor([7]), torch.tensor([6])),
                                       torch.tensor(0.5)),
    "the least bit": lambda x: torch.nextafter(x, x + 1),
    "fewer": lambda x: x[:2],
    "another order": lambda x: x.flip(0),
    "another dtype": lambda x: x.double(),
    "a NaN": lambda x: torch.full_like(x, float("nan")),
}  # fmt: skip


@pytest.mark.parametrize("change", OTHERS)
def test_other_pictures_are_computed(change: str, encoder, images, counted) -> None:
    encoder(images)
    encoder(OTHERS[change](images))
    assert len(counted) == 2
    assert torch.equal(encoder(images), encoder.encode(images))
    assert len(counted) >= 3  # only the last ones are kept


def test_nan_is_never_the_same_picture(encoder, images, counted) -> None:
    for _ in range(2):
        encoder(images * float("nan"))
    assert len(counted) == 2


def test_what_is_kept_is_nobodys_else(encoder, images, counted) -> None:
    """Neither the caller's pictures nor the answers it was given, which it may write to."""
    pictures = images.clone()
    answer = encoder(pictures)
    expected = answer.clone()
    answer.zero_()
    encoder(images).zero_()
    assert torch.equal(encoder(images), expected)
    assert len(counted) == 1
    pictures.zero_()
    assert not torch.equal(encoder(pictures), expected)
    assert len(counted) == 2


def test_encode_always_computes_and_keeps_nothing(encoder, images, monkeypatch) -> None:
    runs = []
    real = encoder._runner.run
    monkeypatch.setattr(encoder._runner, "run", lambda x: (runs.append(len(x)), real(x))[1])
    assert torch.equal(encoder.encode(images), encoder.encode(images))
    encoder(images)
    encoder.encode(images)
    assert runs == [3, 3, 3, 3]


def test_large_batches_are_not_kept(encoder, images, monkeypatch) -> None:
    monkeypatch.setattr(image_encoder, "KEPT_PICTURES", 2)
    encoder(images)
    assert encoder._kept is None
    encoder(images[:2])
    assert encoder._kept is not None


def test_kept_in_inference_mode_and_used_outside(encoder, images, counted) -> None:
    with torch.inference_mode():
        encoder(images.clone())
    answer = encoder(images)
    assert len(counted) == 1
    (answer * torch.ones(1, requires_grad=True)).sum().backward()  # an inference tensor could not be saved for this


def test_closed_while_another_thread_computes_keeps_nothing(encoder, images, monkeypatch) -> None:
    real = encoder._runner.run
    monkeypatch.setattr(encoder._runner, "run", lambda x: (encoder.close(), real(x))[1])
    assert len(encoder(images)) == 3
    with pytest.raises(RuntimeError, match="has been closed"):
        encoder(images)
