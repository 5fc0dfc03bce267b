"""The synthetic weights are read by the real loaders, repeat exactly, and never take the place of real ones."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from overlaykit.errors import FixTheCommand
from verification import synthetic
from verification.weights import read_tensors


@pytest.mark.parametrize(("folder", "extra"), [("weights", 1), ("llama2", 0)])
def test_hugging_face_loads_the_language_model_whole(tiny: Path, folder: str, extra: int) -> None:
    from transformers import LlamaForCausalLM, LlamaTokenizer

    model, info = LlamaForCausalLM.from_pretrained(str(tiny / folder), output_loading_info=True)
    tokenizer = LlamaTokenizer.from_pretrained(str(tiny / folder), use_fast=False)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    # Vicuna v0 has one row more than its tokenizer has pieces (32001 and 32000).
    assert model.config.vocab_size == len(tokenizer) + extra
    assert len(list((tiny / folder).glob("pytorch_model-*.bin"))) == 2


def test_the_tokenizer_splits_the_stop_word_as_llamas_does(tiny: Path) -> None:
    from transformers import LlamaTokenizer

    tokenizer = LlamaTokenizer.from_pretrained(str(tiny / "weights"), use_fast=False)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("a ### b.###", add_special_tokens=False).input_ids)
    assert "▁###" in pieces  # 835 in LLaMA's vocabulary
    assert pieces[-2:] == ["##", "#"]  # 2277, 29937
    tokenizer.pad_token = "$$"
    assert tokenizer.convert_tokens_to_ids("$$") == 0  # upstream's pad token is no piece


def test_keys_and_dtypes_are_those_of_the_real_files(tiny: Path) -> None:
    vit = read_tensors(tiny / "othfiles" / "eva_vit_g.pth")
    blip2 = read_tensors(tiny / "othfiles" / "blip2_pretrained_flant5xxl.pth")
    stage = read_tensors(tiny / "pretrain" / "prerained_minigpt4_7b.pth")
    assert {tensor.dtype for tensor in vit.values()} == {torch.float16}
    assert not any("ln_vision" in key for key in vit)  # only the BLIP-2 file has it
    assert {"norm.weight", "head.weight", "blocks.0.attn.q_bias", "pos_embed"} <= set(vit)
    assert not any("k_bias" in key for key in vit)
    assert {"query_tokens", "ln_vision.weight", "Qformer.bert.embeddings.LayerNorm.weight"} <= set(blip2)
    assert set(stage) == {"llama_proj.weight", "llama_proj.bias"}


def test_some_channels_are_outliers_and_pictures_matter(tiny: Path, pictures: list[Path]) -> None:
    from verification import oracle

    encoder = oracle.Encoder(tiny / "othfiles" / "eva_vit_g.pth", tiny / "othfiles" / "blip2_pretrained_flant5xxl.pth")
    pixels = torch.stack([oracle.process(path) for path in pictures])
    before = encoder.model(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
    assert before.abs().max() > 20 * before.std()
    features = encoder(pixels)
    assert (features[0] - features[1]).norm() > 0.3 * features[0].norm()


def test_the_set_is_small_fast_and_the_same_every_time(tiny: Path, tmp_path: Path) -> None:
    started = time.process_time()
    again, other = synthetic.write_tiny(tmp_path / "a", seed=0), synthetic.write_tiny(tmp_path / "b", seed=1)
    assert (time.process_time() - started) / 2 < 20
    assert sum(path.stat().st_size for path in tiny.rglob("*")) < 300e6
    for name in ("othfiles/eva_vit_g.pth", "weights/pytorch_model-00002-of-00002.bin"):
        first, same, different = (read_tensors(folder / name) for folder in (tiny, again, other))
        assert all(torch.equal(first[key], same[key]) for key in first)
        assert not all(torch.equal(first[key], different[key]) for key in first)
    assert (tiny / "weights/tokenizer.model").read_bytes() == (again / "weights/tokenizer.model").read_bytes()


def test_real_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "eva_vit_g.pth").write_bytes(b"2 GB of download")
    with pytest.raises(FixTheCommand, match="holds no synthetic weights"):
        synthetic.write_tiny(tmp_path / "real")
    assert synthetic.main([str(tmp_path / "real")]) == 2
    assert (tmp_path / "real" / "eva_vit_g.pth").read_bytes() == b"2 GB of download"


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(synthetic, "checkpoint", full)
    with pytest.raises(OSError, match="no space"):
        synthetic.write_tiny(tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


def test_the_cache_is_keyed_by_seed_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path, seed: int) -> Path:
        (folder / "weights").mkdir(parents=True)
        marker = {synthetic.MARKER: {"generator": synthetic.VERSION, "seed": seed}}
        (folder / "weights" / "config.json").write_text(json.dumps(marker))
        written.append(seed)
        return folder

    written: list[int] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(synthetic, "write_tiny", write)
    assert synthetic.cached_tiny(3) == synthetic.cached_tiny(3) != synthetic.cached_tiny(4)
    assert written == [3, 4]
