"""The numbers of the synthetic weights: one function per checkpoint, with the real files' keys and dtypes.

Scales are chosen so that parity means something: attention is far from uniform, a few channels are outliers as in
real ViTs and Llamas, and the inputs of the norms are small enough for a wrong epsilon to show.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VIT = {"width": 1408, "mlp": 256, "blocks": 3, "tokens": 257, "patch": 14}
BERT = {"hidden": 192, "layers": 4, "heads": 6, "mlp": 384, "queries": 32}
LLM = {"hidden": 256, "layers": 4, "heads": 4, "mlp": 688}


class Tensors:
    """Normal numbers from (seed, name) alone: neither the order of calls nor the torch version matters."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def normal(self, name: str, shape: tuple[int, ...], std: float, mean: float = 0.0) -> torch.Tensor:
        """float32 tensor of `shape`."""
        import numpy
        import torch

        stream = numpy.random.Generator(numpy.random.PCG64([self.seed, zlib.crc32(name.encode())]))
        values = stream.standard_normal(shape, dtype=numpy.float32)
        return torch.from_numpy(values * numpy.float32(std) + numpy.float32(mean))

    def linear(self, name: str, out: int, width: int, gain: float = 1.0) -> torch.Tensor:
        """(out, width) weight that maps unit variance to variance gain²."""
        return self.normal(name, (out, width), gain / width**0.5)

    def writer(self, name: str, out: int, width: int, gain: float) -> torch.Tensor:
        """A linear that writes to the residual stream; a few of its output channels are outliers (x 30)."""
        weight = self.linear(name, out, width, gain)
        weight[outliers(out)] *= 30.0
        return weight

    def norm(self, name: str, width: int, last: bool = False) -> torch.Tensor:
        """(width,) norm weight around 1, two channels scaled up; the last norm of a stack damps the outliers, as
        trained models do, or they would drown everything else."""
        weight = self.normal(name, (width,), 0.15, mean=1.0)
        weight[[7, width // 3]] *= 3.0
        if last:
            weight[outliers(width)] *= 0.03
        return weight


def outliers(width: int) -> list[int]:
    return [3, width // 2, width - 5]


def eva_vit(make: Tensors) -> dict[str, torch.Tensor]:
    """Flat fp16 state dict of eva_vit_g.pth: `norm` and `head` are in the file and belong to no module of the model."""
    width, mlp = VIT["width"], VIT["mlp"]
    state = {
        "cls_token": make.normal("vit.cls", (1, 1, width), 0.05),
        "pos_embed": make.normal("vit.pos", (1, VIT["tokens"], width), 0.03),
        "patch_embed.proj.weight": make.normal("vit.patch", (width, 3, VIT["patch"], VIT["patch"]), 0.002),
        "patch_embed.proj.bias": make.normal("vit.patch.bias", (width,), 0.01),
    }
    for index in range(VIT["blocks"]):
        block = f"blocks.{index}."
        for norm in ("norm1", "norm2"):
            state[f"{block}{norm}.weight"] = make.norm(f"vit.{block}{norm}", width)
            state[f"{block}{norm}.bias"] = make.normal(f"vit.{block}{norm}.bias", (width,), 0.05)
        state[block + "attn.q_bias"] = make.normal(f"vit.{block}q_bias", (width,), 0.5)
        state[block + "attn.v_bias"] = make.normal(f"vit.{block}v_bias", (width,), 0.2)
        state[block + "attn.qkv.weight"] = make.linear(f"vit.{block}qkv", 3 * width, width, 1.2)
        state[block + "attn.proj.weight"] = make.writer(f"vit.{block}proj", width, width, 0.05)
        state[block + "attn.proj.bias"] = make.normal(f"vit.{block}proj.bias", (width,), 0.01)
        state[block + "mlp.fc1.weight"] = make.linear(f"vit.{block}fc1", mlp, width)
        state[block + "mlp.fc1.bias"] = make.normal(f"vit.{block}fc1.bias", (mlp,), 0.1)
        state[block + "mlp.fc2.weight"] = make.writer(f"vit.{block}fc2", width, mlp, 0.05)
        state[block + "mlp.fc2.bias"] = make.normal(f"vit.{block}fc2.bias", (width,), 0.01)
    state["norm.weight"] = make.norm("vit.norm", width)
    state["norm.bias"] = make.normal("vit.norm.bias", (width,), 0.05)
    state["head.weight"] = make.linear("vit.head", 16, width)
    state["head.bias"] = make.normal("vit.head.bias", (16,), 0.05)
    return {name: tensor.half() for name, tensor in state.items()}


def blip2(make: Tensors) -> dict[str, torch.Tensor]:
    """fp32 state dict of blip2_pretrained_flant5xxl.pth: the only source of ln_vision; t5_proj is of no use here."""
    import torch

    hidden, mlp, width = BERT["hidden"], BERT["mlp"], VIT["width"]
    state = {
        "query_tokens": make.normal("queries", (1, BERT["queries"], hidden), 0.02),
        "ln_vision.weight": make.norm("ln_vision", width, last=True),
        "ln_vision.bias": make.normal("ln_vision.bias", (width,), 0.1),
        "Qformer.bert.embeddings.position_ids": torch.arange(512).reshape(1, -1),
        "Qformer.bert.embeddings.LayerNorm.weight": make.norm("qformer.ln", hidden),
        "Qformer.bert.embeddings.LayerNorm.bias": make.normal("qformer.ln.bias", (hidden,), 0.05),
    }

    def dense(name: str, out: int, inner: int, gain: float = 1.0) -> None:
        state[name + ".weight"] = make.linear(name, out, inner, gain)
        state[name + ".bias"] = make.normal(name + ".bias", (out,), 0.05)

    def layer_norm(name: str) -> None:
        state[name + ".weight"] = make.norm(name, hidden)
        state[name + ".bias"] = make.normal(name + ".bias", (hidden,), 0.05)

    for index in range(BERT["layers"]):
        layer = f"Qformer.bert.encoder.layer.{index}."
        kinds = {"attention": hidden, "crossattention": width} if index % 2 == 0 else {"attention": hidden}
        for kind, keys in kinds.items():
            dense(f"{layer}{kind}.self.query", hidden, hidden, 2.0)
            dense(f"{layer}{kind}.self.key", hidden, keys, 2.0)
            dense(f"{layer}{kind}.self.value", hidden, keys, 3.0 if kind == "crossattention" else 1.0)
            dense(f"{layer}{kind}.output.dense", hidden, hidden)
            layer_norm(f"{layer}{kind}.output.LayerNorm")
        dense(layer + "intermediate_query.dense", mlp, hidden)
        dense(layer + "output_query.dense", hidden, mlp)
        layer_norm(layer + "output_query.LayerNorm")
    dense("t5_proj", 64, hidden)
    return state


def llama(make: Tensors, name: str, vocabulary: int) -> list[dict[str, torch.Tensor]]:
    """Two fp16 shards of a Hugging Face Llama; like real ones they carry rotary_emb.inv_freq, which loaders ignore."""
    import torch

    hidden, mlp, layers = LLM["hidden"], LLM["mlp"], LLM["layers"]
    head = hidden // LLM["heads"]
    shards: list[dict[str, torch.Tensor]] = [{}, {}]
    shards[0]["model.embed_tokens.weight"] = make.normal(f"{name}.embed", (vocabulary, hidden), 0.03)
    for index in range(layers):
        state = shards[0 if index < layers // 2 else 1]
        layer = f"model.layers.{index}."
        for part, gain in (("q", 1.2), ("k", 1.2), ("v", 1.0)):
            state[f"{layer}self_attn.{part}_proj.weight"] = make.linear(f"{name}.{layer}{part}", hidden, hidden, gain)
        state[layer + "self_attn.o_proj.weight"] = make.writer(f"{name}.{layer}o", hidden, hidden, 0.06)
        state[layer + "mlp.gate_proj.weight"] = make.linear(f"{name}.{layer}gate", mlp, hidden)
        state[layer + "mlp.up_proj.weight"] = make.linear(f"{name}.{layer}up", mlp, hidden)
        state[layer + "mlp.down_proj.weight"] = make.writer(f"{name}.{layer}down", hidden, mlp, 0.06)
        state[layer + "input_layernorm.weight"] = make.norm(f"{name}.{layer}norm1", hidden)
        state[layer + "post_attention_layernorm.weight"] = make.norm(f"{name}.{layer}norm2", hidden)
        state[layer + "self_attn.rotary_emb.inv_freq"] = 10000.0 ** (-torch.arange(0, head, 2).float() / head)
    shards[1]["model.norm.weight"] = make.norm(f"{name}.norm", hidden, last=True)
    shards[1]["lm_head.weight"] = make.linear(f"{name}.head", vocabulary, hidden, 2.5)
    return [
        {key: tensor if key.endswith("inv_freq") else tensor.half() for key, tensor in shard.items()}
        for shard in shards
    ]
