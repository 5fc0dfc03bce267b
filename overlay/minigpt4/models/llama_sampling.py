"""What a caller of generate asked for, and how it shapes the scores of the next token.

The rules are those of transformers 4.57.6 (generation/utils.py and logits_process.py), written out so that every
release of transformers gives the same tokens for the same seed. keep_top_p is adapted from its TopPLogitsWarper
(Apache-2.0).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Callable

import torch
from torch import Tensor

from .llama_config import LlamaConfig

# What None stands for when a caller passes it: the option is off.
_OFF = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "num_beams": 1,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
}


_KINDS = {
    **dict.fromkeys(("temperature", "top_p", "repetition_penalty", "length_penalty"), Real),
    **dict.fromkeys(("max_length", "max_new_tokens", "min_length", "min_new_tokens"), Integral),
    **dict.fromkeys(("top_k", "num_beams", "num_return_sequences"), Integral),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of one call; names and defaults are Hugging Face's GenerationConfig's."""

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    do_sample: bool = False
    num_beams: int = 1
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    suppress_tokens: Sequence[int] | None = None  # ids that are never chosen
    num_return_sequences: int = 1
    use_cache: bool = True  # accepted for compatibility: decoding always uses the cache
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None

    @classmethod
    def for_call(cls, config: LlamaConfig, file: Mapping[str, Any], options: Mapping[str, Any]) -> Settings:
        """Join config.json, generation_config.json (`file`) and the call's own options, which win.

        Raises TypeError for an option that this decoder does not have and ValueError for a value that makes no sense.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(options.keys() - names)
        if unknown:
            raise TypeError(f"generate() does not know {', '.join(unknown)}. It knows {', '.join(sorted(names))}.")
        values: dict[str, Any] = {
            "eos_token_id": config.eos_token_ids,
            "pad_token_id": config.pad_token_id,
            "bos_token_id": config.bos_token_id,
        }
        written = file or config.extra  # old folders keep generation options in config.json
        values.update((name, written[name]) for name in names & written.keys() if written[name] is not None)
        values.update((name, _OFF.get(name) if value is None else value) for name, value in options.items())
        settings = cls(**values)
        settings._check()
        return settings

    @property
    def eos(self) -> list[int]:
        """The ids that end a sequence; empty when nothing does."""
        ids = self.eos_token_id
        if ids is None:
            return []
        ids = ids.tolist() if isinstance(ids, Tensor) else ids
        return [ids] if isinstance(ids, Integral) else list(ids)

    @property
    def pad(self) -> int | None:
        """The id that fills finished sequences: pad_token_id, else the first end id."""
        if self.pad_token_id is None and self.eos:
            return self.eos[0]
        return self.pad_token_id

    def _check(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise ValueError(f"{name} must be {'a whole' if kind is Integral else 'a'} number; got {value!r}")
        longest = 1 if self.max_new_tokens is None else self.max_new_tokens
        rules = {
            "max_new_tokens": (longest >= 1, "1 or more: otherwise nothing may follow the prompt"),
            "temperature": (self.temperature > 0 or not self.do_sample, "above 0 (greedy decoding is do_sample=False)"),
            "top_p": (0 <= self.top_p <= 1, "between 0 and 1"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "num_beams": (self.num_beams >= 1, "1 or more"),
            "num_return_sequences": (self.num_return_sequences == 1, "1: other numbers are not supported"),
            "early_stopping": (self.early_stopping in (True, False, "never"), "True, False or 'never'"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{name} must be {rule}; got {getattr(self, name)!r}")


class ScoreShaper:
    """Turns raw scores (B, V) into those that the next token is taken from: penalties first, then filters."""

    def __init__(self, settings: Settings, min_length: int, extra: Sequence[Callable] = ()) -> None:
        """min_length: no end id before a sequence has as many ids. extra: Hugging Face logits processors."""
        self.settings = settings
        self.min_length = min_length
        self.extra = extra
        self.forbidden: dict[str, Tensor] = {}  # made once: each copy to a device waits for it
        # Beam search needs one candidate that goes on besides those that end.
        self.keep = 1 + max(1, len(settings.eos)) if settings.num_beams > 1 else 1

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """ids (B, T) so far, scores (B, V) float32 -> (B, V) float32"""
        s = self.settings
        if s.repetition_penalty != 1.0:
            scores = penalise_repetition(ids, scores, s.repetition_penalty)
        if s.eos and ids.shape[1] < self.min_length:
            scores = self._forbid(scores, "eos", s.eos)
        if s.suppress_tokens:
            scores = self._forbid(scores, "suppress", s.suppress_tokens)
        for process in self.extra:
            scores = process(ids, scores)
        if not s.do_sample:
            return scores
        if s.temperature != 1.0:
            scores = scores / s.temperature
        if s.top_k:
            scores = keep_top_k(scores, max(s.top_k, self.keep))
        if s.top_p < 1.0:
            scores = keep_top_p(scores, s.top_p, self.keep)
        return scores

    def _forbid(self, scores: Tensor, name: str, ids: Sequence[int]) -> Tensor:
        """-inf for `ids`; those that the vocabulary does not have are left out, as in Hugging Face."""
        if name not in self.forbidden:
            known = [number for number in ids if 0 <= number < scores.shape[1]]
            self.forbidden[name] = torch.tensor(known, dtype=torch.long, device=scores.device)
        return scores.index_fill(1, self.forbidden[name], float("-inf"))


def penalise_repetition(ids: Tensor, scores: Tensor, penalty: float) -> Tensor:
    """Make every token that already occurs less likely (Keskar et al. 2019, arXiv 1909.05858)."""
    seen = scores.gather(1, ids)
    seen = torch.where(seen < 0, seen * penalty, seen / penalty)
    return scores.scatter(1, ids, seen)


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """-inf for all but the k best of each row (ties with the k-th stay)."""
    worst = scores.topk(min(k, scores.shape[-1])).values[..., -1:]
    return scores.masked_fill(scores < worst, float("-inf"))


def keep_top_p(scores: Tensor, p: float, keep: int) -> Tensor:
    """-inf outside the smallest set with probability p, of at least `keep` (Holtzman et al. 2020, 1904.09751)."""
    ascending, order = scores.sort(descending=False)
    drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    drop[..., -keep:].fill_(False)
    return scores.masked_fill(drop.scatter(1, order, drop), float("-inf"))
