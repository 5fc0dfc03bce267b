"""The shape of a Llama, read from Hugging Face's config.json without transformers.

transformers 4 and 5 write the same facts under different names (`rope_theta` against `rope_parameters`); reading
the JSON here keeps the decoder the same under every release.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Names and defaults are Hugging Face's (transformers/models/llama/configuration_llama.py, 4.57.6)."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    head_dim: int = 128
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = None
    torch_dtype: str | None = None
    source: str = "config.json"  # for error messages
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # every other key, as it stands

    @classmethod
    def from_folder(cls, folder: str | Path) -> LlamaConfig:
        """Read `folder`/config.json. Raises FileNotFoundError or ValueError, naming the file."""
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist. The decoder needs a Hugging Face Llama folder: config.json, "
                "the weights (*.bin or *.safetensors, with their index) and tokenizer.model."
            )
        return cls.from_dict(read_json(path), source=str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config.json") -> LlamaConfig:
        """Take the keys of a config.json (or of a Hugging Face config's to_dict())."""
        values = dict(values)
        values["rope_theta"] = _rope_theta(values, source)
        values["torch_dtype"] = _dtype_name(values)
        activation = values.get("hidden_act", "silu")
        if activation != "silu":
            raise ValueError(f"{source}: hidden_act is {activation!r}; this decoder computes silu only.")
        heads = values.get("num_attention_heads") or cls.num_attention_heads
        hidden = values.get("hidden_size") or cls.hidden_size
        values["num_key_value_heads"] = values.get("num_key_value_heads") or heads
        values["head_dim"] = values.get("head_dim") or hidden // heads
        names = {field.name for field in dataclasses.fields(cls)} - {"source", "extra"}
        known = {key: values.pop(key) for key in names & values.keys()}
        config = cls(**known, source=source, extra=values)
        if heads % config.num_key_value_heads:
            raise ValueError(
                f"{source}: num_attention_heads ({heads}) is not a multiple of num_key_value_heads "
                f"({config.num_key_value_heads})."
            )
        return config

    @property
    def eos_token_ids(self) -> list[int]:
        """eos_token_id as a list: config.json holds none, one or several."""
        if self.eos_token_id is None:
            return []
        return list(self.eos_token_id) if isinstance(self.eos_token_id, (list, tuple)) else [self.eos_token_id]


def _rope_theta(values: Mapping[str, Any], source: str) -> float:
    """The rotary base. transformers 5 keeps it in rope_parameters, transformers 4 beside rope_scaling."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(
            f"{source}: rope_scaling is {kind!r}. This decoder computes plain rotary embeddings only, and plain ones "
            "would give wrong answers without a warning. Vicuna v0 and Llama-2 need no scaling."
        )
    return float(rope.get("rope_theta") or values.get("rope_theta") or LlamaConfig.rope_theta)


def _dtype_name(values: Mapping[str, Any]) -> str | None:
    name = values.get("dtype") or values.get("torch_dtype")
    return None if name is None else str(name).replace("torch.", "")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a Llama folder; ValueError names the file when it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): download it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object: download it again.")
    return content
