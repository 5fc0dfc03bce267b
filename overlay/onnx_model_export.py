"""Export the image half of MiniGPT-4 (ViT-g and ln_vision) to ONNX and prove the file on a picture.

    python onnx_model_export.py --onnx-model-dir /data/model/MiniGPT-4/onnx_model --image-path examples_v2/office.jpg

Runs in a patched MiniGPT-4 folder. The weight files come from the configuration, as upstream merges it. The file is
written under a temporary name, run by onnxruntime on the picture, compared with PyTorch in float32, and takes its name
only when it agrees. One model is in memory at a time: 4 to 5 GiB for the real weights in fp32.

Then, on a machine with CANN, *inside* the ONNX folder (ATC looks for weight files in the current one):
    atc --framework=5 --model=eva_vit_g.onnx --output=OM_FOLDER/eva_vit_g --soc_version=Ascend910B3 \\
        --input_shape="input:1,3,224,224"
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import inspect
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from minigpt4.models.eva_vit_model import EvaViT, load_eva_vit
from minigpt4.processors.pil_transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor
from PIL import Image, UnidentifiedImageError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
# Worst token's relative error. fp32: far above rounding (1e-6 at full size), far below any fault. fp16: the gate that
# the port uses everywhere for half precision.
BOUNDS = {"fp32": 1e-4, "fp16": 1e-2}
# CLIP's statistics, blip_processors.py:21-24.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Weights:
    """What to export: two weight files (ln_vision is None for a stage without Q-Former), picture size in pixels."""

    vit: Path
    ln_vision: Path | None
    image_size: int


@dataclass(frozen=True)
class Difference:
    """How far onnxruntime's features are from PyTorch's, both (1, tokens, width)."""

    max_abs: float
    worst_token: float  # |a - b| / |b| of the token where it is largest: one wrong token cannot hide among 257
    cosine: float


def main(argv: list[str] | None = None) -> int:
    """Returns 0, 1 when the export disagrees with PyTorch, 2 for a wrong command, 5 for missing weights."""
    args = _parser().parse_args(argv)
    try:
        return export(args)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 5
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def export(args: argparse.Namespace) -> int:
    """The five steps, in order. Every model is dropped before the next one is loaded."""
    weights = find_weights(args)
    name = args.name or ("eva_vit_g" if weights.ln_vision else "eva_vit_g_llama2")
    image = load_image(args.image_path, weights.image_size)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(
            f"--name {name!r} may only have letters, digits, - and _: ais_bench takes no other file names."
        )
    folder = Path(args.onnx_model_dir)
    unproven = folder / f"{name}.unproven"

    with _step(1, f"load {weights.vit}"):
        model = load_eva_vit(weights.vit, weights.ln_vision, weights.image_size)
    with _step(2, "run PyTorch in fp32"), torch.no_grad():
        expected = model(image).numpy()
    with _step(3, f"export to ONNX, opset {args.opset}, {args.dtype}"):
        shutil.rmtree(unproven, ignore_errors=True)
        unproven.mkdir(parents=True)
        if args.dtype != "fp32":
            del model
            gc.collect()
            model = load_eva_vit(weights.vit, weights.ln_vision, weights.image_size, DTYPES[args.dtype])
        export_onnx(model, image, unproven / f"{name}.onnx", args.opset, args.dynamic_batch)
        del model
        gc.collect()
    with _step(4, "run onnxruntime"):
        actual = run_onnx(unproven / f"{name}.onnx", image)

    bound = BOUNDS[args.dtype] if args.max_error is None else args.max_error
    difference = compare(actual, expected)
    print(
        f"[5/5] onnxruntime against PyTorch fp32: max abs {difference.max_abs:.2e}, cosine {difference.cosine:.8f}, "
        f"worst token's relative error {difference.worst_token:.2e} (bound {bound:.0e})"
    )
    if not difference.worst_token <= bound:  # also true for NaN
        print(f"error: the export does not compute what PyTorch computes. It stays in {unproven}.", file=sys.stderr)
        return 1
    final = publish(unproven, folder, name)
    print(f"wrote {final}\nnext, for an NPU, with CANN's environment:")
    size = weights.image_size
    print(
        f"  cd {folder.resolve()} && atc --framework=5 --model={name}.onnx --output=OM_FOLDER/{name} "
        f'--soc_version=Ascend910B3 --input_shape="input:1,3,{size},{size}"'
    )
    return 0


def find_weights(args: argparse.Namespace) -> Weights:
    """From the flags, and what they leave open from the YAML."""
    if args.vit_weights and args.ln_vision:
        ln_vision = None if args.ln_vision == "none" else Path(args.ln_vision)
        return Weights(Path(args.vit_weights), ln_vision, args.image_size or 224)
    model = read_model_config(Path(args.cfg_path))
    has_qformer = model.get("has_qformer", True)
    vit = args.vit_weights or model.get("vit_weights")
    ln_vision = args.ln_vision or (model.get("q_former_model") if has_qformer else "none")
    for key, flag, value in (("vit_weights", "--vit-weights", vit), ("q_former_model", "--ln-vision", ln_vision)):
        if not value:
            raise ValueError(f"the model configuration of {args.cfg_path} has no {key}: add it, or pass {flag}.")
    size = args.image_size or model.get("image_size", 224)
    return Weights(Path(vit), None if ln_vision == "none" else Path(ln_vision), size)


def read_model_config(cfg_path: Path) -> dict:
    """The `model` section as upstream's Config builds it: the model type's own YAML, the evaluation YAML over it.

    The type's file is named as in MiniGPT4.PRETRAINED_MODEL_CONFIG_DICT (minigpt4.py:19-22): pretrain_vicuna0 is
    minigpt4/configs/models/minigpt4_vicuna0.yaml. Reading it by name spares the import of the whole model.
    """
    from omegaconf import OmegaConf

    here = Path(__file__).resolve().parent
    found = cfg_path if cfg_path.is_file() else here / cfg_path
    if not found.is_file():
        raise ValueError(f"the configuration {cfg_path} does not exist, neither here nor in {here}.")
    evaluation = OmegaConf.load(found).get("model") or {}
    kind = str(evaluation.get("model_type", "")).replace("pretrain_", "", 1)
    base = here / "minigpt4" / "configs" / "models" / f"{evaluation.get('arch')}_{kind}.yaml"
    if not base.is_file():
        raise ValueError(f"{found} names a model whose {base} does not exist; pass --vit-weights and --ln-vision.")
    return OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(base).model, evaluation), resolve=True)


def load_image(path: str, size: int) -> torch.Tensor:
    """A picture file -> (1, 3, size, size), normalised as upstream's evaluation processor does."""
    if not Path(path).is_file():
        raise ValueError(f"the picture {path} does not exist; --image-path takes any picture, such as a sample.")
    try:
        picture = Image.open(path).convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no picture that Pillow can read.") from error
    resize = Resize((size, size), interpolation=InterpolationMode.BICUBIC)
    return Compose([resize, ToTensor(), Normalize(MEAN, STD)])(picture)[None]


def export_onnx(model: EvaViT, image: torch.Tensor, path: Path, opset: int, dynamic_batch: bool) -> None:
    """Write `path`, and for a model above 2 GiB one weight file per tensor beside it, all named after the model.

    This takes torch's TorchScript exporter. The newer one starts at opset 18, above what ATC reads, and puts all
    weights into one file at offsets, which ATC of older CANN releases multiplies by 4096 (its parser's
    onnx_file_constant_parser.cc): it would read wrong weights without a word.
    """
    options = {"dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}}} if dynamic_batch else {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:  # not in torch 2.0 and 2.1
        options["dynamo"] = False
    names = {"input_names": ["input"], "output_names": ["output"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message="Constant folding")
        try:
            torch.onnx.export(model, (image,), str(path), opset_version=opset, **names, **options)
        except RuntimeError as error:
            if "not implemented for 'Half'" not in str(error):
                raise
            raise ValueError(
                f"PyTorch {torch.__version__} cannot run float16 on the CPU, which --dtype fp16 needs. Export fp32: "
                f"ATC makes float16 of it by itself. ({error})"
            ) from error
    _name_weight_files_after(path)


def _name_weight_files_after(path: Path) -> None:
    """Two encoders may share a folder: torch's `onnx__MatMul_321` becomes `eva_vit_g.weights.onnx__MatMul_321`."""
    import onnx

    if len(list(path.parent.iterdir())) == 1:
        return  # all weights are inside
    proto = onnx.load(str(path), load_external_data=False)
    entries = [entry for tensor in proto.graph.initializer for entry in tensor.external_data]
    for entry in (entry for entry in entries if entry.key == "location"):
        renamed = f"{path.stem}.weights.{entry.value}"
        (path.parent / entry.value).rename(path.parent / renamed)
        entry.value = renamed
    path.write_bytes(proto.SerializeToString())


def run_onnx(path: Path, image: torch.Tensor) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": image.numpy()})[0]


def compare(actual: np.ndarray, expected: np.ndarray) -> Difference:
    """Both (1, tokens, width). Computed in float64."""
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    relative = np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)
    cosine = (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))
    return Difference(float(np.abs(a - b).max()), float(relative.max()), float(cosine))


def publish(unproven: Path, folder: Path, name: str) -> Path:
    """Move the proven files to where they belong, in place of an earlier export of that name and its weight files."""
    graph = folder / f"{name}.onnx"
    for old in [graph, *folder.glob(f"{name}.weights.*")]:
        old.unlink(missing_ok=True)
    for file in unproven.iterdir():
        file.replace(folder / file.name)
    unproven.rmdir()
    return graph


@contextlib.contextmanager
def _step(number: int, text: str) -> Iterator[None]:
    print(f"[{number}/5] {text} ...", end="", flush=True)
    start = time.perf_counter()
    yield
    print(f" {time.perf_counter() - start:.1f} s", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--onnx-model-dir", required=True, help="folder for the ONNX file; made when missing")
    add("--image-path", required=True, help="picture on which the file is compared with PyTorch")
    add("--cfg-path", default="eval_configs/minigpt4_eval.yaml", help="evaluation YAML (default: %(default)s)")
    add("--vit-weights", help="eva_vit_g.pth instead of the YAML's vit_weights")
    add("--ln-vision", help="BLIP-2's Q-Former file instead of the YAML's q_former_model; `none` for the Llama-2 stage")
    add("--image-size", type=int, help="pixels, instead of the YAML's image_size")
    add("--opset", type=int, choices=range(11, 18), default=13, help="ATC reads 11 to 17 (default: %(default)s)")
    add(
        "--dtype",
        choices=sorted(DTYPES),
        default="fp32",
        help="of the matrices; norms stay fp32 (default: %(default)s)",
    )
    add("--dynamic-batch", action="store_true", help="any batch, for onnxruntime; ATC fixes one by --input_shape")
    add("--name", help="file name without .onnx (default: eva_vit_g, or eva_vit_g_llama2 without ln_vision)")
    add("--max-error", type=float, help="bound on the worst token's relative error (default: fp32 1e-4, fp16 1e-2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
