"""Build the patched upstream model from synthetic weights the way run_predict.py and upstream's demo.py do."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any


def configuration(weights: str, family: str = "vicuna0", **overrides: str) -> Any:
    """Upstream's Config with every file of `weights` given as an option."""
    from minigpt4.common.config import Config
    from minigpt4.models import MiniGPT4  # noqa: F401  registers the model, as upstream's demo.py does

    root = Path(weights)
    llama2 = family == "llama2"
    values = {
        "llama_model": root / ("llama2" if llama2 else "weights"),
        "ckpt": root / "pretrain" / ("pretrained_minigpt4_llama2_7b.pth" if llama2 else "prerained_minigpt4_7b.pth"),
        "encoder": root / "othfiles" / "eva_vit_g.pth",
        "q_former_model": root / "othfiles" / "blip2_pretrained_flant5xxl.pth",
        "bert": root / "othfiles" / "bert-base-uncased",
        "low_resource": False,
        "device_8bit": "cpu",
        **overrides,
    }
    options = [f"model.{key}={value}" for key, value in values.items()]
    name = "eval_configs/minigpt4_llama2_eval.yaml" if llama2 else "eval_configs/minigpt4_eval.yaml"
    return Config(argparse.Namespace(cfg_path=os.path.join(os.getcwd(), name), options=options))


def model(weights: str, family: str = "vicuna0", **overrides: str) -> Any:
    """A patched MiniGPT4 on the CPU, ready to answer."""
    from minigpt4.common.registry import registry

    config = configuration(weights, family, **overrides).model_cfg
    return registry.get_model_class(config.arch).from_config(config).to("cpu").eval()
