"""The port under test where upstream cannot be reached: our encoder and decoder, Hugging Face's Q-Former between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from verification import oracle
from verification.decoding import (
    SAMPLING,
    Answer,
    decoder_logits,
    forced_logits,
    generated_ids,
    greedy_ids,
    read_answer,
    seeded,
)
from verification.held import Held
from verification.overlay_modules import import_overlay
from verification.port import Encoded, Parameters, eager_parameters
from verification.weights import WeightFiles


class OverlayAlone:
    """Our encoder, Hugging Face's Q-Former, our decoder: what can be shown where upstream cannot be reached."""

    qformer_is_reference = True

    def __init__(self, overlay: Path, files: WeightFiles, device: str, int8: bool = False) -> None:
        import transformers

        self.files, self.int8, self.parts = files, int8, import_overlay(overlay)
        self.device = self.parts("models.device").resolve_device(device)
        self.dtype: torch.dtype = self.parts("models.device").compute_dtype(self.device)
        self.encoder = self.parts("models.image_encoder").IMAGE_ENCODER_OM(
            files.encoder, self.device, ln_vision=files.q_former_model
        )
        self.qformer = oracle.QFormer(files.q_former_model, files.bert) if files.q_former_model and files.bert else None
        self.projection = oracle.Projection(files.ckpt)
        self.decoder = self.parts("models.modeling_vicuna_ascend").LlamaForCausalLM.from_pretrained(
            files.llama_model, torch_dtype=self.dtype, device_map={"": self.device}, load_in_8bit=int8
        )
        self.tokenizer = transformers.LlamaTokenizer.from_pretrained(
            str(files.llama_model),
            use_fast=False,
            legacy=True,  # as patch 0015
        )
        steps = self.parts("processors.pil_transforms")
        self.processor = steps.Compose(
            [
                steps.Resize((224, 224), interpolation=steps.InterpolationMode.BICUBIC),
                steps.ToTensor(),
                steps.Normalize(oracle.MEAN, oracle.STD),
            ]
        )

    def operations(self) -> str:
        return self.parts("models.ops_check").describe(self.device)

    def pixels(self, path: Path) -> Tensor:
        with Image.open(path) as picture:
            return self.processor(picture.convert("RGB")).unsqueeze(0)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Encoded:
        features = self.encoder.encode(pixels)
        queries = self.qformer(features) if self.qformer else None
        return Encoded(features, queries, self.projection(features if queries is None else queries))

    @torch.no_grad()
    def prompt(self, question: str, embeddings: Tensor) -> Tensor:
        segments = oracle.TEMPLATES[self.files.model_type].format(question=question).split("<ImageHere>")
        embedded = []
        for number, text in enumerate(segments):
            ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=number == 0).input_ids
            embedded.append(self.decoder.base_model.embed_tokens(ids.to(self.device)))
        return torch.cat((embedded[0], embeddings.to(embedded[0]), embedded[1]), dim=1)

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        return self.decoder.base_model.embed_tokens(torch.tensor([list(ids)], device=self.device))

    @torch.no_grad()
    def logits(self, prompt: Tensor, ids: tuple[int, ...]) -> Tensor:
        return decoder_logits(self.decoder, self.decoder.base_model.embed_tokens, prompt, ids)

    @torch.no_grad()
    def greedy(self, prompt: Tensor, max_new_tokens: int) -> tuple[int, ...]:
        return greedy_ids(self.decoder, prompt, max_new_tokens)

    @torch.no_grad()
    def decode(self, prompt: Tensor, ids: tuple[int, ...]) -> Tensor:
        return forced_logits(self.decoder, prompt, ids)

    @torch.no_grad()
    def answer(self, question: str, embeddings: Tensor, max_new_tokens: int, seed: int | None = None) -> Answer:
        """Greedy, or sampled from `seed`; the overlay's stop words end it, as they do in upstream's Chat."""
        stops = self.parts("models.answer_stream").stop_ids(self.tokenizer)
        prompt = self.prompt(question, embeddings)

        def stop(ids: Tensor, _: Any) -> bool:
            return any(ids[0, -len(word) :].tolist() == word for word in stops)

        drawn: dict[str, Any] = {"do_sample": False} if seed is None else {"do_sample": True, **SAMPLING}
        with seeded(self.device, seed):
            ids = generated_ids(self.decoder, prompt, max_new_tokens, stopping_criteria=[stop], **drawn)
        return read_answer(self.tokenizer, list(ids))

    def parameters(self) -> Parameters:
        return {
            "llama_model": Held(self.decoder),
            "ckpt": {"llama_proj.weight": self.projection.weight, "llama_proj.bias": self.projection.bias},
            "encoder": eager_parameters(self.encoder),
        }
