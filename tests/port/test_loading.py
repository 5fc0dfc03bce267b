"""Reading Llama folders: every format, and a clear message for each way in which they come damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from llama_folders import TINY, random_state, write_folder, write_shards
from port.models.llama_loading import WeightsError
from port.models.llama_tokens import TokenizerError, count_tokens
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

load = LlamaForCausalLM.from_pretrained


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "llama")


def remove_weights(folder: Path) -> None:
    for path in folder.glob("pytorch_model*"):
        path.unlink()


def check_loaded(model, dtype=torch.float32) -> None:
    state = random_state(TINY)
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor.to(dtype)), name
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def write_nothing_else(folder: Path, name: str, form: str) -> None:
    remove_weights(folder)
    state = random_state(TINY)
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(state, folder / name)
    else:
        torch.save(state, folder / name, _use_new_zipfile_serialization=form == "zip")


def test_shards_with_an_index(folder):
    check_loaded(load(folder))


@pytest.mark.parametrize(
    ("name", "form"),
    [("pytorch_model.bin", "zip"), ("pytorch_model.bin", "legacy"), ("model.safetensors", "safetensors")],
)
def test_one_file(folder, name, form):
    write_nothing_else(folder, name, form)
    check_loaded(load(str(folder)))


def test_safetensors_shards(folder):
    from safetensors.torch import save_file

    remove_weights(folder)
    state = random_state(TINY)
    names = list(state)
    weight_map = {}
    for number, part in enumerate((names[:10], names[10:])):
        save_file({name: state[name] for name in part}, folder / f"model-{number}.safetensors")
        weight_map.update(dict.fromkeys(part, f"model-{number}.safetensors"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    check_loaded(load(folder))


def test_what_transformers_saves(tmp_path, folder):
    transformers = pytest.importorskip("transformers")
    hf = transformers.LlamaForCausalLM.from_pretrained(folder)
    hf.save_pretrained(tmp_path / "saved", max_shard_size="30KB")
    check_loaded(load(tmp_path / "saved"))


def test_dtype_and_device(folder):
    check_loaded(load(folder, torch_dtype=torch.float16), torch.float16)
    check_loaded(load(folder, torch_dtype="bfloat16", device_map={"": "cpu"}), torch.bfloat16)
    check_loaded(load(folder, torch_dtype="auto", device_map=torch.device("cpu")))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float16"}))
    assert load(folder).dtype is torch.float16


def test_more_than_one_device_is_refused(folder):
    with pytest.raises(ValueError, match="lives on one device"):
        load(folder, device_map={"model.layers.0": 0})


def test_rotary_buffers_of_old_files_are_ignored(folder):
    state = random_state(TINY)
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    write_shards(folder, state, 2)
    check_loaded(load(folder))


def test_tied_embeddings_share_their_memory(tmp_path):
    model = load(write_folder(tmp_path, tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_missing_parameter_is_named(folder):
    state = random_state(TINY)
    del state["model.layers.1.mlp.up_proj.weight"]
    write_shards(folder, state, 2)
    with pytest.raises(WeightsError, match=r"lack 1 of 30 parameters, first model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_an_unknown_parameter_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(WeightsError, match=r"pytorch_model-0000.-of-00002\.bin holds model\.layers\.2\."):
        load(folder)


def test_another_shape_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(WeightsError, match=r"up_proj\.weight is \(56, 32\), but .*config\.json asks for \(64, 32\)"):
        load(folder)


@pytest.mark.parametrize(("value", "dtype"), [("nan", "float32"), ("-inf", "bfloat16"), ("1e5", "float16")])
def test_numbers_that_are_none_or_do_not_fit(folder, value, dtype):
    """Not left to generate: of NaN in q_proj or k_proj, PyTorch's attention on a CPU makes zeros."""
    state = random_state(TINY)
    state["model.layers.1.self_attn.k_proj.weight"][2, 3] = float(value)
    write_shards(folder, state, 2)
    with pytest.raises(WeightsError, match=r"\.bin: model\.layers\.1\.self_attn\.k_proj\.weight holds NaN, infinity"):
        LlamaForCausalLM.from_pretrained(folder, torch_dtype=dtype)


def test_another_vocabulary_is_explained(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 96}))
    with pytest.raises(WeightsError, match="the weights have 97 tokens, vocab_size is 96"):
        load(folder)


def test_absent_shards_are_named(folder):
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"names 2 files, and pytorch_model-00002-of-00002\.bin is not there"):
        load(folder)


def test_a_cut_off_shard_is_named(folder):
    shard = folder / "pytorch_model-00001-of-00002.bin"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"pytorch_model-00001-of-00002\.bin cannot be read .*complete\?"):
        load(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_git_lfs_pointer_is_recognised(folder, name):
    remove_weights(folder)
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(WeightsError, match=r"(?s)Git LFS pointer: run `git lfs pull`"):
        load(folder)


def test_weights_that_would_run_code_are_refused(folder):
    class Evil:
        def __reduce__(self):
            return (open, (str(folder / "was_here"), "w"))

    remove_weights(folder)
    torch.save({"model.norm.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError):
        load(folder)
    assert not (folder / "was_here").exists()


def test_absent_folder_config_and_weights(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a folder\. Set llama_model"):
        load(tmp_path / "nowhere")
    remove_weights(folder)
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        load(folder)


def test_a_config_that_is_not_json(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        load(folder)


@pytest.mark.parametrize("name", ["generation_config.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_broken_json_names_its_file(folder, name, content):
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"llama/{name} is not .*download it again"):
        load(folder)


def test_an_index_without_a_weight_map(folder):
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"index\.json has no weight_map"):
        load(folder)


def train_tokenizer(folder):
    """A tokenizer.model of two pieces fewer than the weights have tokens (TINY: 97)."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a man sits at a desk and reads"] * 9),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=TINY["vocab_size"] - 2,
        hard_vocab_limit=False,
        model_type="char",
        byte_fallback=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size()


def test_tokens_without_a_text_are_never_chosen(folder):
    named = train_tokenizer(folder)
    assert named < TINY["vocab_size"]
    model = load(folder)
    prompt = torch.ones(8, 1, dtype=torch.long)
    torch.manual_seed(0)
    options = {"max_new_tokens": 20, "eos_token_id": None, "top_k": 0, "temperature": 9.0}
    assert model.generate(prompt, do_sample=True, **options).max() < named
    with torch.no_grad():  # the best token of all is one without a text
        model.lm_head.weight[named:] *= 100
    for beams in (1, 3):
        assert model.generate(prompt, num_beams=beams, max_new_tokens=9).max() < named
    assert model.generate(prompt, max_new_tokens=9, suppress_tokens=None).max() >= named


def test_added_tokens_have_a_text(folder):
    named = train_tokenizer(folder)
    assert count_tokens(folder) == named
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": named}))
    assert count_tokens(folder) == named + 1
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {str(named + 1): {}}}))
    assert count_tokens(folder) == named + 2


def test_generation_options_of_old_folders_stay_in_force(folder):
    """They stand in config.json where generation_config.json is absent."""
    train_tokenizer(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "temperature": 0.25}))
    assert load(folder).generation_defaults["temperature"] == 0.25


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"])
def test_broken_tokenizer_files_are_named(folder, name):
    train_tokenizer(folder)
    (folder / name).write_text("{")
    with pytest.raises(ValueError, match=f"{name} is not valid JSON"):
        count_tokens(folder)


def test_a_tokenizer_that_is_none_is_named(folder):
    (folder / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(TokenizerError, match=r"tokenizer\.model is not a sentencepiece model"):
        count_tokens(folder)


def test_missing_sentencepiece_is_said(folder, monkeypatch):
    train_tokenizer(folder)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(TokenizerError, match="pip install sentencepiece"):
        count_tokens(folder)


PEAK = """
import sys
sys.path.insert(0, sys.argv[1])
import port_package
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

def peak():  # not ru_maxrss: that begins with the parent's
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024

LlamaForCausalLM.from_pretrained(sys.argv[3])  # tiny: everything is imported and warm
before = peak()
model = LlamaForCausalLM.from_pretrained(sys.argv[2])
print((peak() - before) / sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status is Linux's")
def test_the_peak_is_far_below_two_copies(folder, tmp_path):
    """Eight shards: all weights and one mapped shard are 1.125 times the weights."""
    size = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    large = write_folder(tmp_path / "large", shards=8, **size)
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(Path(__file__).parent), str(large), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.9 < float(result.stdout) < 1.4
