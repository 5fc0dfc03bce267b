"""The port under test: what it computes at every stage for one picture and one question.

PatchedUpstream is the workspace that apply.py made, driven through run_predict.py and upstream's Chat, as a user
drives it. OverlayAlone needs no upstream: our encoder and our decoder with Hugging Face's Q-Former between them.
Both run the real code path once and record what passes from one part to the next.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from verification.weights import WeightFiles

Parameters = dict[str, Mapping[str, Tensor]]  # YAML key -> name in the file -> what the model holds


@dataclass(frozen=True)
class Encoded:
    """features (1, 257, 1408); queries (1, 32, hidden), None without a Q-Former; embeddings (1, N, llama)."""

    features: Tensor
    queries: Tensor | None
    embeddings: Tensor


class PatchedUpstream:
    """A workspace in this process. One per process: Python can import only one `minigpt4`."""

    qformer_is_reference = False

    def __init__(
        self,
        workspace: Path,
        cfg_path: str,
        files: WeightFiles,
        device: str,
        others: Mapping[str, Path],
        int8: bool = False,
    ) -> None:
        """others: YAML key -> path, instead of what the YAML says; of an untouched configuration none."""
        self.files, self.int8 = files, int8
        sys.path.insert(0, str(workspace))
        run_predict = importlib.import_module("run_predict")
        with contextlib.redirect_stdout(sys.stderr):  # upstream prints its progress
            self.device = run_predict.pick_device(device)
            config = run_predict.read_config(argparse.Namespace(cfg_path=str(workspace / cfg_path), options=None))
            for key, path in others.items():
                config.model_cfg[key] = str(path)
            config.model_cfg.low_resource = int8  # whatever the YAML says: int8 has limits of its own
            self.chat, self.conversation = run_predict.build_chat(config, self.device)
        self.model = self.chat.model
        self.dtype: torch.dtype = self.model.llama_model.dtype

    def operations(self) -> str:
        """Which of the decoder's operations are fused on this device, in a sentence."""
        return importlib.import_module("minigpt4.models.ops_check").describe(self.device)

    def pixels(self, path: Path) -> Tensor:
        """(1, 3, S, S): what upstream's own processor makes of the file."""
        with Image.open(path) as picture:
            return self.chat.vis_processor(picture.convert("RGB")).unsqueeze(0).to(self.device)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Encoded:
        """One call of encode_img, listening at the encoder and at the projection."""
        features: list[Tensor] = []
        projected: list[Tensor] = []
        encoder = self.model.visual_encoder

        def listen(images: Tensor) -> Tensor:
            features.append(encoder(images))
            return features[-1]

        hook = self.model.llama_proj.register_forward_hook(lambda _, taken, given: projected.append(taken[0]))
        self.model.visual_encoder = listen
        try:
            embeddings, _ = self.model.encode_img(pixels)
        finally:
            self.model.visual_encoder = encoder
            hook.remove()
        queries = projected[0] if projected and self.files.q_former_model else None
        return Encoded(features[0], queries, embeddings)

    @torch.no_grad()
    def prompt(self, question: str, embeddings: Tensor) -> Tensor:
        """(1, T, hidden): the conversation with the picture in its place."""
        return self._options(question, embeddings, 1)["inputs_embeds"]

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """(1, len(ids), hidden)"""
        return self.model.embed_tokens(torch.tensor([list(ids)], device=self.device))

    @torch.no_grad()
    def logits(self, prompt: Tensor, ids: tuple[int, ...]) -> Tensor:
        """(1, T + len(ids), vocabulary): the prompt and then `ids`, whatever the model itself would have said."""
        return decoder_logits(self.model.llama_model, self.model.embed_tokens, prompt, ids)

    @torch.no_grad()
    def greedy(self, prompt: Tensor, max_new_tokens: int) -> tuple[int, ...]:
        with self.model.maybe_autocast():
            return greedy_ids(self.model.llama_model, prompt, max_new_tokens)

    @torch.no_grad()
    def decode(self, prompt: Tensor, ids: tuple[int, ...]) -> Tensor:
        """(1, len(ids), vocabulary): what generate chooses each token from, when it is made to choose `ids`."""
        with self.model.maybe_autocast():
            return forced_logits(self.model.llama_model, prompt, ids)

    @torch.no_grad()
    def answer(self, question: str, embeddings: Tensor, max_new_tokens: int, seed: int | None = None) -> Answer:
        """With upstream's stop words; greedy, or sampled from `seed` as run_predict.py and upstream's demo do."""
        options = self._options(question, embeddings, max_new_tokens)
        if seed is None:  # answer_prepare always asks for sampling
            options["do_sample"] = False
        with seeded(self.device, seed):
            ids = self.chat.model_generate(**options)[0].tolist()
        return read_answer(self.model.llama_tokenizer, ids)

    def parameters(self) -> Parameters:
        return {
            "llama_model": Held(self.model, "llama_model.", strip="llama_model."),
            "q_former_model": Held(self.model, "Qformer.bert.", "query_tokens"),
            "ckpt": Held(self.model, "llama_proj."),
            "encoder": eager_parameters(self.model.visual_encoder),
        }

    def _options(self, question: str, embeddings: Tensor, max_new_tokens: int) -> dict[str, Any]:
        conversation = self.conversation.copy()
        self.chat.upload_img(None, conversation, [])
        self.chat.ask(question, conversation)
        return self.chat.answer_prepare(conversation, [embeddings], max_new_tokens=max_new_tokens)


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


def eager_parameters(encoder: Any) -> Mapping[str, Tensor]:
    """The encoder's tensors by their names in the files; empty for an .onnx or .om, which hold them inside."""
    model = getattr(getattr(encoder, "_runner", None), "model", None)
    return Held(model) if isinstance(model, torch.nn.Module) else {}
