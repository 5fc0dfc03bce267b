"""Loading with int8 weights: the same as quantising afterwards, in half the memory; and the gate of low_resource."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from llama_folders import TINY, random_state, write_folder, write_shards
from port.models.llama_int8 import dequantise, quantise
from port.models.llama_linear import linears
from port.models.llama_loading import WeightsError
from port.models.llama_packing import unpack
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

from benchmarks import int8_gate as gate
from benchmarks import int8_models, results

load = LlamaForCausalLM.from_pretrained


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "llama")


def written_out(folder: Path, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """The model with every matrix but the head quantised and widened again: what int8 must compute."""
    model = load(folder, torch_dtype=dtype)
    for name, linear in linears(model):
        if name != "lm_head":
            weight = dequantise(*quantise(unpack(linear.weight)), dtype)
            linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    return model


SHAPES = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "tied": {"tie_word_embeddings": True},
    "biased": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 16},
}


@pytest.mark.parametrize("name", SHAPES)
def test_loading_equals_quantising_the_loaded_model(tmp_path, name):
    folder = write_folder(tmp_path, **SHAPES[name])
    model, full = load(folder, load_in_8bit=True), load(folder)
    assert model.int8
    assert not full.int8
    assert not model.training
    matrices = dict(linears(full))
    for name, linear in linears(model):
        if name == "lm_head":
            assert (linear.weight is model.model.embed_tokens.weight) == model.config.tie_word_embeddings
            assert linear.weight.dtype == model.dtype
            assert linear.scale is None
            continue
        integers, scale = quantise(matrices[name].weight)
        assert torch.equal(linear.weight, integers), name
        assert torch.equal(linear.scale, scale), name
        if linear.bias is not None:
            assert torch.equal(linear.bias, matrices[name].bias)
    assert torch.equal(model.model.embed_tokens.weight, full.model.embed_tokens.weight)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_and_generates_what_its_weights_stand_for(tmp_path, name, dtype):
    folder = write_folder(tmp_path, **SHAPES[name])
    int8, full = load(folder, torch_dtype=dtype, load_in_8bit=True), written_out(folder, dtype)
    prompt = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(0))
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert int8.dtype == dtype
    assert relative(int8(input_ids=prompt).logits, full(input_ids=prompt).logits) < tolerance
    if dtype == torch.float32:
        options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
        assert torch.equal(int8.generate(prompt, **options), full.generate(prompt, **options))


def test_float16_means_the_devices_own_dtype(folder):
    """Upstream's low_resource asks for float16 on every device; explicit other dtypes stay."""
    assert load(folder, torch_dtype=torch.float16, load_in_8bit=True, device_map={"": "cpu"}).dtype == torch.float32
    assert load(folder, torch_dtype=torch.bfloat16, load_in_8bit=True).dtype == torch.bfloat16
    assert load(folder, load_in_8bit=True).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_are_kept_in_the_dtype_of_the_activations_without_a_change(folder, dtype):
    model = load(folder, torch_dtype=dtype, load_in_8bit=True)
    state = random_state(TINY)
    inner = [linear for name, linear in linears(model) if name != "lm_head"]
    assert {linear.scale.dtype for linear in inner} == {dtype}
    assert {linear.weight.dtype for linear in inner} == {torch.int8}
    expected = quantise(state["model.layers.1.self_attn.o_proj.weight"])[1]
    assert torch.equal(model.model.layers[1].self_attn.o_proj.scale.float(), expected)


@pytest.mark.parametrize("int8", [True, False])
def test_damaged_folders_are_told_apart_with_and_without_int8(folder, int8):
    state = random_state(TINY)
    missing = {name: tensor for name, tensor in state.items() if name != "model.layers.1.mlp.up_proj.weight"}
    write_shards(folder, missing, 2)
    with pytest.raises(WeightsError, match=r"lack 1 of 30 parameters, first model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder, load_in_8bit=int8)
    write_shards(folder, {**state, "lm_head.weight": torch.zeros(96, 32)}, 2)
    with pytest.raises(WeightsError, match="the weights have 96 tokens"):
        load(folder, load_in_8bit=int8)
    write_shards(folder, {**state, "model.layers.0.self_attn.q_proj.scale": torch.ones(32)}, 2)
    with pytest.raises(WeightsError, match=r"holds model\.layers\.0\.self_attn\.q_proj\.scale, which the model"):
        load(folder, load_in_8bit=int8)


def test_weights_that_are_no_numbers_name_their_file(folder):
    state = random_state(TINY)
    state["model.layers.2.self_attn.k_proj.weight"][5, 1] = float("nan")
    write_shards(folder, state, 2)
    with pytest.raises(WeightsError, match=r"pytorch_model-0000.-of-00002\.bin: model\.layers\.2\.self_attn\.k_proj"):
        load(folder, load_in_8bit=True)


PEAK = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
import port_package
from port.models.llama_packing import unpack
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

def private():  # pages of mapped files are not counted: the system takes them back when it needs them
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) * 1024

LlamaForCausalLM.from_pretrained(sys.argv[3], load_in_8bit=True)  # tiny: everything is imported and warm
before, seen, done = private(), [], threading.Event()

def watch():
    while not done.is_set():
        seen.append(private())
        time.sleep(0.0005)

watcher = threading.Thread(target=watch)
watcher.start()
model = LlamaForCausalLM.from_pretrained(sys.argv[2], load_in_8bit=True)
done.set()
watcher.join()
print((max(seen) - before) / sum(p.numel() * p.element_size() for p in model.parameters()), len(seen))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status is Linux's")
@pytest.mark.slow
def test_the_peak_stays_near_the_int8_size(folder, tmp_path):
    """27 million weights in one file of 4 bytes each: a copy of any matrix, let alone of all, would show."""
    size = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
    large = write_folder(tmp_path / "large", shards=1, **size)
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(Path(__file__).parent), str(large), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    peak, samples = map(float, result.stdout.split())
    assert samples > 20
    assert 0.9 < peak < 1.25


# The gate


def test_the_gate_passes_small_changes_and_stops_large_ones(folder):
    full, int8 = load(folder), load(folder, load_in_8bit=True)
    tokens = torch.randint(3, 97, (4, 40), generator=torch.Generator().manual_seed(0))
    none = gate.difference(full, full, tokens)
    assert max(none.kl) < 1e-9
    assert none.same == [100.0] * 4
    some = gate.difference(full, int8, tokens)
    assert 1e-7 < sum(some.kl) / 4 < gate.MAX_KL
    for name, linear in linears(int8):  # the scales of a fused matrix in another order
        if name.endswith("gate_up_proj"):
            linear.scale.copy_(linear.scale.flip(0))
    assert not gate.difference(full, int8, tokens).passes


def test_a_model_that_misses_one_goal_is_shown_as_missed(monkeypatch):
    """In the row of that goal, the table's figure is the mean that the goal is about."""
    state, config = random_state(TINY), {**TINY}
    tokens = torch.randint(3, 97, (3, 20), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(gate, "MIN_SAME", 100.1)
    rows, passes = gate.compare("tiny", config, state, tokens)
    goals = {row["what"]: row["goal"] for row in rows}
    assert not passes
    assert goals["tiny: KL of int8 in float32 to float32"] == "mean <= 0.02: met"
    assert goals["tiny: same best token, int8 in bfloat16 and float32"] == "mean >= 100: not met"
    assert results.middle({"values": [1.0, 2.0, 6.0], "unit": "%", "shown": "mean"}) == "3 % (mean)"
    assert results.middle({"values": [1.0, 2.0, 6.0], "unit": "%"}) == "2 %"


@pytest.mark.parametrize("outliers", [int8_models.PUBLISHED, int8_models.HARSH], ids=["published", "harsh"])
def test_outliers_do_not_change_the_function(tmp_path, outliers):
    state = random_state({**TINY, "intermediate_size": 128})
    models = []
    for name, weights in (("plain", state), ("outliers", gate.with_outliers(state, 3, outliers))):
        folder = write_folder(tmp_path / name, intermediate_size=128)
        write_shards(folder, weights, 1)
        for path in folder.glob("*-of-00002.bin"):
            path.unlink()
        models.append(load(folder))
    tokens = torch.randint(3, 97, (1, 40), generator=torch.Generator().manual_seed(0))
    assert relative(models[1](input_ids=tokens).logits, models[0](input_ids=tokens).logits) < 1e-4
