"""An independent MiniGPT-4, put together from Hugging Face parts: the reference that the port is measured against.

It shares no code with upstream, with the patches or with the overlay: it reads the same weight files, renames their
keys and runs Blip2VisionModel, Blip2QFormerModel and LlamaForCausalLM in float32 on the CPU. The names on the right
of the maps below are stable from transformers 4.30.2 to 5.x.

Build one part, use it, drop it. The language model is in oracle_decoder.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor, nn

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, blip_processors.py:22-24
STD = (0.26862954, 0.26130258, 0.27577711)

SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)
TEMPLATES = {  # upstream's conversation.py:106-124 with one picture and one question
    "pretrain_vicuna0": SYSTEM + "###Human: <Img><ImageHere></Img> {question}###Assistant: ",
    "pretrain_llama2": SYSTEM + "<s>[INST] <Img><ImageHere></Img> {question} [/INST] ",
}


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file, under `model` where the file has that level; nothing in the file is executed."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("model", state)


def process(path: Path, size: int = 224) -> Tensor:
    """A picture file as the model sees it: (3, size, size) float32, RGB, bicubic, normalised."""
    with Image.open(path) as picture:
        pixels = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    values = numpy.asarray(pixels, dtype=numpy.float32).transpose(2, 0, 1) / 255.0
    mean, std = (numpy.array(row, dtype=numpy.float32).reshape(3, 1, 1) for row in (MEAN, STD))
    return torch.from_numpy((values - mean) / std)


class Encoder:
    """ViT-g and ln_vision: (B, 3, S, S) -> (B, tokens, width) by Blip2VisionModel."""

    def __init__(self, vit_weights: Path, blip2: Path | None, dtype: torch.dtype = torch.float32) -> None:
        from transformers import Blip2VisionConfig, Blip2VisionModel

        state = read_state(vit_weights)
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        blocks = len({key.split(".")[1] for key in state if key.startswith("blocks.")}) - 1  # BLIP-2 drops the last
        config = Blip2VisionConfig(
            hidden_size=width,
            intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=blocks,
            num_attention_heads=width // 88,
            image_size=int((state["pos_embed"].shape[1] - 1) ** 0.5) * patch,
            patch_size=patch,
            hidden_act="gelu",
            layer_norm_eps=1e-6,
            attention_dropout=0.0,
        )
        self.model = Blip2VisionModel(config).float().eval()
        renamed = {name: tensor.float() for name, tensor in rename_vit(state, blocks).items()}
        renamed.update(ln_vision(blip2, width))
        # Hugging Face uses one epsilon for all norms; ln_vision is a plain torch LayerNorm (base_model.py:237).
        self.model.post_layernorm.eps = 1e-5
        load_exactly(self.model, renamed, vit_weights)
        self.model.to(dtype)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels.to("cpu", self.model.dtype)).last_hidden_state


def rename_vit(state: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """eva_vit_g.pth -> Blip2VisionModel, for the first `blocks` blocks."""
    renamed = {
        "embeddings.class_embedding": state["cls_token"],
        "embeddings.position_embedding": state["pos_embed"],
        "embeddings.patch_embedding.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": state["patch_embed.proj.bias"],
    }
    for index in range(blocks):
        old, new = f"blocks.{index}.", f"encoder.layers.{index}."
        for end in ("weight", "bias"):
            renamed[f"{new}layer_norm1.{end}"] = state[f"{old}norm1.{end}"]
            renamed[f"{new}layer_norm2.{end}"] = state[f"{old}norm2.{end}"]
            renamed[f"{new}self_attn.projection.{end}"] = state[f"{old}attn.proj.{end}"]
            renamed[f"{new}mlp.fc1.{end}"] = state[f"{old}mlp.fc1.{end}"]
            renamed[f"{new}mlp.fc2.{end}"] = state[f"{old}mlp.fc2.{end}"]
        query, value = state[old + "attn.q_bias"], state[old + "attn.v_bias"]
        renamed[f"{new}self_attn.qkv.weight"] = state[old + "attn.qkv.weight"]
        renamed[f"{new}self_attn.qkv.bias"] = torch.cat((query, torch.zeros_like(query), value))  # keys have no bias
    return renamed


def ln_vision(blip2: Path | None, width: int) -> dict[str, Tensor]:
    """post_layernorm; without a Q-Former file (Llama-2's stage) upstream leaves ln_vision at its default."""
    if blip2 is None:
        return {"post_layernorm.weight": torch.ones(width), "post_layernorm.bias": torch.zeros(width)}
    state = read_state(blip2)
    return {f"post_layernorm.{end}": state[f"ln_vision.{end}"].float() for end in ("weight", "bias")}


class QFormer:
    """Query tokens that look at the picture: (B, tokens, width) -> (B, queries, hidden) by Blip2QFormerModel."""

    def __init__(self, blip2: Path, bert: Path, dtype: torch.dtype = torch.float32) -> None:
        from transformers import BertConfig, Blip2QFormerConfig, Blip2QFormerModel

        state, sizes = read_state(blip2), BertConfig.from_pretrained(str(bert))
        renamed = {
            rename_qformer(key): tensor.float()
            for key, tensor in state.items()
            if key.startswith("Qformer.bert.") and not key.endswith(".position_ids")
        }
        config = Blip2QFormerConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            num_hidden_layers=sizes.num_hidden_layers,
            num_attention_heads=sizes.num_attention_heads,
            intermediate_size=sizes.intermediate_size,
            hidden_act="gelu",
            layer_norm_eps=1e-12,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            cross_attention_frequency=2,
            encoder_hidden_size=state["Qformer.bert.encoder.layer.0.crossattention.self.key.weight"].shape[1],
        )
        self.model = Blip2QFormerModel(config).float().eval()
        load_exactly(self.model, renamed, blip2)
        self.model.to(dtype)
        self.queries = state["query_tokens"].to(dtype)

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        features = features.to("cpu", self.queries.dtype)
        return self.model(
            query_embeds=self.queries.expand(len(features), -1, -1),
            encoder_hidden_states=features,
            encoder_attention_mask=torch.ones(features.shape[:2], dtype=torch.long),
        ).last_hidden_state


def rename_qformer(key: str) -> str:
    """blip2_pretrained_flant5xxl.pth -> Blip2QFormerModel."""
    key = key[len("Qformer.bert.") :].replace("embeddings.LayerNorm", "layernorm")
    return key.replace(".attention.self.", ".attention.attention.").replace(
        ".crossattention.self.", ".crossattention.attention."
    )


class Projection:
    """llama_proj: (B, queries, hidden) -> (B, queries, llama); without a Q-Former (B, 257, 1408) -> (B, 64, llama)."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype = torch.float32) -> None:
        state = read_state(checkpoint)
        self.weight, self.bias = state["llama_proj.weight"].to(dtype), state["llama_proj.bias"].to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to("cpu", self.weight.dtype)
        if x.shape[-1] != self.weight.shape[1]:  # minigpt4.py:139-143: no class token, four neighbours side by side
            x = x[:, 1:].reshape(len(x), -1, 4 * x.shape[-1])
        return nn.functional.linear(x, self.weight, self.bias)


def tokenize(tokenizer_model: Path, text: str) -> list[int]:
    """Ids of `text` by sentencepiece alone; "<s>" is the BOS id, as in Hugging Face's slow tokenizer of 4.x."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_model))
    ids: list[int] = []
    for number, part in enumerate(text.split("<s>")):
        ids += [pieces.bos_id()] if number else []
        ids += pieces.encode(part)
    return ids


def load_exactly(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Every parameter from the file and every renamed key used: the reference must not have a hole of its own."""
    result = model.load_state_dict(state, strict=False)
    missing = [key for key in result.missing_keys if not key.endswith("position_ids")]
    if missing or result.unexpected_keys:
        raise ValueError(f"{path}: the reference lacks {missing[:3]} and cannot place {result.unexpected_keys[:3]}")
