"""What Qformer.py imports from transformers.modeling_utils, for transformers 4.30 to 5.x.

| name | 4.30 to 4.57 | 5.x |
|---|---|---|
| apply_chunking_to_forward, prune_linear_layer | transformers.pytorch_utils | the same |
| find_pruneable_heads_and_indices | transformers.pytorch_utils | gone |
| PreTrainedModel.get_head_mask, invert_attention_mask | there | gone |
| PreTrainedModel.init_weights | alone | only after post_init |
"""

from typing import Any, Optional

import torch
from transformers.modeling_utils import PreTrainedModel as _PreTrainedModel
from transformers.pytorch_utils import apply_chunking_to_forward, prune_linear_layer

__all__ = [
    "PreTrainedModel",
    "apply_chunking_to_forward",
    "find_pruneable_heads_and_indices",
    "prune_linear_layer",
]


def find_pruneable_heads_and_indices(*args: Any, **kwargs: Any) -> Any:
    """Only BertAttention.prune_heads calls it, and nothing in MiniGPT-4 prunes heads."""
    raise NotImplementedError("Pruning the Q-Former's heads is not supported by the Ascend overlay.")


class PreTrainedModel(_PreTrainedModel):
    """transformers' base class with the methods that its newest releases dropped."""

    @classmethod
    def can_generate(cls) -> bool:
        """The Q-Former makes features, not text; without this, 4.50 and later warn about it at every start."""
        return False

    def init_weights(self) -> None:
        """Draw the start weights. transformers 5 keeps its book of tied weights in post_init, which calls back here."""
        post_init_first = hasattr(super(), "get_expanded_tied_weights_keys")
        if post_init_first and not hasattr(self, "all_tied_weights_keys"):
            self.post_init()
        else:
            super().init_weights()

    def invert_attention_mask(self, encoder_attention_mask: torch.Tensor) -> torch.Tensor:
        """Mask (batch, keys), 1 = attend, to an additive mask (batch, 1, 1, keys) in the model's dtype."""
        keep = encoder_attention_mask[:, None, None, :].to(self.dtype)
        return (1.0 - keep) * torch.finfo(self.dtype).min

    def get_head_mask(self, head_mask: Optional[torch.Tensor], num_hidden_layers: int) -> list[None]:
        """One entry per layer; head masks are a training tool and refused here."""
        if head_mask is not None:
            raise NotImplementedError("Head masks of the Q-Former are not supported by the Ascend overlay.")
        return [None] * num_hidden_layers
