"""An .om through ais_bench: no array that would crash it or be read as something else reaches it, and batches.

The rows are those of what was seen with the real ais_bench 0.0.2: each mistake is an exception of ours, with ais_bench
not called. test_ais_bench_stand_in.py shows that the stand-in would not let it pass. Loading: test_om_load.py; the end,
threads and torch_npu: test_om_end.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from ais_bench_stand_in import both_releases
from om_files import SIZE, TOKENS, WIDTH, features, never, write_om
from port.models.image_encoder import IMAGE_ENCODER_OM, plan
from port.models.om_session import OmSession

GOOD = np.random.default_rng(5).standard_normal((1, 3, SIZE, SIZE), np.float32)


class Subclass(np.ndarray):
    pass


@pytest.fixture
def om(tmp_path: Path) -> Path:
    return write_om(tmp_path / "eva_vit_g.om")[0]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(7, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


# One row, one test: feeds


@both_releases
def test_a_list_with_one_float32_array_is_answered(om: Path, ais_bench) -> None:
    weights = write_om(om)[1]
    (output,) = OmSession(om, 0).infer([GOOD])
    assert (output.dtype, output.shape) == (np.float32, (1, TOKENS, WIDTH))
    assert np.abs(output - features(GOOD, weights)).max() < 1e-5


MISTAKES = {
    "wrong byte size": [GOOD[:, :, :4]],
    "float64": [GOOD.astype(np.float64)],
    "float16 into float32": [GOOD.astype(np.float16)],
    "int32 of the same byte size": [GOOD.view(np.int32)],
    "wrong rank": [GOOD[0]],
    "the same bytes in another shape": [GOOD.reshape(1, 3, 4, 16)],
    "a batch that the model has not": [np.concatenate([GOOD, GOOD])],
    "Fortran order": [np.asfortranarray(GOOD)],
    "a strided view": [np.concatenate([GOOD, GOOD], axis=3)[..., ::2]],
    "a bare array": GOOD,
    "a bare array of two pictures": np.concatenate([GOOD, GOOD]),
    "a tuple": (GOOD,),
    "too few inputs": [],
    "too many inputs": [GOOD, GOOD],
    "a subclass of ndarray": [GOOD.view(Subclass)],
    "a list of numbers": [GOOD.tolist()],
    "a tensor": [torch.from_numpy(GOOD)],
    "no picture": [GOOD[:0]],
}


@both_releases
@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_ais_bench_crashes_on_or_reads_as_something_else(mistake: str, om: Path, ais_bench, monkeypatch) -> None:
    session = OmSession(om, 0)
    monkeypatch.setattr(ais_bench.InferSession, "infer", never)
    with pytest.raises(ValueError, match="takes"):
        session.infer(MISTAKES[mistake])


def test_no_picture_for_a_dynamic_batch(tmp_path: Path, ais_bench, monkeypatch) -> None:
    session = OmSession(write_om(tmp_path / "any.om", batch=None, profiles=(1, 2))[0], 0)
    monkeypatch.setattr(ais_bench.InferSession, "infer", never)
    with pytest.raises(ValueError, match=r"takes \[-1, 3, 8, 8\], where -1 is any size, got \[0, 3, 8, 8\]"):
        session.infer([GOOD[:0]], "dymbatch")


@both_releases
def test_pictures_of_any_type_and_order_become_what_the_file_takes(om: Path, images, ais_bench) -> None:
    weights = write_om(om)[1]
    encoder = IMAGE_ENCODER_OM(om, "cpu")
    for given in (images.double(), images.transpose(2, 3), images.flip(0)[::2], images.requires_grad_()):
        answer = encoder.encode(given)
        assert (answer.dtype, answer.requires_grad) == (torch.float32, False)
        assert np.abs(answer.numpy() - features(given.detach(), weights)).max() < 1e-5


@both_releases
@pytest.mark.parametrize("fp16", ["input", "output", "input output"])
def test_a_file_that_takes_or_gives_float16(fp16: str, tmp_path: Path, images, ais_bench) -> None:
    """ATC's --input_fp16_nodes makes the input float16, --output_type the output."""
    path, weights = write_om(tmp_path / "half.om", fp16=fp16)
    answer = IMAGE_ENCODER_OM(path, "cpu").encode(images)
    expected = features(images.half() if "input" in fp16 else images, weights)
    assert answer.dtype == torch.float32
    assert np.abs(answer.numpy() - expected).max() < 2e-3


# What comes back


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "gave back nothing"),
        (None, "gave back NoneType"),
        ([np.zeros((1, TOKENS, WIDTH))], "gave back float64"),
        ([np.zeros((1, TOKENS, WIDTH), np.float32)] * 2, "gave back float32, float32"),
        ([np.zeros((2, TOKENS, WIDTH), np.float32)], r"answered with shape \(2, 4, 1408\), expected \(1,"),
        ([np.zeros((1, WIDTH, TOKENS), np.float32)], r"answered with shape \(1, 1408, 4\)"),
        ([np.full((1, TOKENS, WIDTH), np.nan, np.float32)], "NaN or infinite values.*precision_mode_v2=origin"),
        ([np.full((1, TOKENS, WIDTH), np.inf, np.float32)], "NaN or infinite values"),
    ],
)
def test_an_answer_that_is_none(answer, message: str, om: Path, images, ais_bench, monkeypatch) -> None:
    encoder = IMAGE_ENCODER_OM(om, "cpu")
    monkeypatch.setattr(ais_bench.InferSession, "infer", lambda *arguments: answer)
    with pytest.raises(RuntimeError, match=message):
        encoder(images[:1])


def test_a_device_that_fails_while_it_computes(om: Path, images, ais_bench, monkeypatch) -> None:
    def fail(*arguments):
        raise RuntimeError("[507899][Error code unknown] ")

    encoder = IMAGE_ENCODER_OM(om, "cpu")
    monkeypatch.setattr(ais_bench.InferSession, "infer", fail)
    with pytest.raises(RuntimeError, match=r"ais_bench failed on .*eva_vit_g\.om: \[507899\].*npu-smi info"):
        encoder(images)


# Batches


@pytest.mark.parametrize(
    ("count", "batches", "expected"),
    [
        (5, None, [(5, 5)]),
        (3, (1,), [(1, 1)] * 3),
        (3, (2,), [(2, 2), (1, 2)]),
        (4, (1, 2, 4), [(4, 4)]),
        (7, (1, 2, 4), [(4, 4), (3, 4)]),
        (9, (1, 2, 4), [(4, 4), (4, 4), (1, 1)]),
        (10, (1, 2, 4), [(4, 4), (4, 4), (2, 2)]),
        (1, (2, 8), [(1, 2)]),
        (3, (2, 8), [(3, 8)]),
    ],
)
def test_pictures_are_split_and_filled_up_to_what_the_file_takes(count, batches, expected) -> None:
    assert plan(count, batches) == expected


@both_releases
@pytest.mark.parametrize("count", range(1, 8))
def test_a_dynamic_batch_runs_its_profiles(count: int, tmp_path: Path, images, ais_bench, monkeypatch) -> None:
    path, weights = write_om(tmp_path / "any.om", batch=None, profiles=(1, 2, 4), batches=[4, 1, 2])
    encoder, asked = IMAGE_ENCODER_OM(path, "cpu"), []
    real = ais_bench.InferSession.infer
    spy = lambda self, feeds, mode: (asked.append((len(feeds[0]), mode)), real(self, feeds, mode))[1]  # noqa: E731
    monkeypatch.setattr(ais_bench.InferSession, "infer", spy)
    answer = encoder.encode(images[:count])
    assert np.abs(answer.numpy() - features(images[:count], weights)).max() < 1e-5
    assert asked == [(batch, "dymbatch") for _, batch in plan(count, (1, 2, 4))]


@both_releases
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_fixed_batch(batch: int, tmp_path: Path, images, ais_bench) -> None:
    path, weights = write_om(tmp_path / "fixed.om", batch=batch)
    answer = IMAGE_ENCODER_OM(path, "cpu").encode(images)
    assert np.abs(answer.numpy() - features(images, weights)).max() < 1e-5


def test_a_batch_that_is_no_profile_never_reaches_ais_bench(tmp_path: Path, images, ais_bench, monkeypatch) -> None:
    path, _ = write_om(tmp_path / "any.om", batch=None, profiles=(1, 2, 4), batches=[1, 2, 4])
    runner = IMAGE_ENCODER_OM(path, "cpu")._runner
    monkeypatch.setattr(ais_bench.InferSession, "infer", never)
    with pytest.raises(ValueError, match=r"takes batches of \(1, 2, 4\), got 3 pictures"):
        runner.run(images[:3])


@pytest.mark.parametrize("record", [{}, {"batches": None}, {"batches": []}, {"batches": ["1"]}, {"batches": [0, 1]}])
def test_a_dynamic_batch_without_its_record(record: dict, tmp_path: Path, ais_bench) -> None:
    import aclruntime

    path, _ = write_om(tmp_path / "any.om", batch=None, profiles=(1, 2), **record)
    with pytest.raises(ValueError, match=r"any\.om\.json beside it would list.*om_model_convert\.py.*1,3,224,224"):
        IMAGE_ENCODER_OM(path, "cpu")
    assert aclruntime.loaded == []


def test_a_record_of_another_file_is_passed_over(tmp_path: Path, ais_bench) -> None:
    path, _ = write_om(tmp_path / "any.om", batch=None, profiles=(1, 2), batches=[1, 2], ln_vision="default")
    with path.open("ab") as file:
        file.write(onnx.ModelProto(producer_name="another").SerializeToString())
    with pytest.raises(ValueError, match="it is missing, or not of this file"):
        IMAGE_ENCODER_OM(path, "cpu", ln_vision=tmp_path / "blip2.pth")


def test_the_record_beside_a_links_target_counts(tmp_path: Path, images, ais_bench) -> None:
    path, _ = write_om(tmp_path / "any.om", batch=None, profiles=(1, 2), batches=[1, 2])
    (tmp_path / "link.om").symlink_to(path)
    assert len(IMAGE_ENCODER_OM(tmp_path / "link.om", "cpu")(images)) == 7
