"""The Q-Former and the projection in the language model's dtype, from matrices that are kept in it.

Upstream leaves them in float32 and lets autocast convert every matrix at every call, which on an accelerator reads and
writes more than the products themselves. Converted once, the products are the same: autocast rounds to the same dtype.
Norms, query tokens and the residual sums between them stay in float32, as under upstream's autocast.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def keep_matrices(model: Any) -> None:
    """Convert the linear layers of a MiniGPT4 that lie between the image encoder and the language model, once.

    Its maybe_autocast() must be around their calls: their inputs are float32. Nothing changes with a float32 model.
    """
    parts = [model.llama_proj, model.Qformer] if model.has_qformer else [model.llama_proj]
    for part in parts:
        for layer in part.modules():
            if isinstance(layer, nn.Linear):
                layer.to(model.llama_model.dtype)
