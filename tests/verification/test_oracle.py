"""The reference itself: small independent checks, since everything else is measured against it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from verification import oracle
from verification.oracle_decoder import Decoder


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> oracle.Encoder:
    others = tiny / "othfiles"
    return oracle.Encoder(others / "eva_vit_g.pth", others / "blip2_pretrained_flant5xxl.pth")


def test_ln_vision_has_its_own_weights_and_epsilon(tiny: Path, encoder: oracle.Encoder) -> None:
    state = oracle.read_state(tiny / "othfiles" / "blip2_pretrained_flant5xxl.pth")
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    before = encoder.model(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
    weight, bias = state["ln_vision.weight"], state["ln_vision.bias"]
    right = torch.nn.functional.layer_norm(before, (1408,), weight, bias, 1e-5)
    wrong = torch.nn.functional.layer_norm(before, (1408,), weight, bias, 1e-6)
    assert torch.allclose(encoder(pixels), right, atol=1e-5)
    assert not torch.allclose(encoder(pixels), wrong, atol=1e-5)


def test_a_hole_in_a_file_is_an_error_of_the_reference(tiny: Path, tmp_path: Path) -> None:
    state = torch.load(tiny / "othfiles" / "blip2_pretrained_flant5xxl.pth", weights_only=True)
    del state["model"]["Qformer.bert.encoder.layer.1.output_query.LayerNorm.bias"]
    torch.save(state, tmp_path / "blip2.pth")
    with pytest.raises(ValueError, match="the reference lacks"):
        oracle.QFormer(tmp_path / "blip2.pth", tiny / "othfiles" / "bert-base-uncased")


def test_llama2_puts_four_patches_side_by_side(tiny: Path) -> None:
    projection = oracle.Projection(tiny / "pretrain" / "pretrained_minigpt4_llama2_7b.pth")
    features = torch.randn(2, 257, 1408, generator=torch.Generator().manual_seed(0))
    third = torch.cat([features[1, 1 + 4 * 2 + patch] for patch in range(4)])  # minigpt4.py:139-143, for one token
    expected = projection.weight @ third + projection.bias
    result = projection(features)
    assert result.shape == (2, 64, 256)
    assert torch.allclose(result[1, 2], expected, atol=1e-5)


@pytest.mark.parametrize("model_type", ["pretrain_vicuna0", "pretrain_llama2"])
def test_text_becomes_the_ids_of_transformers_4_30(tiny: Path, model_type: str) -> None:
    import transformers

    folder = tiny / ("weights" if model_type == "pretrain_vicuna0" else "llama2")
    tokenizer = transformers.LlamaTokenizer.from_pretrained(str(folder), use_fast=False, legacy=True)
    for text in oracle.TEMPLATES[model_type].format(question="What is this? Größe: 10 m²").split("<ImageHere>"):
        expected = tokenizer(text, add_special_tokens=False).input_ids
        assert oracle.tokenize(folder / "tokenizer.model", text) == expected


def test_greedy_is_what_generate_does(tiny: Path) -> None:
    decoder = Decoder(tiny / "weights", "pretrain_vicuna0")
    ids = [1, 300, 400, 500]
    (found,) = decoder.greedy(decoder.embed(ids), 10)
    expected = decoder.model.generate(torch.tensor([ids]), max_new_tokens=10, do_sample=False)[0, len(ids) :]
    assert list(found.ids) == expected.tolist()
    assert len(found.margins) == len(found.ids)
    assert min(found.margins) > 0


def test_the_processor_resizes_bicubically_and_normalises(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (500, 300), (255, 0, 0)).save(tmp_path / "red.png")
    pixels = oracle.process(tmp_path / "red.png")
    assert pixels.shape == (3, 224, 224)
    expected = [(value - mean) / std for value, mean, std in zip((1, 0, 0), oracle.MEAN, oracle.STD)]
    assert pixels.mean(dim=(1, 2)).tolist() == pytest.approx(expected, abs=1e-5)
