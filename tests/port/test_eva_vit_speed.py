"""What makes EvaViT fast is there and changes no number: fused attention, packed matrices, one recording per batch.

None of it is timed here. Recordings are made on the CPU, through tests/recorded_graph.py.
"""

from __future__ import annotations

import collections
import logging
import threading
from pathlib import Path

import pytest
import torch
from port.models import eva_vit_graph, llama_packing
from port.models.eva_vit_graph import FastEvaViT
from port.models.eva_vit_model import EvaViT, load_eva_vit
from port.models.image_encoder import IMAGE_ENCODER_OM
from port.models.llama_linear import linears
from torch.utils._python_dispatch import TorchDispatchMode
from vit_files import write_files

from tests.port.cpu_recording import LikeCuda

SIZE, DEPTH = 56, 2
CPU = torch.device("cpu")
HALF = [torch.bfloat16, torch.float16]
can_pack = {dtype: llama_packing._can_pack(dtype) for dtype in (torch.float32, torch.bfloat16)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_files(tmp_path_factory.mktemp("vit"), 176, 96, DEPTH + 1, SIZE)


@pytest.fixture(scope="module")
def plain(files: tuple[Path, Path]) -> EvaViT:
    return load_eva_vit(*files, image_size=SIZE)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


@pytest.fixture(autouse=True)
def grad_off():
    with torch.no_grad():
        yield


class Operations(TorchDispatchMode):
    """Counts the operations that run inside, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count[function._overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


# Fused


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_attention_is_one_operation_and_biases_are_joined_once(dtype, files, images):
    model = load_eva_vit(*files, image_size=SIZE, dtype=dtype)
    with Operations() as ran:
        model(images)
    fused = {name: count for name, count in ran.count.items() if name.startswith("_scaled_dot_product")}
    assert sum(fused.values()) == DEPTH
    assert not {"_softmax", "softmax", "bmm", "convolution"} & set(ran.count)
    assert ran.count["cat"] == 1  # the table of positions
    assert ran.count["native_layer_norm"] == 2 * DEPTH + 1
    # a cast where a norm's float32 goes into a matrix, one of the pictures; the residual sums need none
    assert ran.count["_to_copy"] == (0 if dtype == torch.float32 else 2 * DEPTH + 1)


def test_a_bias_that_is_changed_in_place_counts(files, images, plain):
    model = load_eva_vit(*files, image_size=SIZE)
    for change in (lambda: model.blocks[0].attn.q_bias.zero_(), lambda: model.blocks[1].attn.v_bias.add_(1)):
        before = model(images)
        change()
        assert not torch.equal(model(images), before)
    model.half().float()  # new parameters, and still parts of what is computed with
    before = model(images)
    model.blocks[0].attn.v_bias.add_(1)
    assert not torch.equal(model(images), before)


@pytest.mark.parametrize("around", HALF)
def test_autocast_around_it_changes_nothing(around, files, images):
    """encode_img calls it inside upstream's autocast, whose dtype need not be the encoder's."""
    for dtype in (torch.float32, torch.bfloat16):
        model = load_eva_vit(*files, image_size=SIZE, dtype=dtype)
        expected = model(images)
        with torch.autocast("cpu", dtype=around):
            assert torch.equal(model(images), expected)


# Packed on a processor


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_a_processors_matrices_are_packed_where_it_can(dtype, files, images, plain):
    packed = load_eva_vit(*files, image_size=SIZE, dtype=dtype, device=CPU)
    state = [linear.weight.is_mkldnn for _, linear in linears(packed)]
    assert state == [can_pack.get(dtype, False)] * 4 * DEPTH
    unpacked = load_eva_vit(*files, image_size=SIZE, dtype=dtype)
    expected = plain(images)

    def error(model: EvaViT) -> float:
        return float((model(images) - expected).norm() / expected.norm())

    # GELU before rounding instead of after it: packed may be nearer, never much farther.
    assert error(packed) <= 1.1 * error(unpacked) + 1e-6
    assert packed(images).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_models_state_is_the_files(dtype, files, images):
    packed = load_eva_vit(*files, image_size=SIZE, dtype=dtype, device=CPU)
    state, expected = packed.state_dict(), load_eva_vit(*files, image_size=SIZE, dtype=dtype).state_dict()
    assert list(state) == list(expected)
    assert all(not state[name].is_mkldnn and torch.equal(state[name], expected[name]) for name in state)
    before = packed(images)
    assert torch.equal(packed.to(CPU)(images), before)  # moved to where it is: nothing happens
    packed.load_state_dict({**state, "blocks.0.mlp.fc1.weight": state["blocks.0.mlp.fc1.weight"] * 2})
    assert not torch.equal(packed(images), before)


def test_an_encoder_file_runs_packed_in_the_dtype_that_was_chosen(tmp_path, monkeypatch):
    from port.models import device

    vit, blip2 = write_files(tmp_path, 1408, 96, 2, 224)
    picture = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    expected = IMAGE_ENCODER_OM(vit, "cpu", blip2)(picture)
    monkeypatch.setattr(device, "_CHOSEN", {})
    device.choose_dtype(CPU, "bfloat16")
    encoder = IMAGE_ENCODER_OM(vit, "cpu", blip2)
    matrices = [linear.weight for _, linear in linears(encoder._runner.model)]
    assert {(weight.dtype, weight.is_mkldnn) for weight in matrices} == {(torch.bfloat16, can_pack[torch.bfloat16])}
    found = encoder(picture)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm() <= 2e-2 * expected.norm()


# Recorded on an accelerator


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> type[LikeCuda]:
    monkeypatch.setitem(eva_vit_graph.RECORDINGS, "cpu", LikeCuda)
    LikeCuda.made = 0
    return LikeCuda


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_second_call_records_and_later_ones_replay(mode, recording, plain):
    fast = FastEvaViT(plain, CPU)
    with mode():
        for seed, made in ((0, 0), (1, 1), (2, 1), (3, 1)):
            images = pictures(2, seed)
            torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)
            assert recording.made == made
    with torch.no_grad():  # made in one mode, replayed in another
        torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)


def test_features_stay_when_the_next_picture_comes(recording, plain):
    fast = FastEvaViT(plain, CPU)
    fast(pictures(1, 0))
    first = fast(pictures(1, 1))
    kept = first.clone()
    fast(pictures(1, 2))
    assert torch.equal(first, kept)


def test_each_number_of_pictures_has_its_recording_and_few_are_kept(recording, plain):
    fast = FastEvaViT(plain, CPU)
    for count in (1, 2, 3, 4, 5):
        for seed in range(3):
            images = pictures(count, seed)
            torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)
    assert recording.made == 5
    assert [shape[0] for shape in fast._recorded] == [2, 3, 4, 5]
    images = pictures(1, 9)
    torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)
    assert recording.made == 6


def test_pictures_of_another_dtype_use_the_same_recording(recording, plain):
    fast = FastEvaViT(plain, CPU)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        images = pictures(1, 3).to(dtype)
        torch.testing.assert_close(fast(images), plain(images), rtol=1e-5, atol=1e-5)
    assert recording.made == 1


def test_threads_take_turns(recording, plain):
    fast = FastEvaViT(plain, CPU)
    fast(pictures(1, 0))
    found: dict[int, torch.Tensor] = {}
    workers = [
        threading.Thread(target=lambda seed=seed: found.update({seed: fast(pictures(1, seed))})) for seed in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert recording.made == 1
    for seed, features in found.items():
        torch.testing.assert_close(features, plain(pictures(1, seed)), rtol=1e-6, atol=1e-6)


def test_what_cannot_be_recorded_runs_as_it_is_and_says_so_once(monkeypatch, plain, caplog):
    tries = []

    def refuse(compute, device, batch):
        tries.append(batch)
        raise RuntimeError("capture is not permitted")

    monkeypatch.setitem(eva_vit_graph.RECORDINGS, "cpu", refuse)
    fast = FastEvaViT(plain, CPU)
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            torch.testing.assert_close(fast(pictures(1, seed)), plain(pictures(1, seed)), rtol=1e-6, atol=1e-6)
    assert tries == [1]
    assert [record.getMessage() for record in caplog.records] == [
        "The image encoder cannot be recorded (RuntimeError: capture is not permitted); going on without."
    ]


def test_a_wrong_size_is_refused_also_where_recordings_are_made(recording, plain):
    fast = FastEvaViT(plain, CPU)
    fast(pictures(1, 0))
    fast(pictures(1, 1))
    with pytest.raises(ValueError, match=r"takes \(B, 3, 56, 56\) pictures, got \(1, 3, 28, 28\)"):
        fast(torch.zeros(1, 3, 28, 28))


# Compiled: with Dynamo's eager backend, which traces as for a device and fuses nothing


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> collections.Counter:
    counts: collections.Counter = collections.Counter()
    compile_function = torch.compile

    def backend(graph, _):
        counts["graphs"] += 1
        return graph.forward

    def traced(function, **options):
        assert options == {"fullgraph": True, "dynamic": False}
        return compile_function(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    return counts


def test_all_blocks_share_one_compilation(compiled, recording, plain):
    class Again:
        """Instead of a recorder of operations, under which Dynamo traces nothing."""

        def __init__(self, compute, device, batch):
            self.replay = lambda _: compute()

    eva_vit_graph.RECORDINGS["cpu"] = Again
    fast = FastEvaViT(plain, CPU, compile_blocks=True)
    for seed in range(3):
        images = pictures(1, seed)
        torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)
    assert compiled["graphs"] == 1
    assert fast.compile_blocks


def test_what_cannot_be_compiled_is_recorded_as_it_is(monkeypatch, recording, plain, caplog):
    def broken(function, **_):
        def run(*_):
            raise RuntimeError("no compiler was found")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    fast = FastEvaViT(plain, CPU, compile_blocks=True)
    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            images = pictures(1, seed)
            torch.testing.assert_close(fast(images), plain(images), rtol=1e-6, atol=1e-6)
    assert len(fast._recorded) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "The image encoder cannot be compiled (RuntimeError: no compiler was found); going on without."
    ]
