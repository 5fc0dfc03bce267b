"""Every call of torch_npu in the overlay fits the schemas of all supported releases; and the checker sees faults.

This needs no torch_npu. It shows that calls would be accepted, never what they compute.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from call_checker import module_takers, op_parameters, problems, uses

SNAPSHOT = json.loads(Path(__file__).with_name("op_schemas.json").read_text())
OVERLAY = Path(__file__).resolve().parents[2] / "overlay"
FILES = sorted(OVERLAY.rglob("*.py"))
TAKERS = module_takers([path.read_text() for path in FILES])
NPU_OPS = OVERLAY / "minigpt4" / "models" / "llama_ops_npu.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(OVERLAY)))
def test_every_call_in_the_overlay_fits_every_release(path: Path) -> None:
    assert problems(path.read_text(), SNAPSHOT, TAKERS) == []


def test_the_calls_are_found_at_all() -> None:
    names = {use.name for use in uses(ast.parse(NPU_OPS.read_text()))}
    assert {"torch_npu.npu_rms_norm", "torch_npu.npu_fused_infer_attention_score", "torch_npu.npu_swiglu"} <= names


def test_thirteen_releases_from_the_oldest_branch_to_the_newest() -> None:
    assert len(SNAPSHOT["releases"]) == 13
    assert (SNAPSHOT["releases"][0], SNAPSHOT["releases"][-1]) == ("2.1.0.post17", "2.14.0")


RIGHT = [
    "torch_npu.npu_rms_norm(x, w, 1e-5)[0]",
    "torch_npu.npu_rms_norm(x, w, epsilon=1e-5)[0]",
    "torch_npu.npu_swiglu(x, -1)",
    "torch.ops.npu.npu_swiglu.default(x)",
    "torch_npu.scatter_update_(c, i, u, 2)",
    "torch_npu.npu_fused_infer_attention_score(q, k, v, num_heads=4, scale=0.1, input_layout='BNSD', atten_mask=None)",
    "torch.npu.synchronize(device)",
    "torch_npu.npu.set_device(0)",
    "print(torch_npu.__version__)",
    "graph = getattr(torch.npu, 'graph', None)",
    "hasattr(torch_npu, 'npu_top_k_top_p')",
    "torch.npu.graph(g, auto_dispatch_capture=True)",
    "torch.linear(x); torch.ops.aten.mm(x, y)",
]
WRONG = {
    "torch_npu.npu_rms_norm(x)": "missing gamma",
    "torch_npu.npu_rms_norm(x, w, eps=1e-5)": "unknown argument 'eps'",
    "torch_npu.npu_rms_norm(x, w, 1e-5, 2)": "4 positional arguments, 3 are accepted",
    "torch_npu.npu_rms_norm(x, w, gamma=w)": "'gamma' is given twice",
    "torch_npu.npu_rms_norm(self=x, gamma=w)": "pass it by position",
    "torch_npu.npu_rms_norm(x, w, 'small')": "'epsilon' must be float",
    "torch_npu.npu_rms_norm(x, None)": "'gamma' must be Tensor",
    "torch_npu.npu_rms_norm(*args)": "cannot be judged",
    "torch_npu.npu_rms_norm(x, **more)": "cannot be judged",
    "f = torch_npu.npu_rms_norm": "without being called",
    "torch.ops.npu.npu_swiglu.fast(x)": "no overload fast",
    "torch_npu.npu_fused_infer_attention_score(q, k, v, m)": "4 positional arguments, 3",
    "torch_npu.npu_fused_infer_attention_score(q, k, v, scale_value=0.1)": "unknown argument 'scale_value'",
    "torch_npu.npu_fused_infer_attention_score(q, k, v, num_heads=True)": "'num_heads' must be int",
    "torch_npu.npu_prompt_flash_attention(q, k, v, scale=0.1)": "unknown argument 'scale'",
    "torch_npu.npu_rotary_mul(x, c, s, 'half', None)": "5 positional arguments, 4",
    "torch_npu.npu_rotary_mul(x, c, s, rotate=None)": "unknown argument 'rotate' (2.1.0.post17",
    "torch_npu.npu_top_k_top_p(x, p, k)": "2.3.1.post6 has no such operation",
    "torch_npu.npu_fused_infer_attention_score_v2(q, k, v)": "2.3.1.post6 has no such operation",
    "torch_npu.npu_apply_rotary_pos_emb(q, k, c, s, 'BSND', 'half')": "6 positional arguments, 5",
    "torch_npu.npu_rms_norms(x, w)": "not among the operations",
    "torch_npu.config.set(1)": "not among the operations",
    "torch.npu.config.allow_internal_format = True": "without being called",
    "torch.npu.synchronise()": "not among the functions",
    "torch.npu.set_device(0, 1)": "2 positional arguments, 1",
    "torch.npu.graph(g, auto_dispatch=True)": "unknown argument 'auto_dispatch'",
    "m = torch.npu": "without being called",
    "getattr(torch_npu, name)(x)": "without being called",
}
IMPORTS = [
    ("from torch_npu import npu_rms_norm", "npu_rms_norm(x)"),
    ("from torch_npu import npu_rms_norm as norm", "norm(x)"),
    ("import torch_npu as t", "t.npu_rms_norm(x)"),
    ("from torch import npu", "npu.set_device()"),
    ("t = importlib.import_module('torch_npu')", "t.npu_rms_norm(x)"),
]


@pytest.mark.parametrize("call", RIGHT)
def test_right_calls_pass(call: str) -> None:
    assert problems(f"import torch, torch_npu\n{call}\n", SNAPSHOT) == []


@pytest.mark.parametrize("call", WRONG)
def test_wrong_and_unjudged_calls_are_problems(call: str) -> None:
    found = problems(f"import torch, torch_npu\n{call}\n", SNAPSHOT)
    assert len(found) == 1
    assert found[0].startswith("line 2: torch")
    assert WRONG[call] in found[0]


@pytest.mark.parametrize(("line", "call"), IMPORTS)
def test_other_ways_to_import_hide_nothing(line: str, call: str) -> None:
    assert "missing" in problems(f"{line}\n{call}\n", SNAPSHOT)[0]


def test_the_module_may_be_handed_to_functions_that_are_judged_too() -> None:
    source = "import torch_npu\ndef f(torch_npu, n): return torch_npu.npu_swiglu()\nf(torch_npu, 1); g(torch_npu)\n"
    found = problems(source, SNAPSHOT, module_takers([source]))
    assert ["missing" in problem or "without being called" in problem for problem in found] == [True, True]


def test_schemas_are_read_with_lists_and_aliases() -> None:
    schema = 'f.out(Tensor(a!) self, int[2] s=[1, 1], *, str l="a", Tensor? m=None) -> (Tensor(a!), Tensor)'
    found = [(part.name, part.kind, part.required, part.keyword_only) for part in op_parameters(schema)]
    assert found == [
        ("self", "Tensor(a!)", True, False),
        ("s", "int[2]", False, False),
        ("l", "str", False, True),
        ("m", "Tensor?", False, True),
    ]
