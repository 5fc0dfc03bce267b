"""(B) Vicuna-7B at its full size on fake npu:0 tensors: shapes without memory, through torch_npu's real Meta kernels.

The rules of a 910B are checked for every call, as far as they concern shapes. It shows that the sizes of the real
model are accepted, in float16 and in int8, never what they compute or how long that takes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import table
from port.models import llama_ops_npu
from port.models.llama_cache import Step
from port.models.llama_config import LlamaConfig
from port.models.llama_linear import linears
from port.models.modeling_vicuna_ascend import LlamaForCausalLM
from simulator.attention_rules import Forbidden
from simulator.rules import RULES, check
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

VICUNA = LlamaConfig.from_dict(
    {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
    }
)


class Watch(TorchDispatchMode):
    """Checks the rules of every `npu::` call and counts the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func._schema.name
        if name.startswith("npu::"):
            check(func._schema, args, kwargs or {}, values=False)
            self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **kwargs or {})


@pytest.fixture(params=[False, True], ids=["float16", "int8"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """(the model on npu:0, a Watch); everything inside is fake."""
    monkeypatch.setattr(llama_ops_npu, "_CAUSAL", {})  # a fake mask must not be kept
    with FakeTensorMode(), torch.device("npu:0"), torch.no_grad(), table():
        torch.set_default_dtype(torch.float16)
        model = LlamaForCausalLM(VICUNA)
        torch.set_default_dtype(torch.float32)
        if request.param:
            for _, linear in linears(model):
                size = linear.weight.shape
                linear.weight = torch.nn.Parameter(torch.empty(size, dtype=torch.int8), requires_grad=False)
                linear.scale = torch.nn.Parameter(torch.empty(size[0]), requires_grad=False)
        with Watch() as watch:
            yield model, watch


def read(model: LlamaForCausalLM, cache: Any, tokens: int, past: int, padding: torch.Tensor | None = None) -> Any:
    batch = cache.batch
    x = torch.empty(batch, tokens, 4096, dtype=torch.float16)
    positions = torch.zeros(1, tokens, dtype=torch.long)
    slots = torch.arange(past, past + tokens)
    step = Step(model.config, x, positions, padding, cache, slots, past + tokens)
    return model.logits(model.model.run(x, step)[:, -1])


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("padded", [False, True])
def test_the_whole_model_reads_a_prompt_and_writes_tokens(fake, batch: int, padded: bool) -> None:
    model, watch = fake
    cache = model.new_cache(batch, 4096)
    padding = torch.ones(batch, 4096, dtype=torch.bool) if padded else None
    for tokens, past in ((2047, 0), (512, 2047), (1, 2559), (1, 4095)):
        logits = read(model, cache, tokens, past, padding)
        assert (tuple(logits.shape), logits.dtype, logits.device.type) == ((batch, 32000), torch.float32, "npu")
    layers, passes = VICUNA.num_hidden_layers, 4
    assert watch.calls["npu::npu_fused_infer_attention_score"] == passes * layers
    assert watch.calls["npu::scatter_update_"] == watch.calls["npu::npu_rotary_mul"] == 2 * passes * layers
    assert watch.calls.get("npu::npu_weight_quant_batchmatmul", 0) == (passes * (4 * layers + 1) if model.int8 else 0)
    assert {name.removeprefix("npu::") for name in watch.calls} <= {*RULES, "_npu_dtype_cast"}


def test_a_mask_as_wide_as_the_valid_keys_alone_is_refused(fake) -> None:
    model, _ = fake
    cache = model.new_cache(1, 4096)
    q = torch.empty(1, 32, 1, 128, dtype=torch.float16)
    mask = torch.zeros(1, 1, 1, 300, dtype=torch.bool)
    options = {"atten_mask": mask, "num_heads": 32, "scale": 128**-0.5, "input_layout": "BNSD"}
    with pytest.raises(Forbidden, match="the whole key tensor wide"):
        torch.ops.npu.npu_fused_infer_attention_score(q, cache.keys[0], cache.values[0], **options)
