"""Held shows a model's state_dict and never has more of it unpacked than one module."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from verification.held import Held
from verification.overlay_modules import import_overlay

parts = import_overlay(Path(__file__).resolve().parents[2] / "overlay")


def packed_decoder(tiny: Path) -> Any:
    decoder = parts("models.modeling_vicuna_ascend").LlamaForCausalLM
    return decoder.from_pretrained(tiny / "weights", torch_dtype=torch.bfloat16)


def packed_encoder(tiny: Path) -> Any:
    files = (tiny / "othfiles" / name for name in ("eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"))
    return parts("models.eva_vit_model").load_eva_vit(*files, device=torch.device("cpu"))


@pytest.mark.parametrize("build", [packed_decoder, packed_encoder])
def test_the_same_tensors_one_module_at_a_time(tiny: Path, monkeypatch: pytest.MonkeyPatch, build: Any) -> None:
    model = build(tiny)
    packing, linear = parts("models.llama_packing"), parts("models.llama_linear")
    if not packing._can_pack(next(linear.linears(model))[1].weight.dtype):
        pytest.skip("this processor packs nothing")
    expected = model.state_dict()
    copies: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def unpack(weight: torch.Tensor) -> torch.Tensor:
        nonlocal most
        plain = packing.unpack(weight)
        if plain is weight:
            return plain
        copies.append(weakref.ref(plain))
        most = max(most, sum(copy() is not None for copy in copies))
        return plain

    monkeypatch.setattr(linear, "unpack", unpack)
    held = Held(model)
    assert held.keys() == expected.keys()
    for name in held:
        assert torch.equal(held[name], expected[name])
    assert len(copies) >= 2 * len(list(linear.linears(model)))  # to learn the names, and to read
    assert most == 1


def test_a_part_under_other_names(tiny: Path) -> None:
    model = torch.nn.ModuleDict({"one": torch.nn.Linear(2, 2), "oneself": torch.nn.Linear(2, 2)})
    assert list(Held(model, "one.", strip="one.")) == ["weight", "bias"]
    assert list(Held(model, "oneself.b", "one.w")) == ["one.weight", "oneself.bias"]
    assert "one.weight" not in Held(model, "two.")
