"""The decoder's forward pass against Hugging Face's LlamaForCausalLM in float32, and proof that faults would show."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
import transformers
from llama_folders import TINY, write_folder
from port.models import llama_cache, llama_ops
from port.models.llama_cache import KVCache
from port.models.llama_config import LlamaConfig
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

TOLERANCE = 1e-5
HF_KNOWS = inspect.signature(transformers.LlamaConfig.__init__).parameters
VARIANTS = {
    "vicuna": {},
    "grouped-query": {"num_key_value_heads": 2},
    "one-kv-head": {"num_key_value_heads": 1},
    "head_dim": {"head_dim": 16},
    "rope_theta": {"rope_theta": 500.0},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "eps": {"rms_norm_eps": 1e-3},
}


def pair(folder, **changes):
    """The same weights in our decoder and in Hugging Face's."""
    unknown = changes.keys() - HF_KNOWS.keys() - {"tie_word_embeddings"}
    if "rope_parameters" in HF_KNOWS:  # transformers 5 still reads the older key from config.json
        unknown -= {"rope_theta"}
    if unknown:
        pytest.skip(f"transformers {transformers.__version__} does not know {', '.join(sorted(unknown))}")
    write_folder(folder, **changes)
    return LlamaForCausalLM.from_pretrained(folder), transformers.LlamaForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return pair(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def ours(models):
    return models[0]


@pytest.fixture(scope="module")
def theirs(models):
    return models[1]


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, TINY["vocab_size"], (3, 11), generator=torch.Generator().manual_seed(5))


def difference(a, b) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits(tmp_path, ids, variant):
    ours, theirs = pair(tmp_path, **VARIANTS[variant])
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        actual = ours(input_ids=ids).logits
    assert actual.dtype is torch.float32
    assert expected.std() > 0.1  # logits that say something
    assert difference(actual, expected) <= TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(ours, theirs, ids, side):
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    mask[2, :1] = 0
    mask = mask if side == "left" else mask.flip(1)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask).logits
        actual = ours(input_ids=ids, attention_mask=mask).logits
    assert actual.isfinite().all()
    real = mask.bool()
    assert difference(actual[real], expected[real]) <= TOLERANCE


def test_padding_is_not_seen(ours, ids):
    mask = torch.ones_like(ids)
    mask[:, :3] = 0
    other = ids.clone()
    other[:, :3] = 7
    assert torch.equal(ours(other, attention_mask=mask).logits[:, 3:], ours(ids, attention_mask=mask).logits[:, 3:])


def test_embeddings_and_positions(ours, theirs, ids):
    positions = torch.arange(11).flip(0).expand(3, -1)  # 4.30 knows no position beyond the prompt's length
    embeds = ours.base_model.embed_tokens(ids)
    with torch.no_grad():
        expected = theirs(input_ids=ids, position_ids=positions).logits
    actual = ours(inputs_embeds=embeds, position_ids=positions).logits
    assert difference(actual, expected) <= TOLERANCE


def test_pieces_through_the_cache_equal_the_whole(ours, ids):
    whole = ours(ids).logits
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    for mask_of in (lambda end: None, lambda end: mask[:, :end]):
        whole = ours(ids, attention_mask=mask_of(11)).logits
        parts, cache, at = [], None, 0
        for size in (4, 1, 3, 1, 2):
            out = ours(ids[:, at : at + size], attention_mask=mask_of(at + size), past_key_values=cache, use_cache=True)
            parts.append(out.logits)
            cache, at = out.past_key_values, at + size
        assert cache.length == 11
        joined = torch.cat(parts, dim=1)
        real = mask.bool()
        assert difference(joined[real], whole[real]) <= TOLERANCE


def test_no_cache_unless_asked_for(ours, ids):
    assert ours(ids).past_key_values is None
    assert isinstance(ours(ids, use_cache=True).past_key_values, KVCache)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_loss(ours, theirs, ids, reduction):
    """upstream's modeling_llama.py:86-99: the mean over tokens, or per sample over all positions, ignored ones too."""
    labels = ids.clone()
    labels[:, :4] = -100
    labels[1, 8:] = -100
    with torch.no_grad():
        logits = theirs(input_ids=ids).logits
        losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
        hf_loss = theirs(input_ids=ids, labels=labels).loss
    loss = ours(inputs_embeds=ours.base_model.embed_tokens(ids), labels=labels, reduction=reduction).loss
    if reduction == "mean":
        assert difference(loss, hf_loss) <= TOLERANCE
    else:
        assert loss.shape == (3,)
        assert difference(loss, losses.sum(1) / 10) <= TOLERANCE


def test_a_tuple_instead_of_an_object(ours, ids):
    loss, logits, cache = ours(ids, labels=ids, use_cache=True, return_dict=False)
    assert loss.dim() == 0
    assert logits.shape == (3, 11, 97)
    assert cache.length == 11
    assert len(ours(ids, return_dict=False)) == 1


def test_what_upstream_reaches_for(ours, theirs):
    assert not hasattr(ours.base_model, "model")  # minigpt_base.py:311 takes that for a LoRA wrapper
    assert ours.config.hidden_size == 32
    assert ours.config.vocab_size == 97
    assert (ours.device, ours.dtype) == (torch.device("cpu"), torch.float32)
    assert set(ours.state_dict()) == {name for name, _ in theirs.named_parameters()}


def test_a_hugging_face_config_builds_the_model(theirs):
    model = LlamaForCausalLM(theirs.config)
    model.load_state_dict({name: tensor for name, tensor in theirs.state_dict().items() if "rotary" not in name})
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        assert difference(model(ids).logits, theirs(input_ids=ids).logits) <= TOLERANCE


def test_autocast_around_it_changes_nothing(ours, ids):
    expected = ours(ids).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeds = ours.base_model.embed_tokens(ids).bfloat16().float()
        assert torch.equal(ours(ids).logits, expected)
        half = ours(inputs_embeds=embeds.bfloat16()).logits
    assert torch.equal(half, ours(inputs_embeds=embeds).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(tmp_path, ours, ids, dtype):
    half = LlamaForCausalLM.from_pretrained(write_folder(tmp_path), torch_dtype=dtype)
    logits, expected = half(ids).logits, ours(ids).logits
    assert logits.dtype is torch.float32
    similarity = torch.nn.functional.cosine_similarity(logits, expected, dim=-1)
    assert similarity.min() > (0.999 if dtype is torch.bfloat16 else 0.9999)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "either input_ids or inputs_embeds"),
        ({"input_ids": torch.ones(1, 2, dtype=torch.long), "inputs_embeds": torch.ones(1, 2, 32)}, "not both"),
        ({"input_ids": torch.ones(1, 2, dtype=torch.long), "attention_mask": torch.ones(1, 3)}, r"the prompt \(1, 2\)"),
    ],
)
def test_calls_that_make_no_sense(ours, call, message):
    with pytest.raises(ValueError, match=message):
        ours(**call)


def test_a_foreign_cache_is_refused(ours, ids):
    with pytest.raises(TypeError, match="past_key_values is a tuple"):
        ours(ids, past_key_values=((torch.zeros(1),),))


# The table of operations


def random_attention(queries, keys, seed=0):
    make = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 4, queries, 8, generator=make)
    k, v = torch.randn(2, 2, 2, keys, 8, generator=make)
    return q, k, v


@pytest.mark.parametrize(("queries", "keys", "padded"), [(7, 7, False), (1, 7, False), (3, 7, False), (7, 7, True)])
def test_fused_attention_equals_the_reference(queries, keys, padded):
    q, k, v = random_attention(queries, keys + 5)  # slots behind the last token do not count
    padding = None
    if padded:
        padding = torch.ones(2, keys + 5, dtype=torch.bool)
        padding[1, :3] = False
    mask = llama_ops.mask(padding, torch.arange(keys - queries, keys), keys, keys + 5)
    expected = llama_ops.REFERENCE.attention(q, k, v, keys, mask)
    assert difference(llama_ops.SDPA.attention(q, k, v, keys, mask), expected) <= 1e-6
    assert difference(expected, llama_ops.attention(q, k[:, :, :keys], v[:, :, :keys], keys, mask)) == 0.0


def test_the_mask_says_who_looks_at_whom():
    padding = torch.tensor([[True] * 6, [False] * 2 + [True] * 4])
    mask = llama_ops.mask(padding, torch.arange(1, 4), 4, 6)
    assert mask[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert mask[1, 0].int().tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert llama_ops.mask(None, torch.arange(1, 4), 4, 6)[0, 0].int().tolist() == mask[0, 0].int().tolist()
    assert llama_ops.mask(None, torch.arange(4), 4, 6) is llama_ops.mask(None, torch.tensor([3]), 4, 6) is None


def test_reference_attention_scales_before_the_product():
    """q k^T is 131072 and 126976, above float16's 65504; over sqrt(128) both fit, and the first key wins."""
    q = torch.full((1, 1, 1, 128), 32.0).half()
    k = torch.tensor([32.0, 31.0]).half()[None, None, :, None].expand(1, 1, 2, 128)
    v = torch.tensor([5.0, 7.0]).half()[None, None, :, None].expand(1, 1, 2, 128)
    assert (llama_ops.REFERENCE.attention(q, k, v, 2, None) == 5.0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_late_positions_stay_apart(dtype):
    """float16 rounds 2049 to 2048 and 4095 to 4096, bfloat16 even 257: angles must not be computed in it."""
    config = LlamaConfig.from_dict(TINY)
    positions = torch.tensor([[257, 2049, 4095]])
    step = llama_cache.Step.after(None, config, torch.zeros(1, 3, 8, dtype=dtype), positions, None)
    assert step.cos.dtype is dtype
    exponents = torch.arange(0, config.head_dim, 2).double() / config.head_dim
    angles = positions[0, :, None].double() / config.rope_theta**exponents
    for actual, expected in ((step.cos, angles.cos()), (step.sin, angles.sin())):
        half = actual[0, 0, :, : config.head_dim // 2].double()
        assert difference(half, expected) <= torch.finfo(dtype).eps


def test_the_reference_table_gives_the_same_logits(ours, ids, monkeypatch):
    expected = ours(ids).logits
    monkeypatch.setattr(llama_ops, "_TABLES", {})
    assert llama_ops.ops_for(torch.device("cpu")) is llama_ops.REFERENCE
    assert difference(ours(ids).logits, expected) <= TOLERANCE


# Planted faults: each must move the logits by far more than the tolerance


def interleaved_rope(q, k, cos, sin):
    def rotate(x):
        return torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)

    return q * cos + rotate(q) * sin, k * cos + rotate(k) * sin


FAULTS = {
    "wrong eps": {"rms_norm": lambda x, w, eps: llama_ops.rms_norm(x, w, 1e-6)},
    "wrong eps between layers": {"add_rms_norm": lambda x, r, w, eps: llama_ops.add_rms_norm(x, r, w, 1e-3)},
    "residual lost": {"add_rms_norm": lambda x, r, w, eps: (llama_ops.rms_norm(x + r, w, eps), x)},
    "length off by one": {"attention": lambda q, k, v, n, m: llama_ops.attention(q, k, v, n - 1, m[..., : n - 1])},
    "no norm weight": {"rms_norm": lambda x, w, eps: llama_ops.rms_norm(x, torch.ones_like(w), eps)},
    "interleaved rope": {"rope": interleaved_rope},
    "no rope": {"rope": lambda q, k, cos, sin: (q, k)},
    "rope turned back": {"rope": lambda q, k, cos, sin: llama_ops.rope(q, k, cos, -sin)},
    "no scale": {"attention": lambda q, *kvlm: llama_ops.attention(q * q.shape[-1] ** 0.5, *kvlm)},
    "mask turned round": {
        "attention": lambda *qkvlm: llama_ops.attention(*qkvlm[:4], ~qkvlm[4] | torch.eye(11).bool())
    },
    "sees the future": {"attention": lambda *qkvlm: llama_ops.attention(*qkvlm[:4], torch.ones_like(qkvlm[4]))},
    "slot off by one": {"write_kv": lambda c, n, s: llama_ops.write_kv(c, n, (s + 1) % c.shape[2])},
    "gate and up swapped": {"swiglu": lambda x: llama_ops.swiglu(x.roll(x.shape[-1] // 2, -1))},
}


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_planted_faults_show(ours, theirs, ids, monkeypatch, fault):
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    if fault is not None:
        monkeypatch.setitem(llama_ops._TABLES, "cpu", llama_ops.SDPA._replace(**FAULTS[fault]))
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask).logits
    moved = difference(ours(ids, attention_mask=mask, use_cache=True).logits[1:], expected[1:])
    if fault is None:
        assert moved <= TOLERANCE
    else:
        assert moved > 100 * TOLERANCE


# The configuration


def test_theta_of_transformers_5():
    config = LlamaConfig.from_dict({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})
    assert config.rope_theta == 5e5
    assert LlamaConfig.from_dict({"rope_theta": 7.0, "rope_scaling": None}).rope_theta == 7.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "rope_scaling is 'llama3'"),
        ({"hidden_act": "gelu"}, "computes silu only"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads"),
    ],
)
def test_what_the_decoder_cannot_compute_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LlamaConfig.from_dict({**TINY, **changes}, source="x/config.json")


def test_defaults_of_old_configs():
    """Vicuna v0's config.json has no num_key_value_heads, rope_theta or max_position_embeddings."""
    config = LlamaConfig.from_dict({"vocab_size": 32001, "max_sequence_length": 2048, "hidden_act": "silu"})
    assert config == dataclasses.replace(LlamaConfig(vocab_size=32001), extra=config.extra)
    assert config.eos_token_ids == [2]
    assert LlamaConfig.from_dict({"eos_token_id": [2, 3]}).eos_token_ids == [2, 3]


def test_a_cache_grows_and_keeps_what_it_holds():
    config = LlamaConfig.from_dict(TINY)
    cache = llama_cache.KVCache(config, 2, 3, torch.device("cpu"), torch.float32)
    cache.keys[1][:] = 5.0
    cache.length = 3
    cache.reserve(8)
    assert cache.capacity == llama_cache.GROWTH
    assert (cache.keys[1][:, :, :3] == 5.0).all()
    assert (cache.keys[1][:, :, 3:] == 0.0).all()
