"""From a prompt to tokens: greedy, sampling and beam search, with the answers of transformers 4.57.6."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Callable

import torch
from torch import Tensor

from .answer_stream import end_with
from .device import own_dtype
from .llama_beams import beam_search
from .llama_graph import recorded_step
from .llama_inputs import embed, prompt_mask, token_ids
from .llama_sampling import ScoreShaper, Settings

PREFILL_BYTES = 512 << 20


@torch.no_grad()
def generate(
    model: Any,
    input_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    attention_mask: Tensor | None = None,
    stopping_criteria: Any = None,
    logits_processor: Any = None,
    streamer: Any = None,
    **options: Any,
) -> Tensor:
    """Continue each prompt; returns ids (B, T) int64, rows that ended early filled with the padding id.

    Give input_ids (B, T), and the prompt is part of the result, or inputs_embeds (B, T, C), and it is not.
    attention_mask (B, T): 0 for padding, which stands on the left; left out, it is found from pad_token_id.
    stopping_criteria: callables (ids, scores) -> bool, or a (B,) bool tensor. streamer: as Hugging Face's; when
    generation fails, the thread that iterates over it gets the exception after the text so far, instead of waiting
    for ever; it is also left in `streamer.error`. options: the fields of llama_sampling.Settings; what is left out
    comes from generation_config.json.
    """
    try:
        with own_dtype(model.device):
            settings = Settings.for_call(model.config, model.generation_defaults, options)
            embeds = embed(model, input_ids, inputs_embeds)
            # The ids that the result begins with: a prompt of embeddings has none.
            prompt = embeds.new_zeros(len(embeds), 0).long() if input_ids is None else token_ids(model, input_ids)
            mask = prompt_mask(model, prompt, embeds, attention_mask, settings)
            max_length, min_length = _lengths(model.config, settings, prompt, embeds, options)
            capacity = embeds.shape[1] + max_length - prompt.shape[1]
            shape = ScoreShaper(settings, min_length, _as_list(logits_processor))
            stop = Stop(max_length, settings.eos, _as_list(stopping_criteria), model.device)
            if settings.num_beams > 1 and streamer is not None:
                raise ValueError("A streamer cannot show beam search: use num_beams=1.")
            run = Run(model, embeds, mask, capacity, record=settings.num_beams == 1)
            try:
                if settings.num_beams == 1:
                    return _one_by_one(run, prompt, settings, shape, stop, streamer)
                return beam_search(run, prompt, settings, shape, stop, max_length)
            finally:
                run.end()
    except BaseException as error:
        end_with(streamer, error)
        raise


def _one_by_one(run: Run, prompt: Tensor, settings: Settings, shape: ScoreShaper, stop: Stop, streamer: Any) -> Tensor:
    """The best token (greedy) or a drawn one, until every sequence has stopped."""
    going = torch.ones(len(prompt), dtype=torch.bool, device=prompt.device)
    pad = prompt.new_tensor(settings.pad if settings.eos else 0)
    ids = prompt.new_zeros(len(prompt), stop.max_length)
    end = prompt.shape[1]
    ids[:, :end] = prompt
    if streamer is not None:
        streamer.put(prompt.cpu())
    logits = run.prefill()
    while True:
        scores = shape(ids[:, :end], logits)
        if settings.do_sample:
            tokens = torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)
        else:
            tokens = scores.argmax(dim=-1)
        if settings.eos:
            tokens = tokens.where(going, pad)
        ids[:, end] = tokens
        end += 1
        if streamer is not None:
            run.check()  # showing tokens waits for the device anyway
            streamer.put(tokens.cpu())
        going = going & ~stop(ids[:, :end])
        if not going.any():
            break
        logits = run.step(tokens)
    run.check()
    if streamer is not None:
        streamer.end()
    return ids[:, :end]


class Run:
    """A prompt on its way through the decoder: its cache, its padding and its next positions."""

    def __init__(self, model: Any, embeds: Tensor, mask: Tensor, capacity: int, record: bool = True) -> None:
        """embeds (B, T, C); mask (B, T) bool; capacity: tokens that the cache must hold in the end.

        record: replay a recorded step where the model may; beams do not, their caches change places at every step.
        """
        self.model = model
        self.embeds = embeds
        self.capacity = capacity
        self.positions = (mask.cumsum(1) - 1).clamp(min=0)
        # All that follows the prompt is visible; without padding no mask is needed at all.
        padded = not bool(mask.all())
        self.mask = torch.nn.functional.pad(mask, (0, capacity - mask.shape[1]), value=True) if padded else None
        self.recorded = recorded_step(model, len(embeds), capacity, mask, self) if record else None
        self.cache = model.new_cache(len(embeds), capacity) if self.recorded is None else self.recorded.cache
        self.broken = torch.zeros((), dtype=torch.bool, device=embeds.device)  # stays there until check()

    def prefill(self) -> Tensor:
        """Read the whole prompt -> the scores (B, V) of the first new token, float32."""
        size = self.model.prefill_chunk or chunk_size(self.model, len(self.embeds))
        for x, positions in zip(self.embeds.split(size, 1), self.positions.split(size, 1)):
            hidden = self._read(x, positions)
        logits = self._finite(self.model.logits(hidden))
        self.check()
        self.positions = self.positions[:, -1:]
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens (B,) -> the scores (B, V) of the ones that follow. Never waits for the device."""
        self.positions = self.positions + 1
        if self.recorded is not None:
            try:
                return self._finite(self.recorded(tokens))
            except RuntimeError as error:  # a recording that fails has changed nothing: the step itself can go on
                if self.model.graph == "on":
                    raise
                logging.warning("The decode step cannot be recorded (%s); going on without.", error)
                self.model.graph = "off"
                self.model.forget_recording()
                self.recorded = None
        hidden = self._read(self.model.model.embed_tokens(tokens[:, None]), self.positions)
        return self._finite(self.model.logits(hidden))

    def check(self) -> None:
        """Raise FloatingPointError when any scores so far were no numbers. Waits for the device: not for every step."""
        if bool(self.broken):
            self.model.forget_recording()  # its cache holds what is no number
            raise FloatingPointError(
                f"The decoder gave NaN or infinity in {self.model.dtype}: a damaged weight file or image embedding, or "
                "an overflow of float16. Run once with --device cpu (float32) to tell them apart."
            )

    def end(self) -> None:
        """Nothing follows: the next prompt may use the recorded step, also while this run is still referred to."""
        if self.recorded is not None:
            self.recorded.end()

    def branch(self, times: int) -> None:
        """Go on as `times` copies of every sequence; not for a recorded step, whose tensors stay as they are."""
        self.cache.repeat(times)
        self.positions = self.positions.repeat_interleave(times, dim=0)
        if self.mask is not None:
            self.mask = self.mask.repeat_interleave(times, dim=0)

    def _read(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (B, T, C) -> what the last layer makes of the last token, (B, C)"""
        return self.model.model(x, positions, self.mask, self.cache)[:, -1]

    def _finite(self, logits: Tensor) -> Tensor:
        bad = ~logits.isfinite()
        self.broken = self.broken | bad.any()
        return logits.masked_fill(bad, 0.0)  # until check() speaks: drawing from NaN ends the process on CUDA


def chunk_size(model: Any, batch: int) -> int:
    """Tokens of a prompt per pass, so that what the widest layer makes of them stays within PREFILL_BYTES.

    That is the MLP: gate and up, silu of gate and its product with up are there at once, beside the residual stream.
    """
    config = model.config
    width = 4 * config.hidden_size + 4 * config.intermediate_size
    return max(1, PREFILL_BYTES // (batch * width * model.dtype.itemsize))


class Stop:
    """Which sequences have ended: by length, by an end id, or by a criterion of the caller's."""

    def __init__(self, max_length: int, eos: list[int], criteria: Iterable[Callable], device: torch.device) -> None:
        self.max_length = max_length
        self.eos = torch.tensor(eos, device=device) if eos else None  # made once: each copy to a device waits for it
        self.criteria = criteria

    def __call__(self, ids: Tensor) -> Tensor:
        """ids (B, T) -> (B,) bool"""
        ended = torch.full((len(ids),), ids.shape[1] >= self.max_length, device=ids.device)
        if self.eos is not None:
            ended = ended | (ids[:, -1:] == self.eos).any(-1)
        for criterion in self.criteria:
            ended = ended | criterion(ids, None)
        return ended


def _lengths(config: Any, settings: Settings, prompt: Tensor, embeds: Tensor, options: dict) -> tuple[int, int]:
    """-> (max_length, min_length) in ids of the result; a prompt of embeddings has no ids, but counts."""
    start, context = prompt.shape[1], embeds.shape[1]
    hidden = context - start
    min_length = max(settings.min_length - hidden, 0)
    if settings.min_new_tokens is not None:
        min_length = start + settings.min_new_tokens
    if settings.max_new_tokens is not None:
        if options.get("max_length") is not None:
            logging.warning("Both max_new_tokens and max_length are set; max_new_tokens takes precedence.")
        max_length = start + settings.max_new_tokens
    elif settings.max_length is not None:
        max_length = settings.max_length - hidden
    elif hidden:
        raise ValueError("Say how long the answer may be: pass max_new_tokens (or max_length).")
    else:
        max_length = min(start + 20, config.max_position_embeddings)  # Hugging Face's default
    if max_length <= start:
        raise ValueError(f"The prompt already has {context} tokens: nothing may follow within the given length.")
    if context >= config.max_position_embeddings:
        raise ValueError(f"The prompt has {context} tokens; the model reads {config.max_position_embeddings} at most.")
    if hidden + max_length > config.max_position_embeddings:
        logging.warning(
            "Prompt and answer may reach %d tokens; the model was trained on %d at most.",
            hidden + max_length,
            config.max_position_embeddings,
        )
    return max_length, min_length


def _as_list(given: Any) -> list:
    if given is None:
        return []
    return [given] if callable(given) and not isinstance(given, list) else list(given)
