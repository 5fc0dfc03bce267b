"""How exact the image encoder is on upstream's eight example pictures, beside upstream's own module.

    python benchmarks/image_precision.py [--upstream URL_OR_FOLDER]       # full size: minutes on 2 cores, about 7 GB
    python benchmarks/image_precision.py --device cuda:0

Against upstream's module in float32: what is exported (onnxruntime, float32 and mixed) and what PyTorch computes
(bfloat16, float16); beside them upstream's own module under autocast in the same dtype. Real weights are not at hand;
benchmarks/image_weights.py says what stands in for them. A float16 product on a CPU is summed in float32 and rounded
once (upstream_source.HalfProducts), for both sides; onnxruntime does the same.

Goals hold for every picture: float32 max abs <= 2e-5; relative error (of the norm) <= 1e-2 in float16 and mixed,
<= 2e-2 in bfloat16, and <= 1.5 times upstream's own. The exit code is 1 where one is missed.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "port")]

import port_package  # noqa: F401  the overlay's model files become `port.models`
from port.models.device import resolve_device, select_device

from benchmarks import image_sides
from benchmarks.image_weights import KINDS, write_files
from benchmarks.results import machine, write
from benchmarks.upstream_source import HalfProducts, TheirEncoder, Upstream, source_of
from verification import oracle

MAX_ABS, FLOAT16, BFLOAT16, RATIO = 2e-5, 1e-2, 2e-2, 1.5
Encode = Callable[[Tensor], Tensor]


class Gate:
    """The rows of the result; a goal is met when it is met for every picture."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.missed: list[str] = []

    def add(self, what: str, unit: str, values: list[float], limit: float | None = None) -> None:
        row: dict[str, Any] = {"what": what, "unit": unit, "goal": "", "values": values}
        if limit is not None:
            met = all(value <= limit for value in values)  # NaN is a miss, wherever it stands
            row["goal"] = f"every one <= {limit:g}: {'met' if met else 'not met'}"
            if not met:
                self.missed.append(what)
        self.rows.append(row)
        print(f"{what}: {min(values):.3g} to {max(values):.3g} {unit} {row['goal']}", flush=True)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = resolve_device(args.device)
    select_device(device)
    torch.backends.cudnn.allow_tf32 = False  # float32 is what the others are measured against
    gate = Gate()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        upstream = Upstream(folder, args.upstream)
        pictures = upstream.pictures()[: args.pictures] if upstream.repo else []
        images = torch.stack([oracle.process(path) for path in pictures]) if pictures else noise(args.pictures)
        for kind in args.weights.split(","):
            files = write_files(folder / kind, kind, args.width, args.hidden, args.depth)
            measure(kind, files, upstream, images, device, gate)
            for file in files:
                file.unlink()
    where = {**place(device), "blocks": str(args.depth), "width": str(args.width), "hidden": str(args.hidden)}
    where["pictures"] = describe(pictures, images)
    write(f"image_precision_{device.type}", gate.rows, where, script="image_precision", beside=source_of(upstream))
    for what in gate.missed:
        print(f"NOT MET: {what}")
    return 1 if gate.missed else 0


def measure(
    kind: str, files: tuple[Path, Path], upstream: Upstream, images: Tensor, device: torch.device, gate: Gate
) -> None:
    """All rows of one kind of weights. One model is in memory at a time."""
    images = images.to(device)
    theirs = TheirEncoder(upstream, *files, device)
    exact = theirs(images).cpu()
    other = {dtype: theirs(images, dtype).cpu() for dtype in (torch.bfloat16, torch.float16)}
    del theirs
    upstreams = {dtype: relative(features, exact) for dtype, features in other.items()}
    for dtype, errors in upstreams.items():
        gate.add(f"{kind}: upstream's module, autocast {_short(dtype)}, relative error", "", errors)

    def half(what: str, features: Tensor, dtype: torch.dtype) -> None:
        errors = relative(features, exact)
        gate.add(f"{kind}: {what}, relative error", "", errors, BFLOAT16 if dtype == torch.bfloat16 else FLOAT16)
        ratio = [mine / their for mine, their in zip(errors, upstreams[dtype])]
        gate.add(f"{kind}: {what}, error against upstream's own in {_short(dtype)}", "x", ratio, RATIO)

    for dtype in (torch.bfloat16, torch.float16):
        half(f"PyTorch {_short(dtype)}", ours(files, dtype, device)(images).cpu(), dtype)
        gc.collect()
    for precision in ("fp32", "mixed"):
        with tempfile.TemporaryDirectory(dir=files[0].parent) as folder:
            features = image_sides.exported(Path(folder), files, precision)(images).cpu()
        gc.collect()
        if precision == "fp32":
            gate.add(f"{kind}: onnxruntime fp32, max abs error", "", largest(features, exact), MAX_ABS)
        else:
            half("onnxruntime mixed", features, torch.float16)


def ours(files: tuple[Path, Path], dtype: torch.dtype, device: torch.device) -> Encode:
    """The port's encoder on eva_vit_g.pth."""
    encode = image_sides.ours(files, device, _short(dtype))
    if dtype != torch.float16 or device.type != "cpu":
        return encode

    def with_half_products(images: Tensor) -> Tensor:
        with HalfProducts():
            return encode(images)

    return with_half_products


def relative(found: Tensor, exact: Tensor) -> list[float]:
    """|found - exact| / |exact| of each picture."""
    difference = (found.double() - exact.double()).flatten(1).norm(dim=1)
    return (difference / exact.double().flatten(1).norm(dim=1)).tolist()


def largest(found: Tensor, exact: Tensor) -> list[float]:
    return (found.double() - exact.double()).abs().flatten(1).amax(dim=1).tolist()


def noise(count: int) -> Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def describe(pictures: list[Path], images: Tensor) -> str:
    return f"{len(pictures)} of upstream's examples_v2" if pictures else f"{len(images)} of noise, upstream not reached"


def place(device: torch.device) -> dict[str, str]:
    """What was measured on, and with which versions."""
    where = {**machine(), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    where["threads"] = str(torch.get_num_threads())
    if device.type == "cuda":
        where.update(device=torch.cuda.get_device_name(device), cuda=str(torch.version.cuda))
    return where


def _short(dtype: torch.dtype) -> str:
    return str(dtype).replace("torch.", "")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda:N; onnxruntime is on the CPU always")
    parser.add_argument("--upstream", help="where to clone from (default: MINIGPT4_UPSTREAM, or the public address)")
    parser.add_argument("--weights", default=",".join(KINDS), help="(%(default)s)")
    parser.add_argument("--pictures", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--depth", type=int, default=39, help="blocks (%(default)s)")
    parser.add_argument("--width", type=int, default=1408, help="channels (%(default)s)")
    parser.add_argument("--hidden", type=int, default=6144, help="channels inside a block (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
