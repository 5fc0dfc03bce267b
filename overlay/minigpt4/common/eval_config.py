"""Upstream's Config with the checks that it leaves out: a mistake in the YAML or in --options is one sentence."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from minigpt4.unsupported import refuse
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_HINT = "Use eval_configs/minigpt4_eval.yaml or eval_configs/minigpt4_llama2_eval.yaml."
# keys that MiniGPT4.from_config reads and no YAML has to hold, besides the arguments of MiniGPT4 itself
_MODEL_KEYS = ("ckpt", "image_size", "lora_r")


class ConfigError(ValueError):
    """The YAML or --options ask for what does not exist."""

    exit_code = 2


class MissingWeights(ConfigError):
    """Files that the configuration names are not there."""

    exit_code = 5


def read_config(args: Any) -> Any:
    """The Config of args.cfg_path and args.options. Raises ConfigError, and SwitchedOff for minigpt_v2 and LoRA."""
    import minigpt4.processors  # noqa: F401 - importing registers the classes by name, as in demo.py:18-22
    from minigpt4.common.config import Config
    from minigpt4.common.registry import registry
    from minigpt4.models import MiniGPT4

    content = _read_yaml(args.cfg_path)
    overrides = _parse(args.options or [])
    model = {**content["model"], **{key[len("model.") :]: value for key, value in overrides.items()}}
    if model.get("arch") == "minigpt_v2":
        refuse("minigpt_v2")
    if model.get("arch") != "minigpt4":
        raise ConfigError(f"{args.cfg_path}: there is no model.arch {model.get('arch')!r}. {_HINT}")
    if str(model.get("lora_r") or 0) != "0":
        refuse("LoRA")
    types = MiniGPT4.PRETRAINED_MODEL_CONFIG_DICT
    if content["model"].get("model_type") not in types:
        raise ConfigError(f"{args.cfg_path}: model.model_type must be one of {', '.join(types)}.")
    if model["model_type"] != content["model"]["model_type"]:
        raise ConfigError(f"--options: model.model_type comes with the YAML; choose it by --cfg-path. {_HINT}")
    defaults = OmegaConf.load(MiniGPT4.default_config_path(model["model_type"]))
    arguments = [name for name in inspect.signature(MiniGPT4).parameters if name != "img_size"]
    _check_known(
        overrides, {*_leaves(content), *_leaves(defaults), *(f"model.{k}" for k in (*arguments, *_MODEL_KEYS))}
    )
    config = Config(args)
    for name, dataset in config.datasets_cfg.items():
        processor = None
        with contextlib.suppress(OmegaConfBaseException, AttributeError):  # not the sections that build_chat reads
            processor = dataset.vis_processor.train.name
        if registry.get_processor_class(processor) is None:
            raise ConfigError(f"{args.cfg_path}: datasets.{name}.vis_processor.train.name is {processor!r}. {_HINT}")
    return config


def check_weights(model: Any, keys: Sequence[str] = ("llama_model", "encoder", "ckpt"), q_former: bool = True) -> None:
    """All missing weight files in one message. `model`: the config's model section; q_former: ask for its two too."""
    if q_former and model.get("has_qformer", True):
        keys = [*keys, "q_former_model", "bert"]
    given = {key: str(model.get(key) or "") for key in keys}
    missing = [f"  {key}: {path or '(empty)'}" for key, path in given.items() if not path or not Path(path).exists()]
    if missing:
        raise MissingWeights(
            "these weights are not there:\n" + "\n".join(missing) + "\nSet the paths with apply.py --set "
            "model_path=FOLDER (or per key), in the YAML, or with --options model.KEY=PATH. What is an address must "
            "be downloaded first. encoder comes from onnx_model_export.py."
        )


def _read_yaml(path: str) -> DictConfig:
    try:
        content = OmegaConf.load(path)
        sections = content if isinstance(content, DictConfig) else {}
        missing = [name for name in ("model", "datasets", "run") if not isinstance(sections.get(name), DictConfig)]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        raise ConfigError(f"{path} is not a YAML file ({' '.join(str(error).split())}). {_HINT}") from error
    if missing:
        raise ConfigError(f"{path} is not an eval configuration: it has no section {missing[0]}. {_HINT}")
    return content


def _parse(options: list[str]) -> dict[str, Any]:
    """KEY=VALUE -> value by key, read as OmegaConf reads it."""
    for option in options:
        if not option.partition("=")[0].strip() or "=" not in option:
            raise ConfigError(f"--options {option}: write KEY=VALUE, for example model.ckpt=/data/ckpt.pth.")
    try:
        given = OmegaConf.from_dotlist(options)
        return {key: OmegaConf.select(given, key) for key in (option.split("=")[0] for option in options)}
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"--options {' '.join(options)}: {error}") from error


def _check_known(overrides: dict[str, Any], known: set[str]) -> None:
    for key in overrides:
        if key not in known:
            close = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.0)
            raise ConfigError(f"--options {key}: there is no such key; the nearest is {close[0]}.")


def _leaves(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, value in config.items_ex(resolve=False):
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
