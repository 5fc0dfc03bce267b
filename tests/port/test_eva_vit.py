"""EvaViT against Hugging Face's Blip2VisionModel, and what the loader refuses."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from port.models.eva_vit_model import EvaViT, load_eva_vit
from transformers import Blip2VisionConfig, Blip2VisionModel
from vit_files import ln_vision_state, vit_state, write_files

WIDTH, HIDDEN, BLOCKS, SIZE = 176, 96, 3, 56
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_files(tmp_path_factory.mktemp("vit"), WIDTH, HIDDEN, BLOCKS, SIZE)


@pytest.fixture
def model(files: tuple[Path, Path]) -> EvaViT:
    return load_eva_vit(*files, image_size=SIZE)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def oracle() -> Blip2VisionModel:
    """Hugging Face's model with the weights of `files`, converted here and not by the code under test."""
    used = BLOCKS - 1
    config = Blip2VisionConfig(
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=used,
        num_attention_heads=WIDTH // 88,
        image_size=SIZE,
        patch_size=14,
        layer_norm_eps=1e-6,
        attn_implementation="eager",
    )
    source = {key: tensor.float() for key, tensor in vit_state(WIDTH, HIDDEN, BLOCKS, SIZE).items()}
    norm = ln_vision_state(WIDTH)
    state = {
        "embeddings.class_embedding": source["cls_token"],
        "embeddings.position_embedding": source["pos_embed"],
        "embeddings.patch_embedding.weight": source["patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": source["patch_embed.proj.bias"],
        "post_layernorm.weight": norm["ln_vision.weight"],
        "post_layernorm.bias": norm["ln_vision.bias"],
    }
    renamed = {
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.proj": "self_attn.projection",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for i in range(used):
        ours, theirs = f"blocks.{i}.", f"encoder.layers.{i}."
        for old, new in renamed.items():
            for leaf in ("weight", "bias"):
                state[f"{theirs}{new}.{leaf}"] = source[f"{ours}{old}.{leaf}"]
        q_bias, v_bias = source[ours + "attn.q_bias"], source[ours + "attn.v_bias"]
        state[theirs + "self_attn.qkv.weight"] = source[ours + "attn.qkv.weight"]
        state[theirs + "self_attn.qkv.bias"] = torch.cat((q_bias, torch.zeros(WIDTH), v_bias))
    hugging_face = Blip2VisionModel(config).eval()
    hugging_face.load_state_dict(state)
    hugging_face.post_layernorm.eps = 1e-5
    return hugging_face


@torch.no_grad()
def difference(model: EvaViT, oracle: Blip2VisionModel, images: torch.Tensor) -> float:
    return (model(images) - oracle(images).last_hidden_state).abs().max().item()


def test_equals_hugging_face(model: EvaViT, oracle: Blip2VisionModel, images: torch.Tensor) -> None:
    features = model(images)
    assert features.shape == (2, 17, WIDTH)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert difference(model, oracle, images) <= TOLERANCE


def wrong_block_eps(model: EvaViT) -> None:
    model.blocks[0].norm1.eps = 1e-5


def wrong_ln_vision_eps(model: EvaViT) -> None:
    model.ln_vision.eps = 1e-6


def no_value_bias(model: EvaViT) -> None:
    model.blocks[1].attn.v_bias.data.zero_()


def no_query_bias(model: EvaViT) -> None:
    model.blocks[1].attn.q_bias.data.zero_()


def query_and_key_swapped(model: EvaViT) -> None:
    q, k, v = model.blocks[1].attn.qkv.weight.data.split(WIDTH)
    model.blocks[1].attn.qkv.weight.data = torch.cat((k, q, v))


def ln_vision_not_loaded(model: EvaViT) -> None:
    torch.nn.init.ones_(model.ln_vision.weight)
    torch.nn.init.zeros_(model.ln_vision.bias)


def class_token_lost(model: EvaViT) -> None:
    model.cls_token.data.zero_()


def a_block_too_few(model: EvaViT) -> None:
    del model.blocks[-1]


FAULTS = [
    wrong_block_eps,
    wrong_ln_vision_eps,
    no_value_bias,
    no_query_bias,
    query_and_key_swapped,
    ln_vision_not_loaded,
    class_token_lost,
    a_block_too_few,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_comparison_catches(fault, model: EvaViT, oracle: Blip2VisionModel, images: torch.Tensor) -> None:
    fault(model)
    assert difference(model, oracle, images) > 10 * TOLERANCE


@pytest.mark.skipif(
    "interpolate_pos_encoding" not in inspect.signature(Blip2VisionModel.forward).parameters,
    reason="this transformers cannot interpolate positions",
)
@pytest.mark.parametrize(("size", "tokens"), [(84, 37), (448, 1025)])
def test_another_image_size_interpolates_the_positions(
    size: int, tokens: int, files: tuple[Path, Path], oracle: Blip2VisionModel
) -> None:
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        ours = load_eva_vit(*files, image_size=size)(images)
        theirs = oracle(images, interpolate_pos_encoding=True).last_hidden_state
    assert ours.shape == (1, tokens, WIDTH)
    assert (ours - theirs).abs().max() <= TOLERANCE


def test_float16_keeps_norms_and_residual_in_float32(
    files: tuple[Path, Path], model: EvaViT, images: torch.Tensor
) -> None:
    mixed = load_eva_vit(*files, image_size=SIZE, dtype=torch.float16)
    in_float32 = {name for name, tensor in mixed.named_parameters() if tensor.dtype == torch.float32}
    assert {name.split(".")[-2] for name in in_float32 if "." in name} == {"norm1", "norm2", "ln_vision"}
    assert {"cls_token", "pos_embed"} <= in_float32

    def error(other: EvaViT) -> float:
        return ((other(images).float() - model(images)).norm() / model(images).norm()).item()

    all_float16 = load_eva_vit(*files, image_size=SIZE).half()
    assert mixed(images).dtype == torch.float32
    assert error(mixed) < 1e-3
    assert error(mixed) < error(all_float16)


def test_names_and_depth_are_the_files(model: EvaViT) -> None:
    """Stored names, without the last block and what belongs to the classifier."""
    stored = set(vit_state(WIDTH, HIDDEN, BLOCKS, SIZE)) | {"ln_vision.weight", "ln_vision.bias"}
    unused = {key for key in stored if key.startswith((f"blocks.{BLOCKS - 1}.", "norm.", "head."))}
    assert set(model.state_dict()) == stored - unused
    assert model.geometry.tokens == 17


def test_without_ln_vision_it_is_plain(files: tuple[Path, Path], images: torch.Tensor) -> None:
    """MiniGPT-4's Llama-2 stage: upstream never loads ln_vision there."""
    features = load_eva_vit(files[0], None, image_size=SIZE)(images)
    torch.testing.assert_close(features.mean(-1), torch.zeros(2, 17), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(3, 70, 56), (3, 14, 224), (1, 56, 56)])
def test_refuses_other_sizes(model: EvaViT, size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes \(B, 3, 56, 56\) pictures, got"):
        model(torch.zeros(1, *size))


def save_changed(path: Path, change) -> Path:
    state = vit_state(WIDTH, HIDDEN, BLOCKS, SIZE)
    change(state)
    torch.save(state, path)
    return path


def test_missing_and_misshapen_keys_are_named(tmp_path: Path, files: tuple[Path, Path]) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        del state["blocks.1.attn.v_bias"]
        state["blocks.0.norm1.weight"] = torch.ones(5)

    path = save_changed(tmp_path / "broken.pth", change)
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.v_bias is missing") as caught:
        load_eva_vit(path, files[1], image_size=SIZE)
    assert str(path) in str(caught.value)
    assert "blocks.0.norm1.weight is (5,), expected (176,)" in str(caught.value)


def test_a_missing_last_block_is_no_matter_but_another_one_is(tmp_path: Path, files: tuple[Path, Path]) -> None:
    def drop(key: str):
        return lambda state: state.pop(key)

    load_eva_vit(save_changed(tmp_path / "a.pth", drop("blocks.2.norm1.bias")), files[1], image_size=SIZE)
    with pytest.raises(ValueError, match=r"blocks\.1\.norm1\.bias is missing"):
        load_eva_vit(save_changed(tmp_path / "b.pth", drop("blocks.1.norm1.bias")), files[1], image_size=SIZE)


def test_the_q_former_file_must_hold_ln_vision(tmp_path: Path, files: tuple[Path, Path]) -> None:
    torch.save({"model": {"query_tokens": torch.zeros(1)}}, tmp_path / "q.pth")
    with pytest.raises(ValueError, match=r"q\.pth has no ln_vision\.weight and no ln_vision\.bias"):
        load_eva_vit(files[0], tmp_path / "q.pth", image_size=SIZE)
    torch.save({"model": ln_vision_state(WIDTH + 1)}, tmp_path / "q.pth")
    with pytest.raises(ValueError, match=r"q\.pth does not fit .* weight is \(177,\), expected \(176,\)"):
        load_eva_vit(files[0], tmp_path / "q.pth", image_size=SIZE)


def test_the_real_geometry_needs_39_blocks(tmp_path: Path) -> None:
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(1).expand(*shape)  # one stored number, whatever the shape

    state = {
        "cls_token": zeros(1, 1, 1408),
        "pos_embed": zeros(1, 257, 1408),
        "patch_embed.proj.weight": zeros(1408, 3, 14, 14),
    }
    state.update({f"blocks.{i}.mlp.fc1.weight": zeros(6144, 1408) for i in range(38)})
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=r"short\.pth has 38 blocks; ViT-g needs 39"):
        load_eva_vit(tmp_path / "short.pth")
    # With 39 the depth is right, and what is missing is named instead.
    state["blocks.38.mlp.fc1.weight"] = zeros(6144, 1408)
    torch.save(state, tmp_path / "enough.pth")
    with pytest.raises(ValueError, match=r"patch_embed\.proj\.bias is missing; blocks\.0\.norm1\.weight is missing"):
        load_eva_vit(tmp_path / "enough.pth")


def test_unusable_files(tmp_path: Path, files: tuple[Path, Path]) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        load_eva_vit(tmp_path / "none.pth")
    (tmp_path / "cut.pth").write_bytes(files[0].read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.pth cannot be read as PyTorch weights; download it again"):
        load_eva_vit(tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"this is not an EVA ViT"):
        load_eva_vit(files[1])
    torch.save(vit_state(170, HIDDEN, BLOCKS, SIZE), tmp_path / "narrow.pth")
    with pytest.raises(ValueError, match="170 channels wide; ViT-g has heads of 88 channels"):
        load_eva_vit(tmp_path / "narrow.pth")
    with pytest.raises(ValueError, match="no multiple of the patch size 14"):
        load_eva_vit(files[0], image_size=60)
