"""How fast the decoder is beside Hugging Face's and beside what the device can do, all in one run.

    python benchmarks/decode.py                    # this CPU, 4 layers of the 7B shape, minutes on 2 quiet cores
    python benchmarks/decode.py --device cuda:0    # all 32 layers

Random weights, which all sides share; batch 1, a prompt of 256 tokens without padding, 64 new tokens. Every
repetition runs each side once, a different one first, so that what else the machine does falls on all of them.
Response times are measured over the whole call of generate; the device is waited for before every reading of the
clock, and a row that beats the bandwidth or the matmul peak of the same run ends the benchmark. Published figures
stand beside as such.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import transformers

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "port")]

import port_package  # noqa: F401  the overlay's model files become `port.models`
from port.models.device import resolve_device, select_device
from port.models.llama_config import LlamaConfig

from benchmarks import decode_sides as sides
from benchmarks import decode_stages as stages
from benchmarks.results import machine, write

GPT_FAST = "README of pytorch-labs/gpt-fast: A100-80G at 330 W, Llama-2-7B"
HOW = (
    "Hugging Face's generate runs as its users run it: attn_implementation sdpa, key/value cache on, no gradients, the "
    "same weights in the same dtype, the same prompt and threads, warmed up; sides take turns at being first. Its "
    "weights are plain tensors, ours are packed once when the model is made, outside the times, as loading is."
)
PUBLISHED = (("bfloat16", 104.9), ("int8 weights", 155.6), ("int4 weights", 196.8))


def main() -> None:
    args = parse()
    device = resolve_device(args.device)
    select_device(device)
    layers = args.layers or (4 if device.type == "cpu" else 32)
    config = LlamaConfig(num_hidden_layers=layers, max_position_embeddings=2 * stages.LONG)
    report = stages.Report()
    where = {**machine(), "torch": torch.__version__, "transformers": transformers.__version__}
    where.update(threads=str(torch.get_num_threads()), layers=str(layers))
    if device.type != "cpu":
        where["device"] = torch.cuda.get_device_name(device)
    print(f"{where}, prompt {args.prompt}, {args.new} new tokens", flush=True)
    model = stages.memory(config, device, args, report)
    found = sides.profile(model, stages.SHORT)
    stages.beside_hugging_face(model, config, args, report, found)
    stages.shapes_of_work(model, args, report, found)
    del model
    if device.type == "cpu":
        stages.float32(config, args, report)
        report.elsewhere("H100, bf16, 7B: tokens per second at context 288", ">= 180")
        report.elsewhere("H100, bf16, 7B: share of the copy bandwidth", ">= 80 %")
        report.elsewhere("H100, bf16, 7B: Hugging Face eager against ours, response time", ">= 4 x")
        report.elsewhere("H100, bf16, 7B: prefill of 512 to 3584 tokens, share of the matmul peak", ">= 55 %")
        report.elsewhere("GPU: int8 against bf16, batch 1", ">= 1.6 x")
    for kind, rate in PUBLISHED:
        row = {"what": f"gpt-fast, {kind}: published", "unit": "token/s", "goal": "", "values": [rate]}
        report.rows.append({**row, "source": GPT_FAST})
    write(f"decode_{device.type}", report.rows, where, script="decode", how=HOW, profile=found)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda:N")
    parser.add_argument("--layers", type=int, help="of the 7B shape (4 on the CPU, else 32)")
    parser.add_argument("--prompt", type=int, default=256, help="tokens (%(default)s)")
    parser.add_argument("--new", type=int, default=64, help="tokens (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions of each side (%(default)s)")
    parser.add_argument(
        "--compile-seconds", type=float, default=90, help="more for compiling, and that side is left out"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
