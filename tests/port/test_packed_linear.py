"""What is special to a processor: packed weights give the numbers of F.linear, one query the reference's answer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from port.models import llama_ops, llama_ops_cpu, llama_packing
from port.models.llama_packing import linear, pack, unpack
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

from tests.port.llama_folders import TINY, random_state, write_folder

packs = pytest.mark.skipif(not llama_packing._can_pack(torch.bfloat16), reason="this processor packs no bfloat16")


def matrix(rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).to(dtype)


@packs
@pytest.mark.parametrize("shape", [(100, 77), (96, 64), (1, 5), (384, 128)])
@pytest.mark.parametrize("tokens", [1, 2, 8, 33])
def test_a_packed_weight_gives_the_numbers_of_f_linear(shape, tokens):
    weight, x = matrix(*shape), matrix(tokens, shape[1])
    packed = pack(weight)
    assert packed.is_mkldnn
    assert packed.shape == weight.shape
    assert packed.dtype == weight.dtype
    torch.testing.assert_close(linear(x, packed), F.linear(x, weight), rtol=2**-7, atol=2**-7)


@packs
def test_bias_and_inputs_that_are_slices():
    weight, bias = matrix(48, 32), matrix(1, 48)[0]
    packed = pack(weight)
    x = matrix(10, 32).view(2, 5, 32)
    for part in (x, x[:, -1], x[:, 1:3], x[:0]):
        torch.testing.assert_close(linear(part, packed, bias), F.linear(part, weight, bias), rtol=2**-7, atol=2**-7)


@packs
def test_unpacking_gives_the_weight_back():
    weight = matrix(48, 32)
    assert torch.equal(unpack(pack(weight)), weight)
    assert unpack(weight) is weight
    assert torch.nn.Parameter(pack(weight), requires_grad=False).is_mkldnn


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_other_dtypes_stay_as_they_are(dtype):
    weight = matrix(8, 8).to(dtype)
    assert pack(weight) is weight


def test_a_build_without_the_operation_stays_with_f_linear(monkeypatch):
    def absent(*_):
        raise RuntimeError("no such operation")

    llama_packing._can_pack.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", absent, raising=False)
    weight = matrix(8, 8)
    assert pack(weight) is weight
    llama_packing._can_pack.cache_clear()


@packs
def test_a_loaded_model_is_packed_and_shows_plain_weights(tmp_path):
    model = LlamaForCausalLM.from_pretrained(write_folder(tmp_path / "llama"), torch_dtype=torch.bfloat16)
    assert model.lm_head.weight.is_mkldnn
    assert model.model.layers[0].self_attn.qkv_proj.weight.is_mkldnn
    state = random_state(TINY)
    shown = model.state_dict()
    assert shown.keys() == state.keys()
    assert all(torch.equal(shown[name], tensor.bfloat16()) for name, tensor in state.items())
    packed = model.lm_head.weight
    assert model.to("cpu").eval().lm_head.weight is packed, "what upstream does to a model copies nothing"

    expected = model.generate(torch.tensor([[1, 5, 9]]), max_new_tokens=8)
    model.load_state_dict(shown)
    assert not model.lm_head.weight.is_mkldnn
    assert torch.equal(model.generate(torch.tensor([[1, 5, 9]]), max_new_tokens=8), expected)


@packs
@pytest.mark.parametrize("int8", [False, True])
def test_copies_of_a_packed_model_answer_alike(tmp_path, int8):
    """deepcopy and pickle cannot take a packed weight as it is."""
    folder = write_folder(tmp_path / "llama")
    model = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.bfloat16, load_in_8bit=int8)
    prompt = torch.tensor([[1, 5, 9]])
    expected = model(input_ids=prompt).logits
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.lm_head.weight.is_mkldnn
        assert torch.equal(other(input_ids=prompt).logits, expected)


@packs
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_packed_model_changes_its_dtype(tmp_path, int8, dtype):
    folder = write_folder(tmp_path / "llama")
    model = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.bfloat16, load_in_8bit=int8)
    prompt = torch.tensor([[1, 5, 9]])
    expected = model(input_ids=prompt).logits
    model = model.to(dtype)
    assert model.dtype == dtype
    assert not model.lm_head.weight.is_mkldnn
    assert (model(input_ids=prompt).logits - expected).norm() < 0.05 * expected.norm()
    assert model.to(torch.bfloat16).lm_head.weight.dtype == torch.bfloat16


@packs
def test_a_packed_model_moves_to_another_device(tmp_path):
    model = LlamaForCausalLM.from_pretrained(write_folder(tmp_path / "llama"), torch_dtype=torch.bfloat16)
    assert model.to("meta").lm_head.weight.device.type == "meta"


@packs
def test_tied_weights_are_held_once(tmp_path):
    folder = write_folder(tmp_path / "llama", tie_word_embeddings=True)
    model = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("heads", [4, 8], ids=["all heads", "shared heads"])
@pytest.mark.parametrize("masked", ["no", "each its own", "one for all"])
@pytest.mark.parametrize("wide", [1, 2 * 9 * 16, 2**19], ids=["a head at a time", "some heads", "all heads at once"])
def test_one_query_on_a_processor_gets_the_answer_of_the_reference(monkeypatch, dtype, heads, masked, wide):
    """In bfloat16 nothing is rounded on the way, so that only the answer's own rounding (2^-9) is allowed."""
    monkeypatch.setattr(llama_ops_cpu, "_WIDE", wide)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, n, t, 16, generator=generator).to(dtype) for n, t in ((heads, 1), (4, 12), (4, 12)))
    k, v = k * 3, v.contiguous()
    mask = torch.ones(3, 1, 1, 9, dtype=torch.bool)
    mask[1, :, :, :3] = False
    mask[2, :, :, 2:8] = False
    mask = {"no": None, "each its own": mask, "one for all": mask[1:2]}[masked]
    expected = llama_ops.attention(q.double(), k.double(), v.double(), 9, mask)
    found = llama_ops.cpu_attention(q, k, v, 9, mask)
    assert found.shape == (3, heads, 1, 16)
    assert found.dtype == dtype
    bound = 2**-8 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=1e-5)
