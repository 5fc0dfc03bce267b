"""The models that benchmarks/int8_gate.py asks, described at its top: one is trained here, the others are made."""

from __future__ import annotations

import math
import sysconfig
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

WINDOW = 256  # tokens per sequence
SMALL = {
    "vocab_size": 256,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": WINDOW,
}
WIDE = {
    "vocab_size": 8000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": WINDOW,
}
State = dict[str, Tensor]


def sources() -> tuple[Tensor, Tensor]:
    """Bytes of the standard library, as int64: what to train on, and what to ask about (every twentieth file)."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_bytes() for path in sorted(folder.glob("*.py")) + sorted(folder.glob("*/*.py"))[:400]]
    asked, trained = b"".join(texts[::20]), b"".join(text for i, text in enumerate(texts) if i % 20)
    return (torch.frombuffer(bytearray(text), dtype=torch.uint8).long() for text in (trained, asked))


def windows(text: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, WINDOW) from random places"""
    starts = torch.randint(len(text) - WINDOW, (count, 1), generator=generator)
    return text[starts + torch.arange(WINDOW)]


def train(text: Tensor, steps: int) -> State:
    """AdamW with a cosine schedule; the model is Hugging Face's, ours never has gradients."""
    from transformers import LlamaConfig
    from transformers import LlamaForCausalLM as HuggingFace

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = HuggingFace(LlamaConfig(**SMALL, rms_norm_eps=1e-5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(steps):
        rate = 2e-3 * min(1.0, (step + 1) / 50) * (0.05 + 0.95 * math.cos(step / steps * math.pi / 2) ** 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = windows(text, 8, generator)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}, loss {loss.item():.2f}", flush=True)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


class Outliers(NamedTuple):
    """What with_outliers scales: channels behind norms and behind up_proj, each with its factor, and one by weights."""

    channels: int
    factor: float
    inner: int
    inner_factor: float
    weights: float


PUBLISHED = Outliers(1, 20 * math.sqrt(6 / 4096 * 256), 1, 20 * math.sqrt(6 / 4096 * 688), 10.0)
HARSH = Outliers(6, 20.0, 2, 100.0, 20.0)


def with_outliers(state: State, layers: int, outliers: Outliers = PUBLISHED) -> State:
    """The same function; see the top of this file."""
    state = {name: tensor.clone() for name, tensor in state.items()}
    behind = {
        "input_layernorm.weight": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm.weight": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.up_proj.weight": ("mlp.down_proj",),
    }
    pairs = [("model.norm.weight", ["lm_head.weight"])]
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        pairs += [(prefix + first, [f"{prefix}{name}.weight" for name in names]) for first, names in behind.items()]
    for first, linears in pairs:
        width = len(state[first])
        inner = first.endswith("up_proj.weight")
        count, up = (outliers.inner, outliers.inner_factor) if inner else (outliers.channels, outliers.factor)
        channels = torch.tensor([*(3 + i * (width // (count + 1)) for i in range(count)), width - 5])
        factor = torch.tensor([up] * count + [1 / outliers.weights])
        state[first][channels] *= factor.view(-1, *[1] * (state[first].dim() - 1))
        for linear in linears:
            state[linear][:, channels] /= factor
    return state


def random_weights(config: dict[str, int]) -> State:
    """Weights of the given shape, each product keeping the variance; float16 values, as in files."""
    tails = torch.distributions.StudentT(5.0)
    torch.manual_seed(0)

    def linear(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        weight = torch.randn(rows, columns)
        odd = torch.rand(rows) < 0.075
        weight[odd] = tails.sample((int(odd.sum()), columns)) / math.sqrt(tails.variance)
        return (weight * (gain / math.sqrt(columns))).half()

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    state = {"model.embed_tokens.weight": linear(config["vocab_size"], hidden) * math.sqrt(hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            state[f"{prefix}self_attn.{name}.weight"] = linear(hidden, hidden)
        for name, shape in {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}.items():
            state[f"{prefix}mlp.{name}_proj.weight"] = linear(*shape)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            state[f"{prefix}{norm}.weight"] = torch.ones(hidden)
    head = linear(config["vocab_size"], hidden, 5.0)  # among 8000 tokens, about 2 nats
    return {**state, "model.norm.weight": torch.ones(hidden), "lm_head.weight": head}
