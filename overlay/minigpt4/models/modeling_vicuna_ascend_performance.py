"""The decoder for `AutoModelForCausalLM.from_pretrained(WEIGHTS, trust_remote_code=True)`, with timings if asked for.

A thin layer over modeling_vicuna_ascend.py. `python run_performance.py --install-auto-map WEIGHTS` copies this file
into the folder of the weights and names it in config.json:

    "auto_map": {"AutoModelForCausalLM": "modeling_vicuna_ascend_performance.LlamaForCausalLM"}

transformers copies it once more, into a cache, so the decoder is found by the path that was written into the copy at
that time; a workspace that has moved is found when Python starts in it.

RETURN_PERF_DETAIL=1 makes generate return (ids, detail): detail is a dict of milliseconds, with `response` for the
whole call, `first` for the first token, `next` for the mean of the others, and `tokens` for when each one was there.
The device is then waited for after every token. Otherwise generate returns the ids alone.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import types
from pathlib import Path
from typing import Any

INSTALLED_FROM = None  # the folder of the decoder; run_performance.py --install-auto-map fills it in
_DECODER = "modeling_vicuna_ascend.py"
# What AutoModelForCausalLM passes on by itself, in one release or another, and what means nothing here.
_OF_NO_CONSEQUENCE = {
    "_commit_hash", "_from_auto", "adapter_kwargs", "attn_implementation", "cache_dir", "code_revision",
    "force_download", "local_files_only", "low_cpu_mem_usage", "proxies", "resume_download", "revision", "token",
    "trust_remote_code", "use_auth_token", "use_safetensors",
}  # fmt: skip


def _package() -> str:
    """The package that holds the decoder: the one of this file, or one made for the folder where it is."""
    if Path(__file__).with_name(_DECODER).is_file():
        return str(__package__)
    searched = [Path(entry or ".", "minigpt4", "models") for entry in sys.path]
    for folder in [Path(INSTALLED_FROM), *searched] if INSTALLED_FROM else searched:
        if (folder / _DECODER).is_file():
            name = "minigpt4_ascend"  # not minigpt4, whose __init__ and models/__init__ need all that MiniGPT-4 needs
            for package, place in ((name, folder.parent), (f"{name}.models", folder)):
                module = sys.modules.setdefault(package, types.ModuleType(package))
                if not hasattr(module, "__path__"):
                    module.__path__ = [str(place.resolve())]
            return f"{name}.models"
    raise ImportError(
        f"The decoder ({_DECODER}) is not where it was when auto_map was installed ({INSTALLED_FROM}). Install again "
        "from the workspace (python run_performance.py --install-auto-map WEIGHTS), or start Python in the workspace."
    )


_decoder = importlib.import_module(".modeling_vicuna_ascend", _package())
_measure = importlib.import_module("..perf.measure", _decoder.__package__)


class LlamaForCausalLM(_decoder.LlamaForCausalLM):
    """modeling_vicuna_ascend.LlamaForCausalLM with the signatures that transformers' auto classes expect."""

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """transformers 5 calls this to remember the class for save_pretrained, which this decoder does not have."""

    @classmethod
    def from_pretrained(cls, path: Any, *_: Any, config: Any = None, **options: Any) -> LlamaForCausalLM:
        """Load the folder `path`; see modeling_vicuna_ascend. config: Hugging Face's, only its dtype is used.

        options: torch_dtype or dtype, device_map, load_in_8bit. AutoModelForCausalLM may have moved a dtype that the
        caller gave into the config already; without one, config.json's counts. Options without meaning for a decoder
        on one device are left out, unknown ones with a warning.
        """
        given = [options.pop(name, None) for name in ("torch_dtype", "dtype")]
        in_config = [getattr(config, name, None) for name in ("dtype", "torch_dtype")]
        dtype = next((value for value in (*given, *in_config) if value not in (None, "auto")), None)
        known = {name: options.pop(name) for name in ("device_map", "load_in_8bit") if name in options}
        unknown = sorted(options.keys() - _OF_NO_CONSEQUENCE)
        if unknown:
            logging.warning("from_pretrained of the Ascend decoder ignores %s.", ", ".join(unknown))
        return super().from_pretrained(path, torch_dtype=dtype, **known)

    def generate(self, *inputs: Any, **options: Any) -> Any:
        """As the decoder's; with RETURN_PERF_DETAIL=1 in the environment (ids, detail), see above."""
        if os.environ.get("RETURN_PERF_DETAIL") != "1":
            return super().generate(*inputs, **options)
        criteria = options.pop("stopping_criteria", None)
        given = [] if criteria is None else [criteria] if not isinstance(criteria, list) else list(criteria)
        clock = _measure.TokenClock(self.device)
        ids = super().generate(*inputs, stopping_criteria=[*given, clock], **options)
        timing = clock.stop()
        tokens = [1e3 * seconds for seconds in timing.tokens]
        following = (timing.response - timing.first) / (len(tokens) - 1) if len(tokens) > 1 else None
        return ids, {
            "response": 1e3 * timing.response,
            "first": tokens[0],
            "next": None if following is None else 1e3 * following,
            "tokens": tokens,
        }
