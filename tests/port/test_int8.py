"""int8 weights: the quantiser, and the product with its weights on each device."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from port.models import llama_ops, llama_ops_cpu, llama_ops_cuda
from port.models.llama_int8 import LIMIT, NotFinite, dequantise, quantise, quantise_into

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def matrix(rows: int, columns: int, seed: int = 0, tails: bool = False) -> torch.Tensor:
    """Normal numbers, rows of very different size; with heavy tails if asked."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    if tails:
        weight = weight**3
    return weight * torch.logspace(-3, 1, rows)[:, None]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


# The quantiser


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 300),
    seed=st.integers(0, 2**31),
    tails=st.booleans(),
    dtype=st.sampled_from(FLOATS),
    magnitude=st.floats(-4, 3),
)
def test_no_weight_is_off_by_more_than_half_a_step(rows, columns, seed, tails, dtype, magnitude):
    weight = (matrix(rows, columns, seed, tails) * 10**magnitude).to(dtype).clamp(-6e4, 6e4)
    integers, scale = quantise(weight)
    assert integers.dtype == torch.int8
    assert scale.dtype == torch.float32
    assert scale.shape == (rows,)
    assert integers.min() >= -LIMIT
    wide = weight.double()
    assert ((integers * scale[:, None].double() - wide).abs() <= scale[:, None].double() * 0.500001).all()
    largest = wide.abs().amax(1)
    assert (scale >= largest / LIMIT * (1 - 1e-6)).all()
    assert (scale[largest > 0] <= (largest / LIMIT * (1 + 2**-7))[largest > 0] + 1e-37).all()


@settings(max_examples=40, deadline=None)
@given(st.floats(2.0**-16, 6e4, width=32))
def test_scales_are_the_same_number_in_every_dtype(largest):
    """What kernels ask for in the dtype of x then stands for the same weights on every device."""
    _, scale = quantise(torch.tensor([[largest * LIMIT / 130]]))
    assert scale.to(torch.bfloat16).float() == scale
    if scale >= 1e-5:
        assert scale.to(torch.float16).float() == scale


def test_the_sign_and_order_of_weights_stay():
    weight = matrix(7, 50)
    integers, _ = quantise(weight)
    other, _ = quantise(-weight)
    assert torch.equal(integers, -other)
    order = weight[3].argsort()
    assert (integers[3][order].diff() >= 0).all()


def test_rows_do_not_depend_on_their_neighbours_or_on_blocks():
    weight = matrix(3000, 333)  # four blocks
    integers, scale = quantise(weight)
    for row in (0, 786, 787, 1600, 2999):
        alone = quantise(weight[row : row + 1])
        assert torch.equal(alone[0][0], integers[row])
        assert alone[1][0] == scale[row]


def test_rows_of_zeros_and_hardly_anything_stay_small():
    weight = torch.zeros(4, 8)
    weight[1, 3] = 1e-42  # subnormal
    weight[2, 3] = 1e-30
    weight[3, 3] = 3e38
    integers, scale = quantise(weight)
    assert not integers[0].any()
    assert scale.isfinite().all()
    assert (scale > 0).all()
    assert scale[0] == 1
    assert dequantise(integers, scale, torch.float32)[1:3].abs().max() <= 1.01e-30
    assert torch.isclose(dequantise(integers, scale, torch.float32)[3, 3], torch.tensor(3e38), rtol=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_no_number_is_refused(bad, dtype):
    weight = matrix(5, 8).to(dtype)
    weight[3, 2] = bad
    with pytest.raises(NotFinite, match="row 3 "):
        quantise(weight)


def test_it_fills_views_of_a_fused_matrix():
    weight = matrix(6, 16)
    integers, scale = torch.zeros(10, 16, dtype=torch.int8), torch.zeros(10)
    quantise_into(weight, integers[2:8], scale[2:8])
    assert torch.equal(integers[2:8], quantise(weight)[0])
    assert not integers[:2].any()
    assert not integers[8:].any()


# The products

TABLES = {
    "reference": llama_ops.int8_linear,
    "cpu": llama_ops_cpu.int8_linear,
    "cuda without triton": llama_ops_cuda.int8_linear,
}
# of the sum of magnitudes: each dtype's rounding of the terms, of the sum, of scale and bias
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


@pytest.fixture(autouse=True)
def no_triton(monkeypatch):
    """Its kernels run on a GPU or in its interpreter only, which has a test of its own."""
    monkeypatch.setitem(sys.modules, "port.models.llama_int8_triton", None)
    llama_ops_cuda.triton_kernels.cache_clear()


def check_product(found, x, integers, scale, bias=None):
    weight, bias = integers * scale[:, None].double(), None if bias is None else bias.double()
    expected = F.linear(x.double(), weight, bias)
    assert found.dtype == x.dtype
    assert found.shape == expected.shape
    terms = F.linear(x.double().abs(), weight.abs(), None if bias is None else bias.abs())
    assert ((found - expected).abs() <= TOLERANCE[x.dtype] * terms).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("shape", [(96, 64), (96, 33), (97, 33), (100, 48), (4, 16), (4, 40), (300, 4000)])
def test_products_equal_those_with_the_weights_written_out(name, dtype, shape):
    """Odd sizes must never reach torch's own kernel: it reads past the end of a row and ends the process."""
    integers, scale = quantise(matrix(*shape))
    bias = torch.linspace(-1, 1, shape[0]).to(dtype)
    for batch in ((), (1,), (2, 3), (9,), (2, 40), (0,)):
        x = torch.randn(*batch, shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)
        for b in (None, bias):
            found = TABLES[name](x, integers, scale, b)
            check_product(found, x, integers, scale, b)


@pytest.mark.parametrize("name", TABLES)
def test_inputs_that_are_slices_at_odd_addresses(name):
    """torch's kernel loads from aligned addresses without asking."""
    integers, scale = quantise(matrix(8, 32))
    memory = matrix(4, 40).flatten().to(torch.bfloat16)
    slices = [memory[start : start + 64].view(2, 32) for start in (0, 1, 8, 16)]
    for x in (*slices, memory.view(4, 40)[:, 8:], memory.view(4, 40)[:, 3:35]):
        check_product(TABLES[name](x, integers, scale), x, integers, scale)


@pytest.mark.parametrize("rows", [1, 5, 20])
@pytest.mark.parametrize("name", TABLES)
def test_activations_as_large_as_vicunas_do_not_overflow_float16(name, rows):
    """Massive activations reach thousands (Sun et al. 2024, arXiv 2402.17762); times 127 that is over 65504."""
    integers, scale = quantise(torch.full((64, 11008), 0.002).half())
    x = torch.full((rows, 11008), 0.1).half()
    x[:, 7] = 3000.0
    y = TABLES[name](x, integers, scale)
    assert y.isfinite().all()
    assert relative(y, (x.double() @ dequantise(integers, scale, torch.float64).T)) < 2e-3


def test_a_torch_without_the_kernel_has_the_blocks(monkeypatch):
    integers, scale = quantise(matrix(96, 64))
    x = matrix(2, 64).to(torch.bfloat16)
    expected = llama_ops_cpu.int8_linear(x, integers, scale)
    monkeypatch.delattr(torch, "_weight_int8pack_mm", raising=False)
    torch.testing.assert_close(llama_ops_cpu.int8_linear(x, integers, scale), expected, rtol=2e-2, atol=2e-2)


def test_each_device_has_its_product():
    assert llama_ops.ops_for(torch.device("cpu")).int8_linear is llama_ops_cpu.int8_linear
    assert llama_ops.ops_for(torch.device("cuda", 0)).int8_linear is llama_ops_cuda.int8_linear


def wrong_axis(x, weight, scale, bias=None):
    """A mistake: scales along the inputs."""
    return F.linear(x, (weight * scale[None, : weight.shape[1]]).to(x.dtype), bias)


def wrong_order(x, weight, scale, bias=None):
    """A mistake: the scales of the fused parts in another order."""
    return llama_ops.int8_linear(x, weight, scale.flip(0), bias)


def biased_first(x, weight, scale, bias=None):
    """A mistake: the bias is scaled too."""
    y = F.linear(x, weight.to(x.dtype)) + (0 if bias is None else bias)
    return y * scale.to(x.dtype)


@pytest.mark.parametrize("mistake", [wrong_axis, wrong_order, biased_first])
def test_mistakes_are_far_outside_the_tolerance(mistake):
    integers, scale = quantise(matrix(64, 64))
    x, bias = matrix(3, 64), torch.ones(64)
    expected = llama_ops.int8_linear(x, integers, scale, bias)
    assert relative(mistake(x, integers, scale, bias), expected) > 100 * TOLERANCE[torch.float32]


TRITON = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import port_package
from port.models import llama_int8_triton, llama_ops_cuda
from port.models.llama_int8 import quantise, dequantise
torch.manual_seed(0)
assert llama_ops_cuda.triton_kernels() is llama_int8_triton
for shape in ((96, 64), (97, 100), (5, 1300), (130, 2048)):
    integers, scale = quantise(torch.randn(shape))
    for dtype, rows in ((torch.float16, (1, 2, 7, 16, 33, 64, 65)), (torch.bfloat16, (1,))):
        for count in rows:
            x = torch.randn(count, shape[1]).to(dtype)
            found = llama_ops_cuda.int8_linear(x[None], integers, scale, torch.ones(shape[0], dtype=dtype))
            expected = x.float() @ dequantise(integers, scale, torch.float32).T + 1
            assert found.shape == (1, *expected.shape) and found.dtype == dtype
            assert ((found[0].float() - expected).norm() / expected.norm()) < 4e-3, (shape, dtype, count)
large = torch.full((1, 1300), 900.0).half()  # times 127 the sum is far over 65504
assert llama_int8_triton.linear(large, integers.new_full((5, 1300), 127), torch.full((5,), 1e-4)).isfinite().all()
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_cuda_kernels_in_tritons_interpreter():
    """On the CPU, element by element; the interpreter multiplies no bfloat16 matrices."""
    done = subprocess.run(
        [sys.executable, "-c", TRITON, str(Path(__file__).parent)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr


def test_without_triton_it_says_so_once(caplog):
    integers, scale = quantise(matrix(8, 16))
    for _ in range(3):
        llama_ops_cuda.int8_linear(torch.ones(1, 16).half(), integers, scale)
    assert caplog.text.count("no Triton") == 1
