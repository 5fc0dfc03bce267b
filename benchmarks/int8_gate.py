"""How much int8 weights change the answers: the gate of `low_resource`, and the time that quantising takes.

    python benchmarks/int8_gate.py

Gate: over teacher-forced tokens, mean KL(full precision || int8) <= 0.02 nats and the same best token in >= 97 %, for
every model, in float32 and in bfloat16. Every miss is a row that says "not met", and the exit code is then 1.
Real Vicuna weights are not at hand. Four models stand in, each with something that they have:

trained     a Llama of 4 layers, trained here on the sources of Python's standard library, one token per byte: a real
            next-token distribution. What it is asked comes from files that it was not trained on.
outliers    the same function with the outlier features of large models (LLM.int8(), arXiv 2208.07339, section 4: six of
            4096 channels, about 20 times the others). They make activations multiply what rounding does to the weights
            behind them: a norm's channel is scaled up and those weights down, and likewise up_proj and down_proj. Among
            256 channels it is one, scaled so that its share of the sum of squares is that of the six. One more channel
            goes the other way: its weights become outliers of their rows, ten times the others.
harsh       the same with several times more outlier energy than LLM.int8() describes: six of the 256 channels 20 times
            the others, two inner ones 100 times, and the weights of one more 20 times the others.
7B width    2 layers of Vicuna-7B's width with random weights: 92.5 % of the rows normal, as in LLaMA-7B (QLoRA, arXiv
            2305.14314, appendix F), the others of heavy tails (Student's t, 5 degrees of freedom); the head is scaled
            until the entropy is about that of text. It shows long sums, not what training makes of a model: its best
            token wins by chance and by little, so that rounding to bfloat16 alone changes 4 % of them.

The head is not quantised (llama_loading.py). To show why, each model is also measured with the head in int8.
Not shown: the error that 32 trained layers add up, and long contexts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "port")]

import port_package  # noqa: F401  the overlay's model files become `port.models`
from llama_folders import write_config, write_shards
from port.models.llama_int8 import dequantise, quantise
from port.models.modeling_vicuna_ascend import LlamaForCausalLM

from benchmarks.int8_models import (
    HARSH,
    SMALL,
    WIDE,
    WINDOW,
    State,
    random_weights,
    sources,
    train,
    windows,
    with_outliers,
)
from benchmarks.results import machine, write

MAX_KL, MIN_SAME = 0.02, 97.0


class Difference(NamedTuple):
    """Between two models, per sequence: KL(first || second) in nats and how often both choose the same token, in %."""

    kl: list[float]
    same: list[float]

    @property
    def near(self) -> bool:
        return sum(self.kl) / len(self.kl) <= MAX_KL

    @property
    def agrees(self) -> bool:
        return sum(self.same) / len(self.same) >= MIN_SAME

    @property
    def passes(self) -> bool:
        return self.near and self.agrees


@torch.no_grad()
def log_probabilities(model: Any, tokens: Tensor) -> Iterator[Tensor]:
    """tokens (B, T) -> (T, V) float32 of each sequence, given its own tokens."""
    for row in tokens:
        yield F.log_softmax(model(input_ids=row[None]).logits[0].float(), dim=-1)


def difference(first: Any, second: Any, tokens: Tensor) -> Difference:
    found = Difference([], [])
    for p, q in zip(log_probabilities(first, tokens), log_probabilities(second, tokens)):
        found.kl.append((p.exp() * (p - q)).sum(-1).mean().item())
        found.same.append(100 * (p.argmax(-1) == q.argmax(-1)).float().mean().item())
    return found


def compare(name: str, config: dict[str, Any], state: State, tokens: Tensor) -> tuple[list[dict[str, Any]], bool]:
    """Rows for one model, and whether int8 passes in float32 and in bfloat16."""
    rows, passes = [], True

    def row(what: str, unit: str, values: list[float], goal: str = "") -> None:
        rows.append({"what": f"{name}: {what}", "unit": unit, "goal": goal, "values": values, "shown": "mean"})

    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder), **config)
        write_shards(Path(folder), state, 2)
        full = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
        row("entropy of the next token, float32", "nats", entropies(full, tokens))
        for dtype in (torch.float32, torch.bfloat16):
            short = str(dtype).removeprefix("torch.")
            int8 = LlamaForCausalLM.from_pretrained(folder, torch_dtype=dtype, load_in_8bit=True)
            found = difference(full, int8, tokens)
            passes = passes and found.passes
            near = f"mean <= {MAX_KL}: {'met' if found.near else 'not met'}"
            same = f"mean >= {MIN_SAME:.0f}: {'met' if found.agrees else 'not met'}"
            row(f"KL of int8 in {short} to float32", "nats", found.kl, near)
            row(f"same best token, int8 in {short} and float32", "%", found.same, same)
            if dtype == torch.float32:
                int8.lm_head.weight.copy_(dequantise(*quantise(int8.lm_head.weight), dtype))
                found = difference(full, int8, tokens)
                row("for comparison, KL with the head in int8 too, float32", "nats", found.kl)
                row("for comparison, same best token with the head in int8 too, float32", "%", found.same)
        rounded = difference(full, LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.bfloat16), tokens)
        row("for comparison, KL of bfloat16 alone to float32", "nats", rounded.kl)
        row("for comparison, same best token, bfloat16 alone and float32", "%", rounded.same)
    return rows, passes


def entropies(model: Any, tokens: Tensor) -> list[float]:
    return [-(p.exp() * p).sum(-1).mean().item() for p in log_probabilities(model, tokens)]


def quantising() -> dict[str, Any]:
    """Seconds per gigabyte of float16 weights, as files hold them."""
    weight, values = torch.randn(11008, 4096).half(), []
    for _ in range(7):
        start = time.perf_counter()
        quantise(weight)
        values.append((time.perf_counter() - start) / (weight.nbytes / 1e9))
    what = f"quantise float16 weights while loading, {torch.get_num_threads()} threads"
    return {"what": what, "unit": "s/GB", "goal": "", "values": values}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=350, help="of training (%(default)s)")
    arguments = parser.parse_args()
    trained_on, asked = sources()
    generator = torch.Generator().manual_seed(1)
    tokens = windows(asked, 32, generator)
    small = {**SMALL, "rms_norm_eps": 1e-5}
    state = train(trained_on, arguments.steps)
    random_tokens = torch.randint(WIDE["vocab_size"], (4, WINDOW), generator=generator)
    harsh = "harsh, several times more outlier energy than LLM.int8() describes"
    models = (
        ("trained", small, state, tokens),
        ("outliers", small, with_outliers(state, SMALL["num_hidden_layers"]), tokens),
        (harsh, small, with_outliers(state, SMALL["num_hidden_layers"], HARSH), tokens),
        ("7B width, random weights", WIDE, random_weights(WIDE), random_tokens),
    )
    rows, passes = [quantising()], True
    for model in models:
        new, passed = compare(*model)
        rows, passes = rows + new, passes and passed
    write("int8_gate", rows, {**machine(), "torch": torch.__version__, "training steps": str(arguments.steps)})
    for row in rows:
        if row["goal"].endswith("not met"):
            print(f"NOT MET: {row['what']}, {row['goal']}")
    print("The gate is passed." if passes else "The gate is NOT passed.")
    return 0 if passes else 1


if __name__ == "__main__":
    sys.exit(main())
