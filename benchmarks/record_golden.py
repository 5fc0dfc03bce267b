"""Record a golden of a 7B-shape model with less memory than its weights take, and watch memory and time.

    python benchmarks/record_golden.py [--folder FOLDER] [--pictures 2] [--tokens 8] [--halves bfloat16]

The sizes are those of the real files: ViT-g (float16, 2.0 GB), Q-Former of BERT-base's size, Vicuna-7B (32 layers,
4096, 11008, 32001 x 4096, float16, 13.5 GB in nine shards), a tokenizer of 32000 pieces. The numbers are random, and
all layers of the language model hold the same ones. The language model is read layer by layer here even where memory
would do. Needs 17 GB of disk while it runs; the weights are deleted again.

Memory is that of the whole recording process, sums of the weight files included: VmHWM is the kernel's own peak and
counts pages of mapped files, which it takes back when others need the room; RssAnon does not, and is looked at ten
times a second. The files were just written, so as many of them as fit are in the page cache; the row "reading" says
what one pass over them costs then.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.results import machine, write

GIB, GOAL = 1024**3, 16
DISK = 17 * 10**9
QUESTION = "Describe this image in detail."
FULL = {"hidden": 4096, "layers": 32, "heads": 32, "mlp": 11008}
BERT_BASE = {"hidden": 768, "layers": 12, "heads": 12, "mlp": 3072, "queries": 32}
PIECES, SHARD_LAYERS = 32000, 4


def write_weights(folder: Path) -> None:
    """A set in the seed's layout, with the real sizes."""
    import torch

    from benchmarks import image_weights
    from verification import synthetic
    from verification.synthetic_text import train_tokenizer

    synthetic.LLM.update(FULL)
    synthetic.BERT.update(BERT_BASE)
    make, marker = synthetic.Tensors(0), {"generator": synthetic.VERSION, "seed": 0}
    others, language = folder / "othfiles", folder / "weights"
    for path in (others / "bert-base-uncased", language, folder / "pretrain"):
        path.mkdir(parents=True)
    image_weights.write_files(others, "random")[1].unlink()
    torch.save({"model": synthetic.blip2(make)}, others / "blip2_pretrained_flant5xxl.pth")
    synthetic.write_json(others / "bert-base-uncased" / "config.json", synthetic.bert_config())
    stage = "prerained_minigpt4_7b.pth"
    torch.save(synthetic.checkpoint(make, stage, BERT_BASE["hidden"], marker), folder / "pretrain" / stage)
    (language / "tokenizer.model").write_bytes(_grown(train_tokenizer(0)))
    synthetic.write_json(language / "config.json", synthetic.llama_config(PIECES + 1, False, marker))
    write_llama(language)


def write_llama(folder: Path) -> None:
    """Layers of the same random numbers, in shards of four, so that writing needs little memory too."""
    import torch

    torch.manual_seed(0)
    hidden, mlp = FULL["hidden"], FULL["mlp"]

    def linear(out: int, width: int, gain: float = 1.0) -> torch.Tensor:
        return torch.randn(out, width).mul_(gain / width**0.5).half()

    layer = {f"self_attn.{part}_proj.weight": linear(hidden, hidden) for part in "qkv"}
    layer["self_attn.o_proj.weight"] = linear(hidden, hidden, 0.06)
    layer["mlp.gate_proj.weight"], layer["mlp.up_proj.weight"] = linear(mlp, hidden), linear(mlp, hidden)
    layer["mlp.down_proj.weight"] = linear(hidden, mlp, 0.06)
    layer.update({f"{norm}_layernorm.weight": torch.ones(hidden).half() for norm in ("input", "post_attention")})
    for number, first in enumerate(range(0, FULL["layers"], SHARD_LAYERS)):
        names = [(f"model.layers.{i}.", part) for i in range(first, first + SHARD_LAYERS) for part in layer]
        torch.save({f"{start}{part}": layer[part].clone() for start, part in names}, _shard(folder, number))
    rest = {
        "model.embed_tokens.weight": torch.randn(PIECES + 1, hidden).mul_(0.03).half(),
        "model.norm.weight": torch.ones(hidden).half(),
        "lm_head.weight": linear(PIECES + 1, hidden, 2.5),
    }
    torch.save(rest, _shard(folder, FULL["layers"] // SHARD_LAYERS))


def _shard(folder: Path, number: int) -> Path:
    return folder / f"pytorch_model-{number + 1:05d}-of-{FULL['layers'] // SHARD_LAYERS + 1:05d}.bin"


def _grown(tokenizer: bytes) -> bytes:
    """With as many pieces as Vicuna's; the added ones are never what a text is cut into."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(tokenizer)
    for number in range(PIECES - len(model.pieces)):
        model.pieces.add(piece=f"\u2581unused{number}", score=-1000.0 - number)
    return model.SerializeToString()


def child(folder: Path, pictures: list[Path], tokens: int, halves: list[str], out: Path) -> None:
    """Record, and print as JSON when each part was done."""
    import torch

    from verification import weights
    from verification.gate import record
    from verification.gate.digests import code_digests, weight_digests
    from verification.run import versions
    from verification.shards import Shards

    done: dict[str, list[float]] = {}
    start = time.perf_counter()

    def step(what: str, _done: int, _all: int) -> None:
        done.setdefault(what, []).append(time.perf_counter() - start)

    record.lacking_memory = lambda _: True
    files = weights.from_folder(folder)
    facts = {"weights": weight_digests(files, step), "code": code_digests(PROJECT), "versions": versions()}
    found = record.record(files, pictures, [QUESTION], tokens, halves, {**facts, "date": machine()["date"]}, step)
    found.save(out)
    done["all"] = [time.perf_counter() - start]
    shards = Shards(files.llama_model)
    layers = [[name for name in shards.shapes if name.startswith(f"model.layers.{i}.")] for i in range(FULL["layers"])]
    buffers = [torch.empty(shards.shapes[name]) for name in layers[0]]
    for _ in range(3):
        begun = time.perf_counter()
        for names in layers:
            shards.read(dict(zip(names, buffers)))
        done.setdefault("reading", []).append(time.perf_counter() - begun)
    print(json.dumps(done))


def watch(command: list[str]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """What the child printed, and the peaks of its memory in GiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peaks = {"VmHWM": 0.0, "RssAnon": 0.0}
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        except OSError:
            break
        for name in peaks:
            seen = re.search(rf"{name}:\s+(\d+) kB", status)
            peaks[name] = max(peaks[name], int(seen[1]) * 1024 / GIB if seen else 0.0)
        time.sleep(0.1)
    output = process.communicate()[0]
    if process.returncode:
        sys.exit(f"the recording ended with {process.returncode}")
    return json.loads(output), peaks


def rows(done: dict[str, list[float]], peaks: dict[str, float], size: int, case: str) -> list[dict[str, Any]]:
    def row(what: str, unit: str, values: list[float], goal: str = "") -> dict[str, Any]:
        return {"what": f"golden of a 7B shape, {case}: {what}", "unit": unit, "goal": goal, "values": values}

    def met(value: float) -> str:
        return f"<= {GOAL} GiB: {'met' if value <= GOAL else 'not met'}"

    text = done["text 1 of 1"][:-1]  # the last one says that all tokens are there
    image, digests = done["image half in float32"][-1], done["sha256 of the weights"][-1]
    passes = [later - earlier for earlier, later in zip(text, text[1:])]
    logits = {name: times[-1] - times[0] for name, times in done.items() if name.startswith("logits in")}
    return [
        row("peak resident memory, mapped files included (VmHWM)", "GiB", [peaks["VmHWM"]], met(peaks["VmHWM"])),
        row("peak resident memory without files (RssAnon)", "GiB", [peaks["RssAnon"]], met(peaks["RssAnon"])),
        row("one pass over the weights, a token for each picture", "s", passes),
        row("of a pass, reading the layers and widening them to float32", "s", done["reading"]),
        row("sha256 of all weights", "s", [digests]),
        row("the image half in float32", "s", [image - digests]),
        *(row(f"{name}, prompt and text at once", "s", [seconds]) for name, seconds in logits.items()),
        row("the whole recording", "s", done["all"]),
        row("the file", "MB", [size / 1e6]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=PROJECT / "build", help="where to write the weights (%(default)s)"
    )
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--halves", default="bfloat16", help="float16, bfloat16, both with a comma, or none")
    parser.add_argument("--child", nargs=3, metavar=("WEIGHTS", "PICTURES", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    halves = [] if options.halves == "none" else options.halves.split(",")
    if options.child:
        weights, pictures, out = map(Path, options.child)
        child(weights, sorted(pictures.iterdir()), options.tokens, halves, out)
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(options.folder).free < DISK:
        sys.exit(f"{options.folder} has less than {DISK / 1e9:.0f} GB free; name another with --folder.")
    with tempfile.TemporaryDirectory(prefix="golden7b.", dir=options.folder) as name:
        folder = Path(name)
        measure(folder, options)
    return 0


def measure(folder: Path, options: argparse.Namespace) -> None:
    from verification.demo import draw

    begun = time.perf_counter()
    write_weights(folder / "weights")
    (folder / "pictures").mkdir()
    for number in range(options.pictures):
        draw(folder / "pictures" / f"{number}.png")
        shift(folder / "pictures" / f"{number}.png", number)
    print(f"weights written in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    out = folder / "golden.npz"
    command = [sys.executable, __file__, "--tokens", str(options.tokens), "--halves", options.halves]
    done, peaks = watch([*command, "--child", *map(str, (folder / "weights", folder / "pictures", out))])
    case = f"{options.pictures} pictures, {options.tokens} tokens"
    write("record_golden", rows(done, peaks, out.stat().st_size, case), machine())


def shift(path: Path, degrees: int) -> None:
    """Make a picture that differs from the others."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.rotate(degrees * 7).save(path)


if __name__ == "__main__":
    sys.exit(main())
