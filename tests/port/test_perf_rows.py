"""The arithmetic of performance rows: against the numbers of Vicuna-7B, and against timings that cannot be true."""

from __future__ import annotations

import pytest
import torch
from port.models.llama_config import LlamaConfig
from port.models.modeling_vicuna_ascend import LlamaForCausalLM
from port.perf import measure as perf_measure
from port.perf import memory as perf_memory
from port.perf import run as perf_run
from port.perf.rows import SEED_COLUMNS, Peaks, Row, Timing, Work

# An NPU with the peaks that are published for a 910B3: 1.6 TB/s and 313 TFLOP/s, taken as measured.
NPU = Peaks(copy=1.6e12, ceiling=1.6e12, matmul=313e12)


@pytest.fixture(scope="module")
def vicuna() -> Work:
    with torch.device("meta"):
        return perf_measure.work_of(LlamaForCausalLM(LlamaConfig()).half())


def row(work: Work, prompt: int, answer: int, first: float, following: float, peaks: Peaks = NPU) -> Row:
    """Times in milliseconds."""
    timing = Timing(first / 1e3, (first + following * (answer - 1)) / 1e3)
    return Row(1, prompt, answer, [timing] * 5, work, peaks, {"device": "npu:0"})


def test_bytes_and_operations_are_those_of_vicuna_7b(vicuna):
    assert vicuna.weights == 2 * 6_607_343_616
    assert vicuna.kv == 2**19
    tera = {tokens: vicuna.prefill_flop(1, tokens) / 1e12 for tokens in (256, 512, 1024, 3584)}
    assert tera == pytest.approx({256: 3.333, 512: 6.700, 1024: 13.538, 3584: 49.79}, rel=2e-4)
    giga = {context: vicuna.step_bytes(1, context) / 1e9 for context in (288, 576, 1152, 3840)}
    assert giga == pytest.approx({288: 13.366, 576: 13.517, 1152: 13.819, 3840: 15.228}, rel=1e-4)
    assert vicuna.step_bytes(8, 288) - vicuna.step_bytes(1, 288) == 7 * 288 * vicuna.kv


@pytest.mark.parametrize(
    ("prompt", "answer", "first", "following", "possible"),
    [
        (256, 64, 5.984, 13.353, False),  # the four rows of the original port's table
        (512, 128, 11.717, 13.577, False),
        (1024, 256, 35.141, 13.979, False),
        (3584, 512, 344.72, 15.927, True),
        (256, 64, 35.6, 15.5, True),
        (256, 64, 35.6, 7.0, False),  # 1.9 TB/s
    ],
)
def test_rows_above_the_peaks_are_found(vicuna, prompt, answer, first, following, possible):
    reasons = row(vicuna, prompt, answer, first, following).impossible()
    assert (reasons == []) == possible


def test_the_reasons_say_what_is_too_fast(vicuna):
    reasons = row(vicuna, 256, 64, 5.984, 7.0).impossible()
    assert [reason.split(" ")[0] for reason in reasons] == ["decoding", "the", "the"]
    assert "557 TFLOP/s; 313 were measured" in reasons[2]
    assert "reading the weights once takes 8.259" in reasons[1]
    assert row(vicuna, 256, 64, 0.0, 0.0).impossible() == ["the clock did not move: was the device waited for?"]


def test_one_repetition_that_is_too_fast_is_enough(vicuna):
    good = row(vicuna, 256, 64, 35.6, 15.5)
    fast = row(vicuna, 256, 64, 35.6, 7.0)
    mixed = Row(1, 256, 64, [*good.timings, fast.timings[0]], vicuna, NPU, {})
    assert mixed.impossible()
    assert mixed.following == pytest.approx(good.following)


def test_the_columns_begin_with_the_original_ports_and_show_medians():
    assert SEED_COLUMNS[3] == "reponse_time(ms)"
    work = Work(weights=1000, kv=1, matrices=400, head=100, attention=10)
    timings = [Timing(0.1, 0.1 + 0.3 * scale) for scale in (1, 2, 3, 4, 50)]
    cells = Row(2, 16, 4, timings, work, Peaks(1e6, 1e6, 1e9), {"device": "cpu"}).cells()
    assert tuple(cells)[:7] == SEED_COLUMNS
    assert list(cells.values())[:3] == [2, 16, 4]
    assert list(cells.values())[3:7] == pytest.approx([1000.0, 100.0, 300.0, 8.0])
    assert cells["device"] == "cpu"
    assert cells["repetitions"] == 5
    assert (cells["next_min(ms)"], cells["next_max(ms)"]) == pytest.approx((100.0, 5000.0))
    assert cells["decode(% of copy)"] == pytest.approx(100 * (1000 + 2 * 18) / 0.3 / 1e6)
    assert cells["prefill(% of matmul)"] == pytest.approx(100 * 2 * (2 * 400 * 16 + 2 * 256 * 10 + 200) / 0.1 / 1e9)
    assert cells["impossible"] == ""


def test_int8_weights_count_as_one_byte_and_tied_ones_as_read():
    config = LlamaConfig(97, 32, 56, 3, 4, 4, 8)
    plain = perf_measure.work_of(perf_run.random_model(config, torch.device("cpu"), torch.float32, int8=False))
    int8 = perf_measure.work_of(perf_run.random_model(config, torch.device("cpu"), torch.float32, int8=True))
    matrices = plain.matrices + plain.head
    norms = 7 * 32 * 4
    assert plain.weights == 4 * matrices + norms
    rows = 3 * (3 * 32 + 32 + 2 * 56 + 32)
    assert int8.weights == plain.matrices + 4 * plain.head + norms + 4 * rows  # the head stays as it is
    tied = LlamaConfig(97, 32, 56, 3, 4, 4, 8, tie_word_embeddings=True)
    model = perf_run.random_model(tied, torch.device("cpu"), torch.float32, int8=False)
    assert perf_measure.work_of(model).weights == plain.weights


@pytest.mark.parametrize(("int8", "giga"), [(False, 13.611), (True, 7.138)])
def test_the_memory_of_vicuna_7b_is_known_before_it_is_taken(monkeypatch, int8, giga):
    """float16, with 0.134 GB of cache for 256 tokens."""
    needed = []
    monkeypatch.setattr(perf_memory, "check_memory", lambda size, device: needed.append(size))
    perf_run.check_memory(LlamaConfig(), torch.device("cpu"), torch.float16, int8, batch=1, tokens=256)
    assert needed[0] / 1e9 == pytest.approx(giga, abs=0.02)


def test_of_several_measurements_the_best_is_the_limit():
    seen = [Peaks(3.0, 3.5, 7.0), Peaks(1.0, 1.5, 9.0), Peaks(2.0, 2.0, 8.0)]
    assert Peaks.of(seen) == Peaks(copy=2.0, ceiling=3.5, matmul=9.0)
