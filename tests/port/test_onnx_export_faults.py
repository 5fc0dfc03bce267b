"""Faults planted into the graph: the export's own comparison finds each, in fp32 and mixed, and keeps no file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ONE = "blocks.1."  # the scope of the only block that is wrong; the hardest case


def _swapped_queries_and_keys(builder: Any) -> dict[str, Callable]:
    def split(b, x, width, real=builder.split):
        q, k, v = real(b, x, width)
        return [k, q, v] if b.scope == ONE else [q, k, v]

    return {"split": split}


def _missing_bias(layer: str) -> Callable:
    def fault(builder: Any) -> dict[str, Callable]:
        def linear(b, name, x, bias=None, real=builder.linear):
            if (b.scope, name) == (ONE, layer):
                bias = torch.zeros(len(b.state[f"{ONE}{layer}.weight"]))
            return real(b, name, x, bias)

        return {"linear": linear}

    return fault


def _eps(layer: str, wrong: float) -> Callable:
    def fault(builder: Any) -> dict[str, Callable]:
        def layer_norm(b, name, x, eps, output="", real=builder.layer_norm):
            here = name == layer and b.scope in (ONE, "")
            return real(b, name, x, wrong if here else eps, output)

        return {"layer_norm": layer_norm}

    return fault


def _wrong_scale(builder: Any) -> dict[str, Callable]:
    def number(b, value, real=builder.number):
        return real(b, 64**-0.5 if b.scope == ONE and value == 88**-0.5 else value)

    return {"number": number}


def _transposed_weight(builder: Any) -> dict[str, Callable]:
    def linear(b, name, x, bias=None, real=builder.linear):
        right = b.state
        if (b.scope, name) == (ONE, "attn.proj"):
            b.state = {**right, f"{ONE}attn.proj.weight": right[f"{ONE}attn.proj.weight"].t()}
        try:
            return real(b, name, x, bias)
        finally:
            b.state = right

    return {"linear": linear}


def _tanh_gelu(builder: Any) -> dict[str, Callable]:
    """x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2, with u = x / sqrt(2) where the graph has erf(u)."""

    def op(b, kind, *inputs, real=builder.op, **rest):
        if kind != "Erf" or b.scope != ONE:
            return real(b, kind, *inputs, **rest)
        (u,) = inputs
        cube = real(b, "Mul", real(b, "Mul", u, u), u)
        inner = real(b, "Add", u, real(b, "Mul", cube, b.number(2 * 0.044715)))
        inner = real(b, "Mul", inner, b.number(2 / math.sqrt(math.pi)))
        return real(b, "Sub", b.number(1.0), real(b, "Div", b.number(2.0), _exp_and_one(b, inner, real)))

    def _exp_and_one(b, x, real):
        """exp(2 x) + 1: tanh by operations of which ATC's table knows all, so that no other check stops the export."""
        return real(b, "Add", real(b, "Pow", b.number(math.e), real(b, "Mul", x, b.number(2.0))), b.number(1.0))

    return {"op": op}


def _positions(change: Callable) -> Callable:
    return lambda state: change(state["pos_embed"].float(), state["cls_token"].float()).numpy()


NODES = {
    "queries and keys swapped": _swapped_queries_and_keys,
    "no bias of qkv": _missing_bias("attn.qkv"),
    "no bias of fc1": _missing_bias("mlp.fc1"),
    "no bias of fc2": _missing_bias("mlp.fc2"),
    "eps of a block": _eps("norm1", 1e-5),
    "eps of a block, too small": _eps("norm2", 1e-7),
    "eps of ln_vision": _eps("ln_vision", 1e-6),
    "scale": _wrong_scale,
    "weight transposed": _transposed_weight,
    "GELU by tanh": _tanh_gelu,
}
POSITIONS = {
    "class token dropped": _positions(lambda table, token: table),
    "positions shifted by one": _positions(lambda table, token: (table + _first(table, token)).roll(1, 1)),
    "patches' positions shifted by one": _positions(
        lambda table, token: torch.cat((table[:, :1] + token, table[:, 1:].roll(1, 1)), 1)
    ),
}


def _first(table: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return torch.cat((token, torch.zeros_like(table[:, 1:])), 1)


@pytest.mark.parametrize("dtype", ["fp32", "mixed"])
@pytest.mark.parametrize("fault", [*NODES, *POSITIONS])
def test_a_fault_in_the_graph_is_found(fault: str, dtype: str, run, part, monkeypatch, tmp_path: Path, capsys) -> None:
    graph = part("vit_graph")
    if fault in NODES:
        for name, wrong in NODES[fault](graph._Builder).items():
            monkeypatch.setattr(graph._Builder, name, wrong)
    else:
        monkeypatch.setattr(graph, "_positions", POSITIONS[fault])
    assert run("--dtype", dtype) == 1
    assert "the export does not compute what PyTorch computes" in capsys.readouterr().err
    assert list((tmp_path / "onnx").iterdir()) == []


def test_weights_that_float16_rounds_are_no_fault(run, vit_files, tmp_path: Path) -> None:
    """Of a float32 file: the mixed graph is compared with PyTorch on the same rounded weights."""
    state = torch.load(vit_files[0], weights_only=True)
    noise = torch.Generator().manual_seed(5)
    finer = {key: it.float() * (1 + 1e-3 * torch.rand(it.shape, generator=noise)) for key, it in state.items()}
    torch.save(finer, tmp_path / "fp32.pth")
    assert run("--dtype", "mixed", "--vit-weights", str(tmp_path / "fp32.pth")) == 0
