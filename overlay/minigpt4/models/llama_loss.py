"""How well the decoder foretells given tokens: the loss that upstream's multi_select ranks answers by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shifted_loss(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    """Cross entropy of each token given those before it: logits (B, T, vocab), labels (B, T), -100 is ignored.

    reduction: "mean" over all tokens that count, or "none": (B,), each sequence's mean over all its T - 1 positions,
    as upstream takes it (modeling_llama.py:99). One sequence at a time, for the softmax of all of them takes as much
    memory as their logits. Raises ValueError.
    """
    if labels.shape != logits.shape[:2]:
        raise ValueError(f"labels is {tuple(labels.shape)}, the input {tuple(logits.shape[:2])}: one for each token.")
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction is {reduction!r}: write mean or none.")
    targets = labels[:, 1:].to(logits.device)
    losses = torch.stack([F.cross_entropy(x[:-1], y, reduction="none") for x, y in zip(logits, targets)])
    return losses.mean(1) if reduction == "none" else losses.sum() / (targets != -100).sum()
