"""What reading the next pictures while one is encoded is worth: from upstream's eight example files to features.

    python benchmarks/read_ahead.py [--upstream URL_OR_FOLDER]     # this CPU: minutes, about 9 GB
    python benchmarks/read_ahead.py --device cuda:0

Each file is decoded and resized as the reference does it, and encoded alone by ViT-g at its real size with random
weights. In every round each way runs once, a different one first. On a CPU a wait of the published time on a 910B
stands in for an encoder on a device of its own: that shows what reading costs beside it, and nothing of an NPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "port")]

import port_package  # noqa: F401  the overlay's files become `port`
from port.models.device import resolve_device, select_device
from port.perf.image_rows import PUBLISHED
from port.processors.read_ahead import read_ahead

from benchmarks import image_sides as sides
from benchmarks.image_precision import place
from benchmarks.image_weights import write_files
from benchmarks.results import write
from benchmarks.upstream_source import Upstream, source_of
from verification import oracle

DEPTH, HIDDEN = 39, 6144  # of ViT-g
WAIT = PUBLISHED[0][1]  # seconds


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    device = resolve_device(args.device)
    select_device(device)
    where = {**place(device), "blocks": str(args.depth), "hidden": str(args.hidden)}
    print(where, flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        upstream = Upstream(folder, args.upstream)
        if upstream.repo is None:
            raise SystemExit(f"upstream cannot be reached, so there are no pictures: {upstream.why}")
        pictures = upstream.pictures()
        files = write_files(folder, "random", hidden=args.hidden, depth=args.depth)
        taken, _ = sides.interleave(ways(pictures, files, device), device, args.repeat, 1, lambda: None)
        rows = [
            {
                "what": f"{what}, each of {len(pictures)}",
                "unit": "ms",
                "goal": "",
                "values": [1e3 * v / len(pictures) for v in values],
            }
            for what, values in taken.items()
        ]
    write(f"read_ahead_{device.type}", rows, where, script="read_ahead", beside=source_of(upstream))


def ways(pictures: list[Path], files: sides.Files, device: torch.device) -> dict[str, Callable[[], None]]:
    """Each way through all pictures once: reading alone, and before an encoder; in turn and ahead."""
    dtype = "bfloat16"
    encoders: dict[str, Callable[[Tensor], Any]] = {"file read": lambda pixels: None}
    encoders[f"file to features, {dtype}"] = sides.ours(files, device, dtype)
    if device.type == "cpu":
        encoders[f"file read, then a wait of {1e3 * WAIT:g} ms for a device"] = lambda pixels: time.sleep(WAIT)
    orders: dict[str, Callable[[], Any]] = {
        "in turn": lambda: map(oracle.process, pictures),
        "read ahead": lambda: read_ahead(oracle.process, pictures),
    }
    return {
        f"{what}, {order}": partial(walk, read, encode, device)
        for what, encode in encoders.items()
        for order, read in orders.items()
    }


def walk(read: Callable[[], Any], encode: Callable[[Tensor], Any], device: torch.device) -> None:
    for pixels in read():
        encode(pixels[None].to(device))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N (%(default)s)")
    parser.add_argument(
        "--upstream", help="where to clone from; default: MINIGPT4_UPSTREAM, or what upstream.yaml names"
    )
    parser.add_argument("--repeat", type=int, default=5, help="rounds (%(default)s)")
    parser.add_argument("--depth", type=int, default=DEPTH, help=argparse.SUPPRESS)  # for tests
    parser.add_argument("--hidden", type=int, default=HIDDEN, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
