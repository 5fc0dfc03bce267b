"""A performance run: the model that is measured, and its rows one by one."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import torch

from ..models.llama_config import LlamaConfig, read_json
from ..models.llama_loading import make_int8
from ..models.modeling_vicuna_ascend import LlamaForCausalLM
from ..models.ops_check import describe
from . import measure as clocks
from . import memory
from .rows import Peaks, Row, Timing

Lengths = Sequence[tuple[int, int]]  # tokens of prompt and answer


def read_shape(path: str | None, layers: int | None, longest: int) -> tuple[LlamaConfig, str | None]:
    """The shape in a config.json (or its folder), Vicuna-7B's without one, cut to `layers` where given.

    Returns it with room for `longest` tokens, and what to tell the user where that is more than it was trained for.
    Raises FileNotFoundError or ValueError, naming the file.
    """
    if path is None:
        config = LlamaConfig()
    elif Path(path).is_file():
        config = LlamaConfig.from_dict(read_json(Path(path)), str(path))
    else:
        config = LlamaConfig.from_folder(path)
    if layers:
        config = dataclasses.replace(config, num_hidden_layers=layers)
    limit = config.max_position_embeddings
    if longest <= limit:
        return config, None
    warning = (
        f"{longest} tokens are more than the {limit} that the model was trained for: what it answers there is "
        "nonsense, as fast as anything else"
    )
    return dataclasses.replace(config, max_position_embeddings=longest + 1), warning


def load(path: str | None, config: LlamaConfig, device: torch.device, dtype: torch.dtype, int8: bool) -> Any:
    """The weights at `path`, or random ones, with the limits of `config`."""
    if path is None:
        return random_model(config, device, dtype, int8)
    model = LlamaForCausalLM.from_pretrained(path, dtype, device, int8)
    model.config = config
    return model


def check_memory(
    config: LlamaConfig, device: torch.device, dtype: torch.dtype, int8: bool, batch: int, tokens: int
) -> None:
    """Raise MemoryError where the weights and the cache of the largest row cannot fit."""
    with torch.device("meta"):
        meta = LlamaForCausalLM(config).to(dtype=dtype)
    if int8:
        make_int8(meta)
    memory.check_memory(memory.needed_memory(meta, batch, tokens), device)


def facts(model: Any, int8: bool, random_weights: bool) -> dict[str, Any]:
    """What every row says about the model and the device."""
    dtype = str(model.dtype).replace("torch.", "")
    return {
        "device": str(model.device),
        "device_name": device_name(model.device),
        "dtype": f"int8 weights, {dtype}" if int8 else dtype,
        "weights": "random" if random_weights else "from a file",
        "hidden_size": model.model.embed_tokens.weight.shape[1],
        "layers": len(model.model.layers),
        "torch": torch.__version__,
        "operations": describe(model.device),
    }


def device_name(device: torch.device) -> str:
    if device.type in ("cuda", "npu"):
        return getattr(torch, device.type).get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


def measure(
    model: Any,
    batches: Sequence[int],
    lengths: Lengths,
    repeat: int,
    about: dict[str, Any],
    progress: Callable[..., Any],
) -> Iterator[tuple[Row, Timing | None]]:
    """Each row as soon as it is complete, with a generation whose every token was timed (RETURN_PERF_DETAIL=1)."""
    work = clocks.work_of(model)
    seen = []  # peaks before and after each row: what else the machine does comes and goes
    for batch in batches:
        for prompt, answer in lengths:
            seen.append(clocks.measure_peaks(model.device, model.dtype, work.weights))
            ids = clocks.prompt(model, batch, prompt)
            memory.reset_peak_memory(model.device)
            timings = []
            for count in progress(range(repeat + 1), f"batch {batch}, {prompt} in, {answer} out"):
                timing = clocks.time_generation(model, ids, answer)
                if count:  # the first one warms up
                    timings.append(timing)
            peak = memory.peak_memory(model.device)
            more = {
                **about,
                "recorded_step": model.recording is not None,
                "compiled_step": model.recording is not None and model.compile_step,
                "peak_memory(GB)": None if peak is None else peak / 1e9,
            }
            detail = None
            if os.environ.get("RETURN_PERF_DETAIL") == "1":
                detail = clocks.time_generation(model, ids, answer, every=True)
            seen.append(clocks.measure_peaks(model.device, model.dtype, work.weights))
            yield Row(batch, prompt, answer, timings, work, Peaks.of(seen), more), detail


def random_model(config: LlamaConfig, device: torch.device, dtype: torch.dtype, int8: bool) -> Any:
    """A decoder of any shape without a file: numbers of the usual size, which is all that speed depends on."""
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(dtype=dtype)
    if int8:
        make_int8(model)
    model = model.to_empty(device=device)
    torch.manual_seed(0)
    for name, part in model.named_parameters():
        if part.dtype == torch.int8:
            part.random_(-127, 128)
        elif name.endswith(".scale"):
            part.fill_(0.02 / 127)
        elif part.dim() == 1:
            part.fill_(1.0)
        else:
            part.uniform_(-0.03, 0.03)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.pack()
    return model.eval()
