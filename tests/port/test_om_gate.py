"""The comparison of an OM with its ONNX model: what it measures, and what it does not let pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from atc_files import write_onnx
from om_files import SIZE, TOKENS, WIDTH, write_om
from port.export import om_gate
from port.export.om_gate import Gate, gate, measure
from port.models.device import DeviceUnavailable

IMAGES = {name: torch.full((1, 3, SIZE, SIZE), float(i)) for i, name in enumerate("abc")}
FEATURES = np.random.default_rng(0).standard_normal((3, TOKENS, WIDTH)).astype(np.float32)
EXPECTED = [FEATURES[i : i + 1] for i in range(3)]


def good(images: torch.Tensor) -> torch.Tensor:
    """The features of each picture, which says by its pixels which one it is."""
    return torch.from_numpy(FEATURES)[images[:, 0, 0, 0].long()]


def measured(encode, batches=(1,), bound: float = 1e-2, say=lambda line: None) -> Gate:
    return measure(encode, IMAGES, EXPECTED, batches, bound, "npu:0", say)


def changed(change):
    """`good`, and then change(features, call) with the number of the call, from 0."""
    calls = iter(range(1000))

    def encode(images: torch.Tensor) -> torch.Tensor:
        features = good(images).clone()
        change(features, images, next(calls))
        return features

    return encode


def test_what_agrees() -> None:
    result = measured(good)
    assert (result.status, result.rel_l2, result.repeat, result.device) == ("passed", 0.0, 0.0, "npu:0")


@pytest.mark.parametrize("batches", [(1,), (2,), (3,), (5,), (1, 2, 4)])
def test_every_picture_is_seen_in_every_batch_size(batches: tuple[int, ...]) -> None:
    seen: dict[int, set[int]] = {}

    def encode(images: torch.Tensor) -> torch.Tensor:
        seen.setdefault(len(images), set()).update(images[:, 0, 0, 0].int().tolist())
        return good(images)

    assert measured(encode, batches).status == "passed"
    assert seen == {batch: {0, 1, 2} for batch in batches}


@pytest.mark.parametrize(
    ("error", "bound", "status"), [(0.9e-2, 1e-2, "passed"), (1.1e-2, 1e-2, "failed"), (1.9e-2, 2e-2, "passed")]
)
def test_the_bound(error: float, bound: float, status: str) -> None:
    result = measured(changed(lambda features, *_: features.mul_(1 + error)), bound=bound)
    assert result.status == status
    assert result.rel_l2 == pytest.approx(error, rel=1e-3)


def one_picture(features, images, call):
    features[images[:, 0, 0, 0] == 1] *= 1.1


def last_row_of_a_batch(features, images, call):
    if len(features) == 4:
        features[-1] *= 0.5


def every_second_run(features, images, call):
    features *= 1 + 0.05 * (call % 2)


def nan(features, images, call):
    features[0, 0, 0] = float("nan")


def infinite_in_the_last_picture(features, images, call):
    features[images[:, 0, 0, 0] == 2] = float("inf")


def pictures_swapped(features, images, call):
    features[:] = features.flip(0) if len(features) > 1 else features


@pytest.mark.parametrize(
    "change",
    [one_picture, last_row_of_a_batch, every_second_run, nan, infinite_in_the_last_picture, pictures_swapped],
)
def test_what_must_not_pass(change) -> None:
    assert measured(changed(change), (1, 2, 4)).status == "failed"


def test_a_token_far_off_does_not_hide_among_many() -> None:
    """rel-L2 over all tokens is within the bound, and one token is off by a tenth."""
    many = np.random.default_rng(1).standard_normal((1, 257, 8)).astype(np.float32)
    off = many.copy()
    off[0, 100] *= 1.1
    result = measure(
        lambda images: torch.from_numpy(off), {"a": IMAGES["a"]}, [many], (1,), 1e-2, "npu:0", lambda line: None
    )
    assert result.rel_l2 < 1e-2 < 5e-2 < result.worst_token
    assert result.status == "failed"


def test_it_says_what_it_measured() -> None:
    said: list[str] = []
    measured(good, (2,), say=said.append)
    assert [line.split(":")[0].strip() for line in said[:-1]] == [
        "a, batch 2",
        "b, batch 2",
        "c, batch 2",
        "a, batch 2",
    ]
    assert said[-1].strip() == "two runs agree bit for bit"


def test_the_record_of_a_nan_is_json() -> None:
    entries = measured(changed(nan)).asdict()
    assert entries["rel_l2"] == "nan"
    assert json.loads(json.dumps(entries, allow_nan=False)) == entries


# On the stand-in for ais_bench


@pytest.fixture
def pair(tmp_path: Path, ais_bench) -> tuple[Path, Path]:
    write_onnx(tmp_path / "eva.onnx", outside="")
    om, _ = write_om(tmp_path / "eva.om", batches=[1], ln_vision="blip2")
    return om, tmp_path / "eva.onnx"


def compared(pair: tuple[Path, Path], number: int = 0, mode: str = "origin", kind: str | None = "blip2") -> Gate:
    images = {"noise": torch.randn(1, 3, SIZE, SIZE)}
    return gate(*pair, number, images, [1], mode, kind, lambda line: None)


@pytest.mark.parametrize(("mode", "bound"), [("origin", 1e-2), ("mixed_bfloat16", 2e-2), ("unknown", 1e-2)])
def test_an_om_and_its_model(mode: str, bound: float, pair) -> None:
    result = compared(pair, mode=mode)
    assert (result.status, result.bound, result.device) == ("passed", bound, "npu:0")


@pytest.mark.parametrize("kind", ["default", None])
def test_of_either_kind(kind: str | None, pair) -> None:
    om, model = pair
    om.with_name("eva.om.json").unlink()
    assert compared((om, model), kind=kind).status == "passed"


def test_an_om_that_cannot_be_loaded(pair) -> None:
    pair[0].write_bytes(b"no model")
    pair[0].with_name("eva.om.json").unlink()
    result = compared(pair)
    assert result.status == "failed"
    assert "cannot load" in result.reason


def test_a_broken_torch_npu_does_not_matter(pair, tmp_path: Path, monkeypatch) -> None:
    """Installed without its CANN it cannot be imported; ais_bench needs none."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch_npu.py").write_text("raise ImportError('libhccl.so: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    assert compared(pair).status == "passed"
    beside = compared(pair, 1)
    assert (beside.status, "libhccl.so" in beside.reason) == ("not run", True)


def test_what_is_measured_is_computed_twice(pair, monkeypatch) -> None:
    """By `encode`: `__call__` keeps the last features, with which two runs would always agree."""
    calls: list[int] = []
    encode = om_gate.IMAGE_ENCODER_OM.encode

    def changing(self, images):
        calls.append(len(images))
        return encode(self, images) * len(calls)

    monkeypatch.setattr(om_gate.IMAGE_ENCODER_OM, "encode", changing)
    result = compared(pair)
    assert calls == [1, 1]
    assert (result.status, result.repeat) == ("failed", pytest.approx(1.0))


def test_a_file_that_ais_bench_would_refuse_is_not_wrong(pair) -> None:
    pair[0].chmod(0o666)
    result = compared(pair)
    assert (result.status, "chmod go-w" in result.reason) == ("not run", True)


def test_without_torch_npu_there_is_npu_0_alone(pair) -> None:
    result = compared(pair, 1)
    assert result.status == "not run"
    assert "ASCEND_RT_VISIBLE_DEVICES=1" in result.reason


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeviceUnavailable("no ais_bench"), "not run"),
        (ValueError("[107001][Error code unknown]"), "not run"),
        (RuntimeError("[207001][out of memory]"), "not run"),
        (ValueError("/data/207001/eva_vit_g.om has two inputs"), "failed"),
        (ValueError("[1][ACL: invalid parameter]"), "failed"),
        (RuntimeError("NaN or infinite values"), "failed"),
    ],
)
def test_what_an_error_means(error: Exception, status: str, pair, monkeypatch) -> None:
    def broken(*_):
        raise error

    monkeypatch.setattr(om_gate, "IMAGE_ENCODER_OM", broken)
    result = compared(pair)
    assert (result.status, result.reason) == (status, str(error))
