"""A tiny decoder on the CPU and on the simulated NPU: the same float16 numbers, each device with its own table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from llama_folders import TINY, random_state
from port.models import llama_cache, llama_ops, llama_ops_npu, modeling_vicuna_ascend, ops_check
from port.models.llama_config import LlamaConfig
from port.models.llama_generate import Run
from port.models.llama_int8 import quantise
from port.models.llama_linear import linears
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

# float16 logits of the two devices: sums in another order, a few roundings apart.
TOLERANCE = 0.06
PROMPT = torch.randint(3, TINY["vocab_size"], (3, 7), generator=torch.Generator().manual_seed(5))


def pair(int8: bool = False, **changes: object) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """The same float16 model on the CPU, with plain operations, and on npu:0, with fused ones."""
    config = {**TINY, "num_key_value_heads": 2, **changes}
    models = []
    for device in ("cpu", "npu:0"):
        model = LlamaForCausalLM(LlamaConfig.from_dict(config))
        model.load_state_dict(random_state(config))
        if int8:
            for _, linear in linears(model):
                integers, scale = quantise(linear.weight)
                linear.weight = torch.nn.Parameter(integers, requires_grad=False)
                linear.scale = torch.nn.Parameter(scale, requires_grad=False)
        model = model.half()
        model.graph = "off"
        models.append(model.to(device))
    return models[0], models[1]


@contextmanager
def table(npu: llama_ops.Ops = llama_ops_npu.NPU) -> Iterator[None]:
    """Plain operations on the CPU, and `npu` on the NPU, without the self-check that would replace what is wrong."""

    def ops_for(device: torch.device) -> llama_ops.Ops:
        return npu if device.type == "npu" else llama_ops.REFERENCE

    with pytest.MonkeyPatch.context() as patch:
        for module in (llama_ops, llama_cache, modeling_vicuna_ascend, ops_check):
            if hasattr(module, "ops_for"):
                patch.setattr(module, "ops_for", ops_for)
        yield


@torch.no_grad()
def logits(model: LlamaForCausalLM, steps: int = 4, padding: int = 0, chunk: int | None = None) -> torch.Tensor:
    """(1 + steps, B, V) float32 on the CPU: the prompt's last scores and those after each of `steps` given tokens.

    padding: hidden tokens at the left of the first sequence. chunk: tokens of the prompt per pass.
    """
    model.prefill_chunk = chunk
    ids = PROMPT.to(model.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :padding] = False
    run = Run(model, model.model.embed_tokens(ids), mask, ids.shape[1] + steps)
    scores = [run.prefill()]
    for step in range(steps):
        scores.append(run.step(ids[:, step]))
    run.end()
    return torch.stack(scores).float().cpu()


def difference(npu: llama_ops.Ops = llama_ops_npu.NPU, int8: bool = False, **call: int) -> float:
    """The largest difference of the two devices' logits."""
    on_cpu, on_npu = pair(int8)
    with table(npu):
        return float((logits(on_cpu, **call) - logits(on_npu, **call)).abs().max())
