"""Every line of llama_ops_npu.py matters: each change to a call is refused by the documentation or found by the check.

torch_npu is stood in for on the CPU (fake_torch_npu.py), as strict as its pages.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import port.models
import pytest
import torch
from npu_stand_in import CPU, bad
from port.models import ops_compare
from port.models.ops_cases import CASES

SOURCE = (Path(port.models.__path__[0]) / "llama_ops_npu.py").read_text()
BOTH = ("attention", "attention with padding")


def table_of(source: str):
    """The NPU's table as this source defines it."""
    module = types.ModuleType("port.models.changed")
    module.__package__ = "port.models"
    exec(compile(source, "changed llama_ops_npu.py", "exec"), module.__dict__)
    return module.NPU


CHANGES = {
    "rms_norm: default eps": ("npu_rms_norm(x, weight, eps)", "npu_rms_norm(x, weight)", ("rms_norm",)),
    "rms_norm: both results": ("npu_rms_norm(x, weight, eps)[0]", "npu_rms_norm(x, weight, eps)", ("rms_norm",)),
    "add_rms_norm: order of results": ("normed, _, total =", "total, _, normed =", ("add_rms_norm",)),
    "add_rms_norm: default eps": (
        "residual, weight, eps)\n    return normed",
        "residual, weight)\n    return normed",
        ("add_rms_norm",),
    ),
    "rope: angles swapped": (
        "npu_rotary_mul(q.contiguous(), cos, sin)",
        "npu_rotary_mul(q.contiguous(), sin, cos)",
        ("rope",),
    ),
    "rope: k left out": ("torch_npu.npu_rotary_mul(k.contiguous(), cos, sin)", "k", ("rope",)),
    "rope: other pairs": ("(k.contiguous(), cos, sin)", '(k.contiguous(), cos, sin, "interleave")', ("rope",)),
    "write_kv: one slot on": ("slots[:1], rows", "slots[:1] + 1, rows", ("write_kv",)),
    "write_kv: every slot as an index": ("slots[:1], rows", "slots, rows", ("write_kv",)),
    "write_kv: last slot": ("slots[:1], rows", "slots[-1:], rows", ("write_kv",)),
    "write_kv: another axis": ("rows, 2)", "rows, 3)", ("write_kv",)),
    "mask: True looks": (".logical_not().contiguous()", ".contiguous()", ("attention with padding",)),
    "mask: no padding": (
        " & padding[:, None, None, :]",
        " & torch.ones_like(padding)[:, None, None]",
        ("attention with padding",),
    ),
    "mask: valid part only": (
        "return visible.logical_not()",
        "return visible.logical_not()[..., :length]",
        ("attention with padding",),
    ),
    "mask: the token before hidden": (
        "every <= slots[:, None]",
        "every < slots[:, None] - 1",
        ("attention with padding",),
    ),
    "mask: nobody sees itself": (" | (every == slots[:, None])", "", ("attention with padding",)),
    "mask: the other triangle": (".triu(1)", ".tril()", ("attention",)),
    "mask: the diagonal hidden": (".triu(1)", ".triu(0)", ("attention",)),
    "mask: another size": ("torch.ones(2048, 2048,", "torch.ones(1024, 1024,", ("attention",)),
    "attention: no scale": ("        scale=1.0 / math.sqrt(head_dim),\n", "", BOTH),
    "attention: another scale": ("1.0 / math.sqrt(head_dim)", "1.0 / head_dim", BOTH),
    "attention: default layout": ('        input_layout="BNSD",\n', "", BOTH),
    "attention: another layout": ('"BNSD"', '"BSND"', BOTH),
    "attention: query as it comes": ("        q.contiguous(),\n", "        q,\n", BOTH),
    "attention: keys as they come": ("        k.contiguous(),\n", "        k,\n", ("attention",)),
    "attention: heads of the keys": ("num_heads=heads", "num_heads=k.shape[1]", BOTH),
    "attention: as many keys' heads": ("        num_key_value_heads=k.shape[1],\n", "", BOTH),
    "attention: every slot": ("[length] * len(q)", "None", ("attention",)),
    "attention: a slot less": ("[length] * len(q)", "[length - 1] * len(q)", BOTH),
    "attention: never causal": ("sparse_mode=3 if", "sparse_mode=0 if", ("attention",)),
    "attention: causal from the first key": ("sparse_mode=3 if", "sparse_mode=2 if", ("attention",)),
    "attention: always causal": (" else 0,\n", " else 3,\n", ("attention with padding",)),
    "attention: less precise": ('layout="BNSD",\n', 'layout="BNSD",\n        inner_precise=1,\n', BOTH),
    "attention: no mask": ("        atten_mask=mask,\n", "", BOTH),
    "swiglu: another dimension": ("gate_up.contiguous(), -1)", "gate_up.contiguous(), 1)", ("swiglu",)),
    "int8: weight as it lies": ("weight.t()", "weight", ("int8_linear",)),
    "int8: scale in float32": ("scale.to(x.dtype)", "scale", ("int8_linear",)),
    "int8: three dimensions": ("x.reshape(-1, x.shape[-1])", "x", ("int8_linear",)),
    "int8: no bias": (", bias=bias)", ")", ("int8_linear",)),
    "int8: bias in x's dtype": ("torch.float32 if x.dtype is torch.bfloat16 else x.dtype", "x.dtype", ("int8_linear",)),
    "int8: rows stay rows": ("y.view(*x.shape[:-1], -1)", "y", ("int8_linear",)),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_changed_call_is_found(name, torch_npu, monkeypatch):
    old, new, caught = CHANGES[name]
    assert SOURCE.count(old) == 1, f"not the one place: {old}"
    table = table_of(SOURCE.replace(old, new))
    monkeypatch.setattr(ops_compare, "CASES", {op: CASES[op] for op in caught})
    assert bad(ops_compare.check(table, CPU, (torch.float16, torch.bfloat16))) == set(caught)


def test_the_source_itself_is_good(torch_npu, monkeypatch):
    monkeypatch.setattr(ops_compare, "CASES", {op: case for op, case in CASES.items() if op != "attention"})
    assert not bad(ops_compare.check(table_of(SOURCE), CPU, (torch.float16, torch.bfloat16)))


def test_importing_the_decoder_imports_no_torch_npu():
    assert "torch_npu" not in sys.modules
