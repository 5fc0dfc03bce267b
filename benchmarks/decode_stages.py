"""The stages of benchmarks/decode.py; each adds its rows to the report."""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import port_package  # noqa: F401  the overlay's model files become `port.models`
import torch
from port.models.llama_config import LlamaConfig
from port.perf import measure as perf_measure
from port.perf import memory as perf_memory
from port.perf import run as perf_run
from port.perf.rows import Peaks, Row, Timing, Work

from benchmarks import decode_sides as sides

LONG, SHORT = 3840, 288  # tokens of context between which a step may not grow much
STATIC = "Hugging Face static and compiled"
AT_LEAST, AT_MOST = ">=", "<="
TOO_GOOD = "the figure is impossible: the machine's speed changed in between"


class Report:
    """The rows of the result, each with its goal and whether it is reached."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(
        self,
        what: str,
        unit: str,
        values: list[float],
        goal: tuple[str, float] | None = None,
        bound: Any = None,
        best: float | None = None,
    ) -> None:
        """bound: what holds the figure back, for a goal that is not reached. best: what no device can better."""
        row: dict[str, Any] = {"what": what, "unit": unit, "goal": "", "values": values}
        if goal is not None:
            sign, limit = goal
            median = statistics.median(values)
            met = median >= limit if sign == AT_LEAST else median <= limit
            row["goal"] = f"{sign} {limit:g}: {'met' if met else 'not met'}"
            if best is not None and (median > best if sign == AT_LEAST else median < best):
                row["goal"] = f"{sign} {limit:g}: not shown, {TOO_GOOD}"
            if not met and bound is not None:
                row["bound"] = bound
        self.rows.append(row)
        print(f"{what}: {statistics.median(values):.4g} {unit} {row['goal']}", flush=True)

    def elsewhere(self, what: str, goal: str) -> None:
        """A goal that this device cannot say anything about."""
        self.rows.append({"what": what, "unit": "", "goal": f"{goal}: not measurable here", "values": []})


def memory(config: LlamaConfig, device: torch.device, args: Namespace, report: Report) -> Any:
    """Make the bfloat16 model and let it answer once, first of all: the peaks belong to it alone."""
    warm = torch.ones(64, 64, device=device, dtype=torch.bfloat16)
    (warm @ warm).sum().item()
    perf_memory.reset_peak_memory(device)
    before = perf_memory.peak_memory(device) or 0
    model = perf_run.random_model(config, device, torch.bfloat16, int8=False)
    making = (perf_memory.peak_memory(device) or 0) - before
    perf_memory.reset_peak_memory(device)
    sides.ours(model)(args.prompt, args.new)
    answering = (perf_memory.peak_memory(device) or 0) - before
    work, table = perf_measure.work_of(model), model.model.embed_tokens.weight
    size = work.weights + table.nbytes + work.kv * (args.prompt + args.new)
    bound = (
        "a CPU's weights are put in another order one by one, the largest beside its copy: 0.26 GB whatever the layers"
    )
    report.add("bf16: peak memory while made, against weights and cache", "x", [making / size], (AT_MOST, 1.1), bound)
    bound = "what a prompt makes of one layer, at most llama_generate.PREFILL_BYTES"
    report.add(
        "bf16: peak memory of an answer, against weights and cache", "x", [answering / size], (AT_MOST, 1.1), bound
    )
    return model


def beside_hugging_face(model: Any, config: LlamaConfig, args: Namespace, report: Report, found: Any) -> None:
    """bfloat16 and int8 of ours, Hugging Face's generate, and the products alone."""
    other = sides.hugging_face_model(model)
    int8 = perf_run.random_model(config, model.device, torch.bfloat16, int8=True)
    contestants = {
        "ours": sides.ours(model),
        "Hugging Face": sides.hugging_face(other),
        "ours int8": sides.ours(int8),
    }
    twin = sides.hugging_face_model(model, like=other)
    static, why = sides.compiled(twin, args.prompt, args.new, args.compile_seconds)
    print(f"{STATIC}: {why}", flush=True)
    if static is None:
        report.rows.append({"what": f"{STATIC}, bf16: {why}", "unit": "", "goal": "", "values": []})
    else:
        contestants[STATIC] = static
    taken, peaks, alone = interleave(contestants, model, args)
    work = {"ours int8": perf_measure.work_of(int8)}
    cuda = model.device.type != "cpu"
    for name, timings in taken.items():
        check(timings, work.get(name, perf_measure.work_of(model)), peaks, args)
        kind = name if name == "ours int8" else f"{name} bf16"
        speed(kind, timings, args, report, goal=(AT_LEAST, 180) if cuda and name == "ours" else None)
    against_the_device(model, taken["ours"], peaks, alone, args, report, found)
    against_each_other(taken, cuda, report, found, sides.profile(int8, SHORT))


def against_the_device(
    model: Any, mine: list[Timing], peaks: list[Peaks], alone: list[float], args: Namespace, report: Report, found: Any
) -> None:
    """What of the bandwidth, of the products' own time and of the matmul peak is reached."""
    cuda, work = model.device.type != "cpu", perf_measure.work_of(model)
    following = [timing.following(args.new) for timing in mine]
    share = [100 * products / step for products, step in zip(alone, following)]
    report.add("bf16: linears alone against ours, per token", "%", share, None if cuda else (AT_LEAST, 95), found)
    read = work.step_bytes(1, args.prompt + args.new / 2)
    share = [100 * read / step / peak.copy for step, peak in zip(following, peaks)]
    report.add("bf16: decode, share of the copy bandwidth", "%", share, (AT_LEAST, 80) if cuda else None, found)
    report.add("copy bandwidth of the same run", "GB/s", [peak.copy / 1e9 for peak in peaks])
    share = [100 * work.prefill_flop(1, args.prompt) / m.first / p.matmul for m, p in zip(mine, peaks)]
    report.add(f"bf16: prefill of {args.prompt}, share of the matmul peak", "%", share)


def against_each_other(taken: dict[str, list[Timing]], cuda: bool, report: Report, found: Any, found_int8: Any) -> None:
    """Response times, repetition by repetition."""
    mine = taken["ours"]

    def times(name: str, faster: list[Timing]) -> list[float]:
        return [slow.response / fast.response for slow, fast in zip(taken[name], faster)]

    ratio = times("Hugging Face", mine)
    report.add("bf16: ours against Hugging Face's generate", "x", ratio, (AT_LEAST, 4 if cuda else 1.15), found)
    if STATIC in taken:
        report.add(f"bf16: ours against {STATIC}", "x", times(STATIC, mine))
    if cuda:
        report.add("int8: ours against ours bf16", "x", times("ours", taken["ours int8"]), (AT_LEAST, 1.6), found_int8)
    else:
        ratio = times("Hugging Face", taken["ours int8"])
        report.add("int8: ours against Hugging Face's generate in bf16", "x", ratio, (AT_LEAST, 2), found_int8)


def interleave(
    contestants: dict[str, Callable[[int, int], Timing]], model: Any, args: Namespace
) -> tuple[dict[str, list[Timing]], list[Peaks], list[float]]:
    """Each side once per repetition; the peaks, and the seconds of the products alone, beside them."""
    taken: dict[str, list[Timing]] = {name: [] for name in contestants}
    peaks, alone = [], []
    weights = perf_measure.work_of(model).weights
    for side in contestants.values():
        side(args.prompt, 4)
    for turn in range(args.repeat):
        peaks.append(perf_measure.measure_peaks(model.device, model.dtype, weights))
        alone.append(statistics.median(sides.linears_alone(model)))
        order = list(contestants.items())
        first = turn % len(order)
        for name, side in order[first:] + order[:first]:
            taken[name].append(side(args.prompt, args.new))
    return taken, peaks, alone


def check(timings: list[Timing], work: Work, peaks: list[Peaks], args: Namespace) -> None:
    reasons = Row(1, args.prompt, args.new, timings, work, Peaks.of(peaks), {}).impossible()
    if reasons:
        raise SystemExit(f"impossible, so something here measures wrongly: {'; '.join(reasons)}")


def speed(name: str, timings: list[Timing], args: Namespace, report: Report, goal: Any = None) -> None:
    rates = [1 / timing.following(args.new) for timing in timings]
    report.add(f"{name}: decode at context {args.prompt} to {args.prompt + args.new}", "token/s", rates, goal)
    report.add(f"{name}: first token", "ms", [1e3 * timing.first for timing in timings])
    report.add(f"{name}: response", "ms", [1e3 * timing.response for timing in timings])


def shapes_of_work(model: Any, args: Namespace, report: Report, found: Any) -> None:
    """The loop around the passes, the length of the context, and the batch."""
    sides.whole_loop(model, 32, 4)
    new = args.new // 2
    ratio = [sides.whole_loop(model, 32, new) / sides.forward_only(model, 32, new) for _ in range(args.repeat)]
    report.add(
        "whole loop (sampling, stop checks, streaming) against the passes alone", "x", ratio, (AT_MOST, 1.03), found
    )
    cuda = model.device.type != "cpu"
    floor = perf_measure.work_of(model)
    least = floor.step_bytes(1, LONG) / floor.step_bytes(1, SHORT)
    growth = [100 * (ratio - 1) for ratio in in_turn(model, (1, SHORT), (1, LONG), 3)]
    what = f"growth of time per token from context {SHORT} to {LONG} (the bytes grow by {100 * (least - 1):.1f} %)"
    report.add(what, "%", growth, (AT_MOST, 16), sides.profile(model, LONG), best=0)
    batch = [8 / ratio for ratio in in_turn(model, (1, 32), (8, 32), args.repeat)]
    report.add("batch 8 against batch 1, tokens per second", "x", batch, (AT_LEAST, 6.5), found, best=8)
    for length in (512, 3584) if cuda else ():
        first = [sides.ours(model)(length, 2).first for _ in range(args.repeat)]
        peak = perf_measure.matmul_peak(model.device, model.dtype)
        share = [100 * floor.prefill_flop(1, length) / seconds / peak for seconds in first]
        report.add(f"bf16: prefill of {length}, share of the matmul peak", "%", share, (AT_LEAST, 55), found)


def in_turn(model: Any, one: tuple[int, int], other: tuple[int, int], rounds: int) -> list[float]:
    """How much longer a step of `other` takes than one of `one`, both (batch, context): a ratio for each round.

    One after the other in each round, for the speed of a machine with other users drifts.
    """
    count = 16 if model.device.type != "cpu" else 8
    pairs = [(sides.steps(model, *one, count), sides.steps(model, *other, count)) for _ in range(rounds)]
    return [statistics.median(after) / statistics.median(before) for before, after in pairs]


def float32(config: LlamaConfig, args: Namespace, report: Report) -> None:
    """The CPU's other dtype, in which the tokens are compared with Hugging Face's."""
    model = perf_run.random_model(config, torch.device("cpu"), torch.float32, int8=False)
    other = sides.hugging_face_model(model)
    args = Namespace(**{**vars(args), "repeat": min(3, args.repeat)})  # without a goal, and the slowest of all
    taken, peaks, _ = interleave({"ours": sides.ours(model), "Hugging Face": sides.hugging_face(other)}, model, args)
    for name, timings in taken.items():
        check(timings, perf_measure.work_of(model), peaks, args)
        speed(f"{name} fp32", timings, args, report)
    ratio = [theirs.response / mine.response for mine, theirs in zip(*taken.values())]
    report.add("fp32: ours against Hugging Face's generate", "x", ratio)
