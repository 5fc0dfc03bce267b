"""Beam search with the scores of transformers 4.57.6.

Adapted from transformers (Apache-2.0), generation/utils.py, `_beam_search`: the same algorithm step for step.
4.30 divides a finished beam's score by the length of prompt and answer, 4.57 by the answer's alone: here as in 4.57.
Shapes: B prompts, K beams, V vocabulary, N candidates looked at in each step.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from .llama_sampling import Settings

NEVER = -1.0e9  # added to a score that must not win; finite, as in Hugging Face, so that sums stay comparable


class Finished:
    """The best K sequences of each prompt that have ended."""

    def __init__(self, sequences: Tensor) -> None:
        """sequences: (B, K, max_length), the prompt and then padding"""
        rows = sequences.shape[:2]
        self.sequences = sequences
        self.scores = torch.full(rows, NEVER, device=sequences.device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=sequences.device)  # prompt included
        self.used = torch.zeros(rows, dtype=torch.bool, device=sequences.device)

    def add(self, sequences: Tensor, scores: Tensor, ended: Tensor, length: int) -> None:
        """Take in those of N candidates that have just ended, where they beat what is held. All are (B, N, …)."""
        lengths = torch.full_like(ended, length, dtype=torch.long)
        keep = torch.cat((self.scores, scores), 1).topk(self.scores.shape[1]).indices
        self.sequences = pick(torch.cat((self.sequences, sequences), 1), keep)
        self.scores = pick(torch.cat((self.scores, scores), 1), keep)
        self.lengths = pick(torch.cat((self.lengths, lengths), 1), keep)
        self.used = pick(torch.cat((self.used, ended), 1), keep)


def beam_search(
    run: Any, prompt: Tensor, settings: Settings, shape: Callable, stop: Callable, max_length: int
) -> Tensor:
    """The best sequence of each prompt: prompt (B, T) ids -> (B, at most max_length).

    run: llama_generate.Run; shape: ScoreShaper, applied to log probabilities; stop: llama_generate.Stop.
    """
    batch, start = prompt.shape
    beams, penalty, early = settings.num_beams, settings.length_penalty, settings.early_stopping
    # Of 2K candidates at least K go on even if K of them end here; with more end ids, more may end.
    count = max(2, 1 + len(settings.eos)) * beams
    first_beams = torch.arange(count, device=prompt.device) < beams
    row = torch.arange(batch, device=prompt.device)[:, None] * beams

    running = prompt.new_full((batch, beams, max_length), _filler(settings))
    running[:, :, :start] = prompt[:, None]
    scores = torch.zeros(batch, beams, device=prompt.device)
    scores[:, 1:] = NEVER  # all beams are equal at first: only one may put forward candidates
    finished = Finished(running.clone())
    improvable = torch.ones(batch, 1, dtype=torch.bool, device=prompt.device)

    logits = run.prefill().repeat_interleave(beams, dim=0)
    run.branch(beams)
    for length in range(start + 1, max_length + 1):
        log_probs = shape(running[:, :, : length - 1].flatten(0, 1), logits.log_softmax(dim=-1))
        vocabulary = log_probs.shape[-1]
        totals = (log_probs.view(batch, beams, vocabulary) + scores[:, :, None]).flatten(1)
        totals, index = _candidates(totals, count, settings.do_sample)
        origin, tokens = index // vocabulary, index % vocabulary
        sequences = pick(running, origin)
        sequences[:, :, length - 1] = tokens
        ends = stop(sequences[:, :, :length].flatten(0, 1)).view(batch, count)

        going_on = totals + ends.float() * NEVER
        best = going_on.topk(beams).indices
        running, scores, origin = pick(sequences, best), pick(going_on, best), pick(origin, best)

        ended = ends & first_beams
        full = finished.used.all(-1, keepdim=True) & (early is True)
        final = totals / (length - start) ** penalty
        final = final + full.float() * NEVER + (~improvable).float() * NEVER + (~ended).float() * NEVER
        finished.add(sequences, final, ended, length)

        improvable = improvable & _may_improve(scores, finished, penalty, early, length - start, max_length - start)
        all_full = finished.used.all() & (early is True)
        if not (improvable.any() and not all_full and not ends.all()):
            break
        run.cache.reorder((row + origin).flatten())
        logits = run.step(running[:, :, length - 1].flatten())
    run.check()
    return finished.sequences[:, 0, : int(finished.lengths[:, 0].max())]


def pick(tensor: Tensor, index: Tensor) -> Tensor:
    """Rows index (B, M) of the second dimension of tensor (B, N, …) -> (B, M, …)"""
    index = index.view(*index.shape, *[1] * (tensor.dim() - 2))
    return torch.take_along_dim(tensor, index, dim=1)


def _candidates(totals: Tensor, count: int, sample: bool) -> tuple[Tensor, Tensor]:
    """The `count` best, or drawn, of (B, K * V) -> their scores and indices, (B, count) each."""
    if not sample:
        return totals.topk(count)
    index = torch.multinomial(totals.softmax(dim=-1), num_samples=count)
    return totals.gather(1, index), index


def _may_improve(scores: Tensor, finished: Finished, penalty: float, early: Any, length: int, longest: int) -> Tensor:
    """(B, 1) bool: could the best running beam still beat the worst finished one? Lengths count the answer."""
    hoped = longest if early == "never" and penalty > 0 else length
    best = scores[:, :1] / hoped**penalty
    worst = torch.where(finished.used, finished.scores.amin(1, keepdim=True), NEVER)
    return (best > worst).any(-1, keepdim=True)


def _filler(settings: Settings) -> int:
    """What stands behind the end of a sequence. Hugging Face takes padding id 0 for none; so do we."""
    if not settings.eos:
        return -1
    return settings.pad_token_id or settings.eos[0]
