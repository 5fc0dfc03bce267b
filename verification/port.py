"""The port under test: what it computes at every stage for one picture and one question.

PatchedUpstream is the workspace that apply.py made, driven through run_predict.py and upstream's Chat, as a user
drives it; what passes from one part to the next is recorded on the way. overlay_alone.py answers the same calls where
upstream cannot be reached.
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

from verification.decoding import (
    Answer,
    decoder_logits,
    forced_logits,
    greedy_ids,
    read_answer,
    seeded,
)
from verification.held import Held
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


def eager_parameters(encoder: Any) -> Mapping[str, Tensor]:
    """The encoder's tensors by their names in the files; empty for an .onnx or .om, which hold them inside."""
    model = getattr(getattr(encoder, "_runner", None), "model", None)
    return Held(model) if isinstance(model, torch.nn.Module) else {}
