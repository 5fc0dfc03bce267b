"""(B) Each operation's CPU reference against the real schema and the real Meta kernel of torch_npu, and against the
plain operations of the decoder. This shows arguments, shapes and meaning, never the numerics of a device."""

from __future__ import annotations

import pytest
import torch
from port.models import llama_ops, llama_ops_npu
from port.models.ops_check import NPU_DTYPES, check
from samples import attention, run, samples, split
from simulator.npu_kernels import CALLED, KERNELS
from simulator.rules import RULES

NPU = torch.device("npu:0")


def test_this_is_the_real_torch_npu_on_a_simulated_device() -> None:
    assert torch.npu.is_available()
    assert torch.npu.device_count() == 1
    assert torch.npu.get_device_name(0) == "Ascend910B3"
    assert torch.ones(2, device="npu:0").device == NPU
    with pytest.raises(RuntimeError):
        torch.npu.set_device(1)


@pytest.mark.parametrize("name", samples())
def test_the_reference_fits_the_real_schema_and_meta_kernel(name: str) -> None:
    op, arguments = samples()[name]
    overload = getattr(torch.ops.npu, op).default
    args, kwargs = split(overload, arguments)
    torch.library.opcheck(overload, args, kwargs, test_utils=("test_schema", "test_faketensor"))


def test_every_rule_has_a_sample() -> None:
    assert {op for op, _ in samples().values()} | {"npu_format_cast"} == set(RULES)
    assert set(RULES) <= set(KERNELS)


def test_the_ports_table_computes_what_plain_pytorch_computes() -> None:
    """The port's own self-check, with every fused operation behind the rules of a 910B."""
    before = dict(CALLED)
    findings = check(llama_ops_npu.NPU, NPU, NPU_DTYPES)
    assert [finding for finding in findings if finding.outcome not in ("ok", "plain PyTorch")] == []
    ran = {name for name, count in CALLED.items() if count > before.get(name, 0)}
    assert set(RULES) - {"npu_format_cast", "npu_fusion_attention_v3"} <= ran  # the second is the image encoder's


def test_the_decode_branch_reads_each_sequence_as_far_as_it_is_valid() -> None:
    call = attention(1)
    out = run("npu_fused_infer_attention_score", call)[0].cpu()
    for row, length in enumerate(call["actual_seq_lengths_kv"]):
        one = slice(row, row + 1)
        q, k, v = (call[name].cpu()[one].float() for name in ("query", "key", "value"))
        torch.testing.assert_close(
            out[one].float(), llama_ops.REFERENCE.attention(q, k, v, length, None), atol=2e-3, rtol=2e-3
        )


def test_the_image_encoders_attention_is_fused_and_computes_what_the_cpu_computes() -> None:
    call, before = samples()["encoder"][1], CALLED.get("npu_fusion_attention_v3", 0)
    q, k, v = (call[name] for name in ("query", "key", "value"))
    with torch.no_grad():
        found = torch.nn.functional.scaled_dot_product_attention(q, k, v).cpu()
    assert CALLED["npu_fusion_attention_v3"] == before + 1
    expected = torch.nn.functional.scaled_dot_product_attention(*(part.cpu().float() for part in (q, k, v)))
    torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=2e-3)


def test_gelu_is_the_tanh_form_as_documented_of_an_npu() -> None:
    x = torch.linspace(-4, 4, 33)
    for approximate in ("none", "tanh"):
        found = torch.nn.functional.gelu(x.to("npu:0"), approximate=approximate).cpu()
        assert torch.equal(found, torch.nn.functional.gelu(x, approximate="tanh"))


@pytest.mark.parametrize("layout", ["BSND", "BSH"])
def test_layouts_agree(layout: str) -> None:
    call = attention(5)
    expected = run("npu_fused_infer_attention_score", call)[0].cpu().transpose(1, 2)
    for name in ("query", "key", "value"):
        call[name] = call[name].transpose(1, 2).contiguous()
        call[name] = call[name].flatten(2) if layout == "BSH" else call[name]
    out = run("npu_fused_infer_attention_score", {**call, "input_layout": layout})[0].cpu()
    assert torch.equal(out.view_as(expected), expected)


def test_what_is_not_simulated_raises() -> None:
    x = torch.ones(4, 8, device=NPU)
    with pytest.raises(NotImplementedError, match="npu_fast_gelu is not simulated"):
        torch.ops.npu.npu_fast_gelu(x)
    with pytest.raises(RuntimeError, match="found one on cpu"):
        x + torch.ones(8)
    with pytest.raises(RuntimeError, match="found one on cpu"):
        torch.ops.npu.npu_rms_norm(x, torch.ones(8))
