"""A decode step neither waits for the device nor allocates what grows with the cache.

A wait costs little on the CPU and a launch queue's length on an NPU or a GPU; here every operation of a step is
looked at on its way to the kernels.
"""

from __future__ import annotations

import pytest
import torch
from llama_folders import write_folder
from port.models.llama_generate import Run, Stop
from port.models.llama_sampling import ScoreShaper, Settings
from port.models.modeling_vicuna_ascend import LlamaForCausalLM
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Results that depend on values, so that the host must see them; and tensors made from host values, copied over.
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::item", "aten::unique"}
COPIES = {"aten::lift_fresh", "aten::masked_select", "aten::pin_memory"}


class Watch(TorchDispatchMode):
    """Collects the operations that would wait, and the largest number of elements that one newly made."""

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []
        self.largest = 0
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        self.count += 1
        tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        bool_index = name == "aten::index" and any(t.dtype is torch.bool for t in tensors(args[1]))
        if name in WAITS | COPIES or (tags and name != "aten::index") or bool_index:
            self.waits.append(name)
        known = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for made in tensors(result):
            if made.untyped_storage().data_ptr() not in known:
                self.largest = max(self.largest, made.untyped_storage().nbytes() // made.element_size())
        return result


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


CAPACITY = 600
SHAPES = {"heads of their own": {}, "shared heads": {"num_key_value_heads": 2}}


@pytest.fixture(params=SHAPES)
def ours(tmp_path, request):
    folder = write_folder(tmp_path, num_hidden_layers=2, max_position_embeddings=1024, **SHAPES[request.param])
    return LlamaForCausalLM.from_pretrained(folder)


def started(model, batch=2, padded=False):
    ids = torch.randint(3, 97, (batch, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(batch, 7, dtype=torch.bool)
    mask[0, :3] = not padded
    with torch.no_grad():
        run = Run(model, model.model.embed_tokens(ids), mask, CAPACITY)
        run.prefill()
    return run, ids


@pytest.mark.parametrize("padded", [False, True])
def test_a_step_waits_for_nothing(ours, padded):
    run, _ = started(ours, padded=padded)
    tokens = torch.tensor([5, 6])
    with torch.no_grad(), Watch() as watch:
        for _ in range(3):
            run.step(tokens)
    assert watch.count > 50
    assert watch.waits == []


@pytest.mark.parametrize("padded", [False, True])
def test_a_step_makes_nothing_of_the_size_of_the_cache(ours, padded):
    """Also where the cache is nearly full: what a step makes does not grow with keys and values."""
    run, _ = started(ours, padded=padded)
    run.cache.length = CAPACITY - 3
    elements = run.cache.keys[0].numel()
    with torch.no_grad(), Watch() as watch:
        run.step(torch.tensor([5, 6]))
    assert watch.largest < elements // 4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "top_p": 0.9, "temperature": 0.7, "repetition_penalty": 1.1},
        {"min_new_tokens": 500, "suppress_tokens": [3, 96]},
    ],
    ids=str,
)
def test_choosing_a_token_waits_for_nothing(ours, options):
    """Penalties, filters and end ids: what they need of the host is copied before, or in the first step."""
    _, ids = started(ours)
    settings = Settings.for_call(ours.config, {}, {"eos_token_id": [2, 5], **options})
    shape = ScoreShaper(settings, settings.min_new_tokens or 0)
    stop = Stop(100, settings.eos, [], ours.device)
    scores = torch.randn(2, 97)
    shape(ids, scores)
    with torch.no_grad(), Watch() as watch:
        shaped = shape(ids, scores)
        tokens = torch.multinomial(shaped.softmax(-1), 1) if settings.do_sample else shaped.argmax(-1)
        stop(torch.cat((ids, tokens.view(2, 1)), 1))
    assert watch.waits == []


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: torch.tensor([1, 2]),
        lambda x: x.nonzero(),
    ],
)
def test_the_watch_sees_what_waits(work):
    with Watch() as watch:
        work(torch.randn(4))
    assert watch.waits


def test_the_watch_sees_a_copy_of_the_cache(ours, monkeypatch):
    run, _ = started(ours)
    real = run.model.model.run
    monkeypatch.setattr(run.model.model, "run", lambda x, step: run.cache.keys[0].clone() is None or real(x, step))
    with torch.no_grad(), Watch() as watch:
        run.step(torch.tensor([5, 6]))
    assert watch.largest >= run.cache.keys[0].numel()
