"""Tiny Llama folders in Hugging Face's layout, written without transformers: the same numbers under every release."""

from __future__ import annotations

import json
from pathlib import Path

import torch

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}


def random_state(config: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights under Hugging Face's names. Norms are not all ones and activations are small: eps then matters."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float, mean: float = 0.0) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * std + mean

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    state = {"model.embed_tokens.weight": normal(config["vocab_size"], hidden, std=0.02)}
    linears = {
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    for layer in range(config["num_hidden_layers"]):
        for name, shape in linears.items():
            state[f"model.layers.{layer}.{name}.weight"] = normal(*shape, std=0.25)
            if config.get("attention_bias" if "attn" in name else "mlp_bias"):
                state[f"model.layers.{layer}.{name}.bias"] = normal(shape[0], std=0.1)
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"model.layers.{layer}.{name}.weight"] = normal(hidden, std=0.3, mean=1.0)
    state["model.norm.weight"] = normal(hidden, std=0.3, mean=1.0)
    if not config["tie_word_embeddings"]:
        state["lm_head.weight"] = normal(config["vocab_size"], hidden, std=0.3)
    return state


def write_folder(folder: Path, seed: int = 0, shards: int = 2, **changes: object) -> Path:
    """config.json, generation_config.json and `shards` .bin files with their index."""
    config = write_config(folder, **changes)
    write_shards(folder, random_state(config, seed), shards)
    return folder


def write_config(folder: Path, **changes: object) -> dict:
    """config.json and generation_config.json of TINY with these changes; returns the former."""
    config = {**TINY, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(special))
    return config


def write_shards(folder: Path, state: dict[str, torch.Tensor], shards: int) -> None:
    names = list(state)
    weight_map = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = {name: state[name] for name in names[number::shards]}
        torch.save(part, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
