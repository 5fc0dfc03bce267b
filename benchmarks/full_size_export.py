"""Export the encoder at its real size: time, peak memory and the error against PyTorch, on random weights.

    python benchmarks/full_size_export.py

986 million parameters, in fp32 and mixed, three times beside torch's own exporter in the same run. About 10 GB of disk,
a quarter of an hour, and under 9 GiB of memory, which torch's exporter takes. Whole processes, watched from outside
(Linux).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "port")]

from benchmarks.results import machine, write

EXPORTER = PROJECT / "overlay" / "onnx_model_export.py"
GIB = 1024**3
ROUNDS = 3  # torch's exporter and the command in turn
# torch's own exporter on the same model and dtype: load, export, end. The older exporter, since ATC reads no opset of
# the newer one.
PLAIN = f"""
import sys, warnings; sys.path.insert(0, {str(PROJECT / "tests" / "port")!r})
warnings.simplefilter("ignore")
import port_package, torch
from port.models.eva_vit_model import load_eva_vit
vit, blip2, out, dtype = sys.argv[1:]
with torch.no_grad():
    model = load_eva_vit(vit, blip2, 224, getattr(torch, dtype))
    torch.onnx.export(model, (torch.zeros(1, 3, 224, 224),), out, opset_version=17, dynamo=False)
"""


@dataclass(frozen=True)
class Watched:
    """A process: wall time in seconds, peak resident memory in bytes (mapped files included), what it printed."""

    seconds: float
    peak: int
    said: str


def watch(command: list[str]) -> Watched:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:  # the kernel keeps the peak: looking now and then is enough
        seen = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(seen[1]) * 1024 if seen else 0)
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{command[1]} exited with {process.returncode}:\n{said}")
    return Watched(seconds, peak, said)


def make_weights(folder: Path) -> tuple[Path, Path, Path]:
    """Random weights of the real shape, and a picture of noise."""
    from vit_files import write_files

    vit, blip2 = write_files(folder, width=1408, hidden=6144, blocks=40, image_size=224)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return vit, blip2, folder / "noise.png"


def export(files: tuple[Path, Path, Path], out: Path, precision: str) -> tuple[Watched, dict]:
    """The command as a user runs it, proof included; its record."""
    command = [sys.executable, str(EXPORTER), "--onnx-model-dir", str(out), "--dtype", precision]
    command += ["--vit-weights", str(files[0]), "--ln-vision", str(files[1]), "--image-path", str(files[2])]
    watched = watch(command)
    return watched, json.loads((out / "eva_vit_g.onnx.json").read_text())


def plain(files: tuple[Path, Path, Path], precision: str) -> Watched:
    dtype = {"fp32": "float32", "mixed": "float16"}[precision]
    with tempfile.TemporaryDirectory(dir=files[0].parent) as out:
        return watch([sys.executable, "-c", PLAIN, str(files[0]), str(files[1]), f"{out}/vit.onnx", dtype])


def measured(precision: str, files: tuple[Path, Path, Path], folder: Path) -> dict[tuple[str, str, str], float]:
    """One round: torch's exporter, then the command. -> value by what it is, unit and goal."""
    theirs = plain(files, precision)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        ours, record = export(files, Path(out), precision)
    steps = [float(seconds) for seconds in re.findall(r"^\[[125]/5\].* ([\d.]+) s$", ours.said, re.MULTILINE)]
    errors = [error for name, error in record["errors"].items() if name != "bound"]
    found = {
        ("the command, with its proof on three pictures", "s", "none"): ours.seconds,
        ("of it reading the weights, writing the file, and waiting for the disk beside the proof", "s", "none"): sum(
            steps
        ),
        ("torch.onnx.export (TorchScript, opset 17), without proof", "s", "none"): theirs.seconds,
        ("the command against torch.onnx.export", "x", "<= 1.2"): ours.seconds / theirs.seconds,
        ("peak memory of the command", "GiB", "none"): ours.peak / GIB,
        ("peak memory against the exported weights", "x", "<= 1.6"): ours.peak / record["weights_bytes"],
        ("peak memory of torch.onnx.export", "GiB", "none"): theirs.peak / GIB,
    }
    if precision == "fp32":
        found["max abs error", "", "<= 2e-5"] = max(error["max_abs"] for error in errors)
    else:
        found["rel-L2 error", "", "<= 1e-2"] = max(error["rel_l2"] for error in errors)
    return found


def main() -> None:
    values: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_weights(folder)
        for precision in ("fp32", "mixed"):
            for _ in range(ROUNDS):
                for (what, *rest), value in measured(precision, files, folder).items():
                    values.setdefault((f"{precision}: {what}", *rest), []).append(value)
    rows = [{"what": what, "unit": unit, "goal": goal, "values": row} for (what, unit, goal), row in values.items()]
    write("full_size_export", rows, {**machine(), "torch": torch.__version__})


if __name__ == "__main__":
    main()
