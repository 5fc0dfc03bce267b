"""What makes EvaViT fast is there and changes no number: fused attention, packed matrices. None of it is timed here."""

from __future__ import annotations

import collections
import copy
import pickle
from pathlib import Path

import pytest
import torch
from port.models import llama_packing
from port.models.eva_vit_model import EvaViT, load_eva_vit
from port.models.image_encoder import IMAGE_ENCODER_OM
from port.models.llama_linear import linears
from torch.utils._python_dispatch import TorchDispatchMode
from vit_files import write_files

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


def test_biases_that_are_loaded_count_in_copies_too(files, images):
    model = load_eva_vit(*files, image_size=SIZE)
    changed = {name: tensor + name.endswith(("q_bias", "v_bias")) for name, tensor in model.state_dict().items()}
    expected = load_eva_vit(*files, image_size=SIZE)
    expected.load_state_dict(changed)
    expected = expected(images)
    assert not torch.equal(model(images), expected)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images), model(images))
        other.blocks[0].attn.v_bias.add_(1)
        assert not torch.equal(other(images), model(images))
        other.load_state_dict(changed)
        assert torch.equal(other(images), expected)
    model.load_state_dict(changed, assign=True)
    assert torch.equal(model(images), expected)
    model.blocks[0].attn.v_bias.add_(1)
    assert not torch.equal(model(images), expected)


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
