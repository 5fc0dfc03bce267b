"""Read a Hugging Face Llama folder into the decoder: shard by shard, straight into place.

The parameters are allocated once on the target device in the target dtype, and every tensor of a shard is copied
into its parameter and dropped, so the peak is the weights plus one shard at the worst. With 8-bit weights the
matrices are allocated as int8, and every tensor is quantised on its way in, block by block.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import read_pth, why_unreadable
from .device import compute_dtype, resolve_device
from .llama_config import LlamaConfig, read_json
from .llama_int8 import NotFinite, quantise_into
from .llama_linear import linears
from .llama_tokens import count_tokens

# Hugging Face's own order of preference.
_WHOLE_AND_INDEX = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


class WeightsError(RuntimeError):
    """The weights cannot be read, or are not those that config.json describes."""


def load(model_class: Any, path: str | Path, torch_dtype: Any, device_map: Any, int8: bool = False) -> nn.Module:
    """Build model_class(config) from the folder `path`; see LlamaForCausalLM.from_pretrained for the arguments.

    Raises FileNotFoundError when the folder, config.json or a shard is absent, and WeightsError when a shard cannot
    be read, a parameter is missing or unknown, a shape differs, or a weight is NaN, infinite or beyond the dtype's
    range. Every message names the file.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder. Set llama_model in the model's YAML to the folder that holds config.json, "
            "the weights and tokenizer.model."
        )
    config = LlamaConfig.from_folder(folder)
    with torch.device("meta"):
        model = model_class(config)
    device, dtype = _device(device_map), _dtype(torch_dtype, config)
    if int8 and dtype == torch.float16:
        dtype = compute_dtype(device)  # upstream's low_resource names float16 for every device
    model = model.to(dtype=dtype)
    if int8:
        make_int8(model)
    model = model.to_empty(device=device)
    if config.tie_word_embeddings:  # to_empty gives each name memory of its own
        model.lm_head.weight = model.model.embed_tokens.weight
    _fill(model, folder)
    model.generation_defaults = _generation_defaults(folder, config)
    return model.eval()


def make_int8(model: nn.Module) -> None:
    """Give every matrix but the head room for int8 and its scales; on the meta device, so nothing is allocated yet.

    The head stays as it is, as with bitsandbytes: its rounding alone moved as many best tokens as that of all layers
    (benchmarks/int8_gate.py), and for Vicuna-7B that costs 0.13 GB of 7.
    """
    for name, linear in linears(model):
        if name != "lm_head":
            weight = torch.empty_like(linear.weight, dtype=torch.int8)
            scale = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
            linear.weight = nn.Parameter(weight, requires_grad=False)
            linear.scale = nn.Parameter(scale, requires_grad=False)


@torch.no_grad()
def _fill(model: nn.Module, folder: Path) -> None:
    parameters = model.state_dict()  # views: what is copied into them lands in the fused matrices
    if model.config.tie_word_embeddings:
        del parameters["lm_head.weight"]  # the same tensor as embed_tokens
    scales = {name: parameters.pop(name) for name in list(parameters) if name.endswith(".scale")}
    missing = set(parameters)
    shards = _shards(folder)
    for number, shard in enumerate(shards, start=1):
        logging.info("Loading %s (%d of %d)", shard.name, number, len(shards))
        for name, tensor in _tensors(shard):
            if name.endswith("rotary_emb.inv_freq"):  # old files carry it; it follows from the configuration
                continue
            if name == "lm_head.weight" and name not in parameters:  # tied to embed_tokens
                continue
            parameter = parameters.get(name)
            if parameter is None:
                raise WeightsError(
                    f"{shard} holds {name}, which the model of {model.config.source} does not have: the weights "
                    "belong to another model or another config.json."
                )
            _check_shape(name, tensor, parameter, shard, model.config)
            if parameter.dtype == torch.int8:
                _quantise(name, tensor, parameter, scales[name[: -len("weight")] + "scale"], shard)
            else:
                _check_range(name, tensor, parameter.dtype, shard)
                parameter.copy_(tensor)
            missing.discard(name)
    if missing:
        names = sorted(missing)
        raise WeightsError(
            f"{folder}: the weights lack {len(names)} of {len(parameters)} parameters, first {', '.join(names[:3])}. "
            "The download is incomplete, or config.json belongs to another model."
        )


def _quantise(name: str, tensor: Tensor, integers: Tensor, scale: Tensor, shard: Path) -> None:
    try:
        quantise_into(tensor, integers, scale)
    except NotFinite as error:
        raise WeightsError(f"{shard}: {name}: {error} Is the download complete?") from error


def _check_shape(name: str, tensor: Tensor, parameter: Tensor, shard: Path, config: LlamaConfig) -> None:
    if tensor.shape == parameter.shape:
        return
    text = f"{shard}: {name} is {tuple(tensor.shape)}, but {config.source} asks for {tuple(parameter.shape)}."
    if name in ("model.embed_tokens.weight", "lm_head.weight") and tensor.shape[1:] == parameter.shape[1:]:
        text += (
            f" The vocabulary differs: the weights have {tensor.shape[0]} tokens, vocab_size is {config.vocab_size} "
            "(Vicuna v0 has 32001, Llama-2 and Vicuna v1.x have 32000). Take both files from one download."
        )
    raise WeightsError(text)


def _check_range(name: str, tensor: Tensor, dtype: torch.dtype, shard: Path) -> None:
    """Refuse NaN and what `dtype` cannot hold: of NaN in q_proj or k_proj a CPU's attention makes 0, and no error.

    The largest and the smallest are cheaper to find than isfinite() of all.
    """
    largest = torch.finfo(dtype).max
    if not (-largest <= float(tensor.amin()) and float(tensor.amax()) <= largest):
        raise WeightsError(
            f"{shard}: {name} holds NaN, infinity or a number beyond the {largest:g} of {dtype}. Is the download "
            "complete, or the dtype too narrow?"
        )


def _shards(folder: Path) -> list[Path]:
    """The weight files of a folder, all of them present."""
    for whole, index in _WHOLE_AND_INDEX:
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            weight_map = read_json(folder / index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise WeightsError(f"{folder / index} has no weight_map: download it again.")
            shards = [folder / name for name in sorted(set(weight_map.values()))]
            absent = [shard.name for shard in shards if not shard.is_file()]
            if absent:
                raise FileNotFoundError(
                    f"{folder / index} names {len(shards)} files, and {', '.join(absent)} "
                    f"{'is' if len(absent) == 1 else 'are'} not there. Download the rest."
                )
            return shards
    expected = ", ".join(name for pair in _WHOLE_AND_INDEX for name in pair)
    raise FileNotFoundError(f"{folder} holds no weights: none of {expected}.")


def _tensors(shard: Path) -> Iterator[tuple[str, Tensor]]:
    """The named tensors of one file on the CPU, mapped rather than read where the format allows it."""
    try:
        if shard.suffix == ".safetensors":
            from safetensors import safe_open  # comes with transformers

            with safe_open(str(shard), framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    yield name, file.get_tensor(name)
        else:
            yield from read_pth(shard).items()
    except Exception as error:
        raise WeightsError(why_unreadable(shard, error)) from error


def _device(device_map: Any) -> torch.device:
    if isinstance(device_map, dict):
        if set(device_map) != {""}:
            raise ValueError(f'device_map {device_map}: this decoder lives on one device; pass {{"": device}}.')
        device_map = device_map[""]
    return torch.device("cpu") if device_map is None else resolve_device(device_map)


def _dtype(torch_dtype: Any, config: LlamaConfig) -> torch.dtype:
    if isinstance(torch_dtype, torch.dtype):
        return torch_dtype
    name = config.torch_dtype if torch_dtype in (None, "auto") else torch_dtype
    dtype = getattr(torch, name or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is not a dtype (in {config.source} or the call).")
    return dtype


def _generation_defaults(folder: Path, config: LlamaConfig) -> dict[str, Any]:
    """What generation_config.json says, or config.json in old folders; never a token that has no text."""
    path = folder / "generation_config.json"
    defaults = dict((read_json(path) if path.is_file() else {}) or config.extra)
    if (folder / "tokenizer.model").is_file():
        nameless = range(count_tokens(folder), config.vocab_size)
        defaults["suppress_tokens"] = [*(defaults.get("suppress_tokens") or ()), *nameless]
    return defaults
