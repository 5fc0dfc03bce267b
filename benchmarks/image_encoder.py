"""How fast the image encoder is beside upstream's own, and how long a picture takes to the first token; all in one run.

    python benchmarks/image_encoder.py [--upstream URL_OR_FOLDER]     # this CPU: minutes on 2 quiet cores, about 15 GB
    python benchmarks/image_encoder.py --device cuda:0

ViT-g at its real size, one picture of 224 pixels, random weights that all sides share, as many threads for each. In
every round each side encodes once, a different one first. The device is waited for before every reading of the clock,
and a side that beats the matmul peak of the same run ends the benchmark.

A goal is about the fastest of the sides that a user can have in the dtypes it names, of those that stay within the
accuracy that they must have: on another picture than the timed one, against upstream in float32. A smaller encoder or
language model than the real one has no goals.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "port")]

import port_package  # noqa: F401  the overlay's model files become `port.models`
from port.models.device import resolve_device, select_device
from port.perf.image import encoder_flop
from port.perf.image_rows import PUBLISHED, SOURCE, ImageRow
from port.perf.measure import matmul_peak

from benchmarks import image_sides as sides
from benchmarks.decode_stages import AT_LEAST, AT_MOST, Report
from benchmarks.image_precision import noise, place, relative
from benchmarks.image_weights import write_files
from benchmarks.results import write
from benchmarks.upstream_source import Upstream, source_of
from verification import oracle

HOW = (
    "Upstream's module runs as it is, without gradients, with the same weights and threads: in float32 on a CPU, on a "
    "GPU as its encode_img does, float16 weights under autocast. Ours is called as MiniGPT-4 calls it, without the "
    "memory of the last picture."
)
PROMPT = 96  # tokens, 32 of them the picture's: a first turn of MiniGPT-4
GATE = {"bfloat16": 2e-2, "float16": 1e-2, "float32": 1e-5}  # relative error against upstream in float32
DEPTH, HIDDEN, LAYERS = 39, 6144, 32  # of ViT-g and of Vicuna-7B


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    device = resolve_device(args.device)
    select_device(device)
    report = Report()
    where = {**place(device), "transformers": transformers.__version__}
    where.update(blocks=str(args.depth), hidden=str(args.hidden))
    print(where, flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        upstream = Upstream(folder, args.upstream)
        print(f"beside ours: {source_of(upstream)}", flush=True)
        files = write_files(folder, "random", hidden=args.hidden, depth=args.depth)
        pictures = upstream.pictures() if upstream.repo else []
        pixels = oracle.process(pictures[0])[None] if pictures else noise(1)
        encoders(upstream, files, folder, pixels.to(device), args, report)
        gc.collect()
        first_token(upstream, files, pixels.to(device), args, report)
        if pictures:
            decoding(pictures, args.repeat, report)
    if device.type == "cpu":
        elsewhere(report)
    for what, seconds in PUBLISHED:
        row = {"what": f"{what}: published", "unit": "ms", "goal": "", "values": [1e3 * seconds]}
        report.rows.append({**row, "source": SOURCE})
    write(
        f"image_encoder_{device.type}", report.rows, where, script="image_encoder", how=HOW, beside=source_of(upstream)
    )


def layers_of(args: argparse.Namespace, device: torch.device) -> int:
    return args.layers or (4 if device.type == "cpu" else LAYERS)


def encoders(
    upstream: Upstream, files: sides.Files, folder: Path, pixels: Tensor, args: argparse.Namespace, report: Report
) -> None:
    """Every side's time, share of the matmul peak and error, and upstream's time against it."""
    device, cuda = pixels.device, pixels.device.type == "cuda"
    other = pixels.flip(-1)  # what only repeats the timed picture's features is found out
    exact = sides.exactly(upstream, files, other)
    found = sides.on_cuda(upstream, files, device) if cuda else sides.on_cpu(upstream, files, folder)
    dtypes = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16") if cuda or name != "float16"}
    taken, peaks = sides.interleave(
        {name: partial(side, pixels) for name, side in found.items()},
        device,
        args.repeat,
        20 if cuda else 1,
        lambda: {name: matmul_peak(device, dtype) for name, dtype in dtypes.items()},
    )
    errors = {name: relative(side(other).cpu(), exact)[0] for name, side in found.items()}
    full = (args.depth, args.hidden) == (DEPTH, HIDDEN)
    judged = fastest(taken, errors) if full else None
    flop = encoder_flop(files[0], pixels.shape[-1])
    for name, seconds in taken.items():
        best = max(max(peak.values()) for peak in peaks)
        if reason := ImageRow(name, 1, seconds, flop, best, {}).impossible():
            raise SystemExit(f"impossible, so something here measures wrongly: {name}: {reason}")
        goal = (AT_MOST, 1.5) if cuda and name == judged else None
        report.add(f"{name}: one picture", "ms", [1e3 * value for value in seconds], goal)
        dtype = dtype_of(name)
        share = [100 * flop / value / peak[dtype] for value, peak in zip(seconds, peaks)]
        report.add(f"{name}: share of the {dtype} matmul peak of the same run", "%", share)
    against_upstream(taken, judged, 6 if cuda else 2.5, report)
    for name, error in errors.items():
        limit = None if name.startswith(sides.UPSTREAM) else (AT_MOST, GATE[dtype_of(name)])
        report.add(f"{name}: relative error against upstream's float32", "", [error], limit)


def dtype_of(name: str) -> str:
    return next(dtype for dtype in GATE if dtype in name)


def fastest(taken: dict[str, list[float]], errors: dict[str, float]) -> str:
    """The side that the goals are about, see the top of this file. Exits where no candidate is exact enough."""
    exact = [name for name in taken if name in sides.CANDIDATES and errors[name] <= GATE[dtype_of(name)]]
    if not exact:
        raise SystemExit(f"no side is exact enough for a goal: {errors}")
    return min(exact, key=lambda name: statistics.median(taken[name]))


def against_upstream(taken: dict[str, list[float]], judged: str | None, least: float, report: Report) -> None:
    """Round by round. judged: the side that the goal is about."""
    upstreams, *others = taken
    for name in others:
        ratio = [theirs / mine for theirs, mine in zip(taken[upstreams], taken[name])]
        report.add(f"{name}: against {upstreams}", "x", ratio, (AT_LEAST, least) if name == judged else None)


def first_token(
    upstream: Upstream, files: sides.Files, pixels: Tensor, args: argparse.Namespace, report: Report
) -> None:
    """From the picture's pixels to the first token, whole and in parts."""
    device, cuda = pixels.device, pixels.device.type == "cuda"
    dtype, layers = "float16" if cuda else "bfloat16", layers_of(args, device)
    full = (args.depth, args.hidden, layers) == (DEPTH, HIDDEN, LAYERS)
    model = sides.FirstToken(files, upstream, device, dtype, layers)
    features = model.encode(pixels)
    embeddings = model.features_to_embeddings(pixels, features)
    ids = model.ids(PROMPT - embeddings.shape[1]).to(device)
    whole = f"pixels to the first token, {dtype}, {layers} of {LAYERS} layers"
    parts: dict[str, Any] = {
        whole: partial(model.whole, pixels, ids),
        "of it the encoder": partial(model.encode, pixels),
        "of it Q-Former and projection": partial(model.features_to_embeddings, pixels, features),
        f"of it the prompt of {PROMPT} tokens": partial(model.prefill, ids, embeddings),
    }
    taken, _ = sides.interleave(parts, device, args.repeat, 20 if cuda else 1, lambda: None)
    for name, seconds in taken.items():
        goal = (AT_MOST, 10) if cuda and full and name == whole else None
        report.add(name, "ms", [1e3 * value for value in seconds], goal)


def decoding(pictures: list[Path], repeat: int, report: Report) -> None:
    """The part before: outside the goals, since it is the same for all."""
    device = torch.device("cpu")
    reads: dict[str, Any] = {path.name: partial(oracle.process, path) for path in pictures}
    taken, _ = sides.interleave(reads, device, repeat, 1, lambda: None)
    medians = [1e3 * statistics.median(seconds) for seconds in taken.values()]
    report.add(f"decoding and resizing, each of {len(pictures)} pictures", "ms", medians)


def elsewhere(report: Report) -> None:
    report.elsewhere("H100, bf16: one picture", "<= 1.5 ms")
    report.elsewhere("H100: upstream's eager float16 against ours", ">= 6 x")
    report.elsewhere("H100, 7B: pixels to the first token", "<= 10 ms")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda:N")
    parser.add_argument("--upstream", help="where to clone from (default: MINIGPT4_UPSTREAM, or the public address)")
    parser.add_argument("--depth", type=int, default=DEPTH, help="blocks of the encoder (%(default)s)")
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="channels inside a block (%(default)s)")
    parser.add_argument("--layers", type=int, help="of the 7B language model (4 on the CPU, else 32)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
