"""Which weight files a run uses, and whether the loaded model holds exactly what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from overlaykit.errors import FixTheCommand, FixTheProjectFile
from verification.report import Check, Outcome
from verification.synthetic import MARKER

if TYPE_CHECKING:
    from torch import Tensor

MODEL_YAML = {
    "pretrain_vicuna0": "minigpt4/configs/models/minigpt4_vicuna0.yaml",
    "pretrain_llama2": "minigpt4/configs/models/minigpt4_llama2.yaml",
}
DEFAULT_CFG = "eval_configs/minigpt4_eval.yaml"


@dataclass(frozen=True)
class WeightFiles:
    """The files behind the keys of the model's YAML. Llama-2's stage has no Q-Former: then those two are None."""

    model_type: str
    llama_model: Path
    encoder: Path
    vit_weights: Path
    ckpt: Path
    q_former_model: Path | None
    bert: Path | None

    @property
    def items(self) -> dict[str, Path]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {key: value for key, value in values.items() if isinstance(value, Path)}

    @property
    def encoder_file(self) -> Path:
        """The file itself where the configuration names its folder, as the seed does."""
        if self.encoder.is_dir():
            inside = [self.encoder / f"eva_vit_g.{suffix}" for suffix in ("om", "onnx")]
            return next((file for file in inside if file.is_file()), self.encoder)
        return self.encoder

    @property
    def marker(self) -> dict[str, int] | None:
        """Seed and generator version when the language model is synthetic, else None."""
        try:
            content = json.loads((self.llama_model / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content.get(MARKER)


def from_workspace(workspace: Path, cfg_path: str = DEFAULT_CFG) -> WeightFiles:
    """What the workspace's YAML files say, merged as upstream's Config does: the eval file over the model's file.

    A path is taken as run_predict.py takes it: relative to the current folder, and "~" is a folder of that name.
    """
    chosen = read_model_section(workspace / cfg_path)
    model_type = str(chosen.get("model_type"))
    if model_type not in MODEL_YAML:
        raise FixTheCommand(
            f"{cfg_path} is for model_type {model_type}.",
            f"verify knows {' and '.join(MODEL_YAML)}.",
            "Name another file with --cfg-path.",
        )
    merged = {**read_model_section(workspace / MODEL_YAML[model_type]), **chosen}
    has_qformer = bool(merged.get("has_qformer", True))

    def path(key: str) -> Path:
        value = merged.get(key)
        if not isinstance(value, str):
            raise FixTheCommand(
                f"The workspace's YAML has no path under model.{key}.",
                f"Looked in {MODEL_YAML[model_type]} and {cfg_path}.",
                "Run apply.py on this workspace again.",
            )
        return Path(resolve(value))

    return WeightFiles(
        model_type=model_type,
        llama_model=path("llama_model"),
        encoder=path("encoder"),
        vit_weights=path("vit_weights"),
        ckpt=path("ckpt"),
        q_former_model=path("q_former_model") if has_qformer else None,
        bert=path("bert") if has_qformer else None,
    )


def resolve(value: str) -> str:
    """Upstream reads its YAML by OmegaConf, which fills in ${oc.env:HOME} and the like."""
    if "${" not in value:
        return value
    from omegaconf import OmegaConf

    return str(OmegaConf.create({"value": value}).value)


def from_folder(folder: Path, model_type: str = "pretrain_vicuna0") -> WeightFiles:
    """A folder in the seed's layout; the encoder runs from eva_vit_g.pth, which needs no export."""
    others, llama2 = folder / "othfiles", model_type == "pretrain_llama2"
    stage = "pretrained_minigpt4_llama2_7b.pth" if llama2 else "prerained_minigpt4_7b.pth"
    return WeightFiles(
        model_type=model_type,
        llama_model=folder / ("llama2" if llama2 else "weights"),
        encoder=others / "eva_vit_g.pth",
        vit_weights=others / "eva_vit_g.pth",
        ckpt=folder / "pretrain" / stage,
        q_former_model=None if llama2 else others / "blip2_pretrained_flant5xxl.pth",
        bert=None if llama2 else others / "bert-base-uncased",
    )


def read_model_section(path: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["model"])
    except FileNotFoundError:
        raise FixTheCommand(
            f"{path} does not exist.",
            "verify reads the weights' paths from the workspace's YAML.",
            "Make the workspace with `python apply.py --workspace FOLDER`, or name it with --workspace.",
        ) from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise FixTheProjectFile(f"{path} has no readable `model:` section.", str(error).split("\n")[0]) from error


def check_loaded(files: WeightFiles, loaded: Mapping[str, Mapping[str, Tensor]]) -> tuple[Check, ...]:
    """Compare every tensor of the files with what the model holds. `loaded`: YAML key -> parameter name -> tensor.

    Names are those of the files. A file's tensor is cast to the model's dtype first, so equality is exact; of weights
    held as int8 each must be within half a step of the file's.
    """
    checks = [
        _compare("llama_model", llama_tensors(files.llama_model), loaded["llama_model"]),
        _compare("ckpt", pth_tensors(files.ckpt, ("llama_proj.",)), loaded["ckpt"]),
    ]
    if files.q_former_model and "q_former_model" in loaded:
        stored = pth_tensors(files.q_former_model, ("Qformer.bert.", "query_tokens"))
        checks.append(_compare("q_former_model", stored, loaded["q_former_model"]))
    if loaded["encoder"] or files.encoder_file.suffix == ".pth":
        depth = {key.split(".")[1] for key in loaded["encoder"] if key.startswith("blocks.")}
        used = ("cls_token", "pos_embed", "patch_embed.", *(f"blocks.{index}." for index in depth))
        checks.append(_compare("vit_weights", pth_tensors(files.vit_weights, used), loaded["encoder"], "ln_vision."))
        checks.append(_compare("ln_vision", _ln_vision(files, loaded["encoder"]), loaded["encoder"], ""))
    else:
        shows = (
            f"nothing: the {files.encoder_file.suffix} holds its weights inside; the encoder stage compares its output"
        )
        checks.append(Check("weights", "loaded encoder", Outcome.NOTE, "compiled", shows=shows))
    return tuple(checks)


def _ln_vision(files: WeightFiles, loaded: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """ln_vision's two tensors; Llama-2's stage never loads one and keeps ones and zeros (minigpt4.py:60-71)."""
    import torch

    if files.q_former_model:
        return pth_tensors(files.q_former_model, ("ln_vision.",))
    width = len(loaded["ln_vision.weight"])
    return iter((("ln_vision.weight", torch.ones(width)), ("ln_vision.bias", torch.zeros(width))))


def _compare(
    key: str, stored: Iterator[tuple[str, Tensor]], loaded: Mapping[str, Tensor], elsewhere: str | None = None
) -> Check:
    """One line: how many tensors are equal. `elsewhere`: prefix of loaded names that another file fills."""
    import torch

    equal, wrong, seen = 0, [], set()
    for name, tensor in stored:
        seen.add(name)
        held = loaded.get(name)
        if held is None:
            wrong.append(f"{name} is in the file and not in the model")
        elif held.shape != tensor.shape:
            wrong.append(f"{name} is {tuple(tensor.shape)} in the file and {tuple(held.shape)} in the model")
        elif held.dtype == torch.int8:
            scale = f"{name.removesuffix('weight')}scale"
            seen.add(scale)
            good = _within_half_a_step(tensor, held, loaded[scale])
            equal, wrong = equal + good, [*wrong, *([] if good else [f"{name} is not the file's, rounded to int8"])]
        elif not torch.equal(held.detach().cpu(), tensor.to(held.dtype)):
            wrong.append(f"{name} differs")
        else:
            equal += 1
    others = [] if elsewhere == "" else [name for name in loaded if elsewhere is None or not name.startswith(elsewhere)]
    wrong += [f"{name} is in the model and not in the file" for name in others if name not in seen]
    outcome = Outcome.FAILED if wrong or not equal else Outcome.PASSED
    detail = "; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
    shows = "every tensor is in its place; not that the file is the right one"
    total = equal + len(wrong)
    return Check(
        "weights",
        f"loaded {key}",
        outcome,
        f"{equal} of {total} tensors",
        "all equal",
        shows,
        detail or ("" if equal else "the file holds none of the expected tensors"),
        numbers={"equal": equal, "total": total},
    )


def _within_half_a_step(stored: Tensor, integers: Tensor, scale: Tensor) -> bool:
    """(N, C) and its int8 with one scale (N,) a row. A row's largest weight is near 127 steps: a scale that is much
    larger would let anything through."""
    step, stored = scale.detach().cpu().float()[:, None], stored.float()
    largest = stored.abs().amax(1, keepdim=True)
    fits = (125 * step <= largest) | (largest == 0)
    close = (integers.detach().cpu() * step - stored).abs() <= 0.51 * step
    return bool(fits.all() and close.all())


def pth_tensors(path: Path, prefixes: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a .pth file whose names start with one of `prefixes`."""
    for name, tensor in read_tensors(path).items():
        if name.startswith(prefixes) and not name.endswith(".position_ids"):
            yield name, tensor


def llama_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a Hugging Face Llama folder, shard by shard; rotary tables are derived, not weights."""
    shards = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    for shard in shards:
        for name, tensor in read_tensors(shard).items():
            if not name.endswith("rotary_emb.inv_freq"):
                yield name, tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of one file, mapped rather than read where the format allows it; nothing in it is executed."""
    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, TypeError):  # the format of torch before 1.6, or a torch before 2.1
        content = torch.load(path, map_location="cpu", weights_only=True)
    return content.get("model", content)
