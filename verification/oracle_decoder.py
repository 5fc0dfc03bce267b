"""The reference's language model: Hugging Face's LlamaForCausalLM on the CPU, whole or layer by layer.

A 7B model in float32 needs 27 GB. Streamed, it needs one layer at a time (0.8 GB): the model is made without memory for
its weights, and every part that has some reads them from the files just before it runs. So each pass reads the whole
model once; that is why prompts are decoded as one batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verification.oracle import TEMPLATES, tokenize
from verification.shards import Shards


@dataclass(frozen=True)
class Greedy:
    """Ids by greedy decoding; margins[i] is how far the first logit was above the second when ids[i] was chosen."""

    ids: tuple[int, ...]
    margins: tuple[float, ...]


class Decoder:
    """The prompt and the language model."""

    def __init__(
        self, folder: Path, model_type: str, dtype: torch.dtype = torch.float32, streamed: bool = False
    ) -> None:
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.template = TEMPLATES[model_type]
        self.tokenizer_model = folder / "tokenizer.model"
        self.pieces = count_pieces(self.tokenizer_model)  # tokens that have a text: Vicuna v0's 32000 of 32001 rows
        self.model = _filled(folder, dtype, streamed)

    def prompt_ids(self, question: str) -> tuple[list[int], list[int]]:
        """Before and after the picture. Only the first segment gets a BOS (minigpt_base.py:80-84)."""
        before, after = self.template.format(question=question).split("<ImageHere>")
        return [1, *tokenize(self.tokenizer_model, before)], tokenize(self.tokenizer_model, after)

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """(1, T, hidden)"""
        return self.model.get_input_embeddings()(torch.tensor([list(ids)], dtype=torch.long))

    def prompt(self, question: str, picture: Tensor) -> Tensor:
        """picture: (1, N, hidden) -> (1, T, hidden)."""
        before, after = map(self.embed, self.prompt_ids(question))
        return torch.cat((before, picture.to(before), after), dim=1)

    @torch.no_grad()
    def logits(self, embeddings: Tensor, keep: int | None = None) -> Tensor:
        """(B, T, hidden) -> (B, T, vocabulary), or of the last `keep` positions only, in float32."""
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        hidden = self.model.model(inputs_embeds=embeddings.to("cpu", self.model.dtype), attention_mask=mask)[0]
        return self.model.lm_head(hidden if keep is None else hidden[:, -keep:]).float()

    @torch.no_grad()
    def greedy(self, embeddings: Tensor, max_new_tokens: int, progress: Any = None) -> list[Greedy]:
        """(B, T, hidden) -> one text for each. A plain loop: every transformers' `generate` gives other ids back.

        progress: called with the number of tokens once they are there.
        """
        chosen: list[Tensor] = []
        margins: list[Tensor] = []
        past, step = None, {"inputs_embeds": embeddings.to("cpu", self.model.dtype)}
        done = torch.zeros(len(embeddings), dtype=torch.bool)
        while len(chosen) < max_new_tokens and not done.all():
            mask = torch.ones((len(embeddings), embeddings.shape[1] + len(chosen)), dtype=torch.long)
            output = self.model.model(**step, attention_mask=mask, past_key_values=past, use_cache=True)
            best = self.model.lm_head(output[0][:, -1]).float()[:, : self.pieces].topk(2)
            chosen.append(best.indices[:, 0])
            margins.append(best.values[:, 0] - best.values[:, 1])
            done |= chosen[-1] == self.model.config.eos_token_id
            past, step = output.past_key_values, {"input_ids": chosen[-1][:, None]}
            if progress:
                progress(1)
        return [self._until_end(ids, gaps) for ids, gaps in zip(torch.stack(chosen, 1), torch.stack(margins, 1))]

    def _until_end(self, ids: Tensor, margins: Tensor) -> Greedy:
        end = (ids == self.model.config.eos_token_id).nonzero()
        length = int(end[0]) + 1 if len(end) else len(ids)
        return Greedy(tuple(ids[:length].tolist()), tuple(margins[:length].tolist()))


def count_pieces(tokenizer_model: Path) -> int:
    import sentencepiece

    return int(sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_model)).get_piece_size())


def _filled(folder: Path, dtype: torch.dtype, streamed: bool) -> Any:
    """A LlamaForCausalLM; streamed, its weights are there only while the module that owns them runs.

    Not by from_pretrained, which makes up what the files lack and needs room for the model and a whole shard.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shards = Shards(folder)
    with _no_parameters():
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(str(folder))).eval()
    shards.check({name: tuple(parameter.shape) for name, parameter in model.named_parameters()})
    if streamed:
        _stream(model, shards, dtype)
    else:
        tensors = {name: torch.empty(p.shape, dtype=dtype) for name, p in model.named_parameters()}
        shards.read(tensors)
        for name, tensor in tensors.items():
            _replace(model, name, tensor)
    return model


def _stream(model: Any, shards: Shards, dtype: torch.dtype) -> None:
    """Layers take turns in the same buffers: new ones for each would cost four times as long as reading them does."""
    buffers: dict[tuple[str, torch.Size], Tensor] = {}
    layers = {f"model.layers.{index}": layer for index, layer in enumerate(model.model.layers)}
    others = {"model.embed_tokens": model.model.embed_tokens, "model.norm": model.model.norm, "lm_head": model.lm_head}
    for name, module in {**layers, **others}.items():
        shapes = {key: parameter.shape for key, parameter in module.named_parameters()}

        def fill(module: nn.Module, *_: Any, name: str = name, shapes: dict[str, torch.Size] = shapes) -> None:
            for key, shape in shapes.items():
                if (key, shape) not in buffers:
                    buffers[key, shape] = torch.empty(shape, dtype=dtype)
            shards.read({f"{name}.{key}": buffers[key, shape] for key, shape in shapes.items()})
            for key, shape in shapes.items():
                _replace(module, key, buffers[key, shape])

        def drop(module: nn.Module, *_: Any, shapes: dict[str, torch.Size] = shapes) -> None:
            for key, shape in shapes.items():
                _replace(module, key, torch.empty(shape, dtype=dtype, device="meta"))

        module.register_forward_pre_hook(fill)
        module.register_forward_hook(drop)
        drop(module)


def _replace(module: nn.Module, key: str, tensor: Tensor) -> None:
    *path, name = key.split(".")
    owner = module.get_submodule(".".join(path))
    owner._parameters[name] = nn.Parameter(tensor, requires_grad=False)


@contextlib.contextmanager
def _no_parameters() -> Iterator[None]:
    """Modules made here have their parameters on the meta device, before anything fills them; buffers are real."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
