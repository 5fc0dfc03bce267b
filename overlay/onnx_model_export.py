"""Export the image half of MiniGPT-4 (ViT-g and ln_vision) to ONNX and prove the file on a picture.

    python onnx_model_export.py --onnx-model-dir /data/model/MiniGPT-4/onnx_model --image-path examples_v2/office.jpg

Runs in a patched MiniGPT-4 folder. The weight files come from the configuration, as upstream merges it. The file is
written under a temporary name, run by onnxruntime on the picture, compared with PyTorch in float32, and takes its name
only when it agrees. One model is in memory at a time: 4 to 5 GiB for the real weights in fp32.

Then, on a machine with CANN, *inside* the ONNX folder (ATC looks for weight files in the current one):
    atc --framework=5 --model=eva_vit_g.onnx --output=OM_FOLDER/eva_vit_g --soc_version=Ascend910B3 \\
        --input_shape="input:1,3,224,224"

Exit codes: 0 exported and proven; 1 the file disagrees with PyTorch; 2 the command line or the YAML asks for what
cannot be done; 5 weights or software are missing; 70 unexpected, with a traceback; 130 interrupted;
141 who read the output has gone (`| head`).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlay_command import Refused, ended

WORKSPACE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Weights:
    """What to export: two weight files (ln_vision is None for a stage without Q-Former), picture size in pixels."""

    vit: Path
    ln_vision: Path | None
    image_size: int


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return ended("onnx_model_export", lambda: _with_software(args))


def _with_software(args: argparse.Namespace) -> int:
    try:
        return export(args)
    except ImportError as error:
        need = "pip install torch numpy pillow omegaconf onnx onnxruntime"
        raise Refused(f"{error}: install what the export needs: {need}", 5) from error


def export(args: argparse.Namespace) -> int:
    """Check all that is cheap to check, then the five steps. Every model is dropped before the next one is loaded."""
    if args.name and not re.fullmatch(r"[A-Za-z0-9_-]+", args.name):
        raise Refused(f"--name {args.name!r} may only have letters, digits, - and _: ais_bench takes no others.", 2)
    picture = find_picture(args.image_path)
    weights = find_weights(args)
    name = args.name or ("eva_vit_g" if weights.ln_vision else "eva_vit_g_llama2")
    from minigpt4.models import onnx_export  # with torch, onnx and onnxruntime: missing software shows here

    try:
        image = onnx_export.load_image(picture, weights.image_size)
        with _unproven_folder(Path(args.onnx_model_dir), name) as unproven:
            difference = export_and_compare(args, weights, image, unproven / f"{name}.onnx")
    except onnx_export.CannotExport as error:
        raise Refused(str(error), 2) from error

    bound = onnx_export.BOUNDS[args.dtype] if args.max_error is None else args.max_error
    print(
        f"[5/5] onnxruntime against PyTorch fp32: max abs {difference.max_abs:.2e}, cosine {difference.cosine:.8f}, "
        f"worst token's relative error {difference.worst_token:.2e} (bound {bound:.0e})"
    )
    if not difference.worst_token <= bound:  # also true for NaN
        raise Refused(f"the export does not compute what PyTorch computes. It stays in {unproven}.", 1)
    final = publish(unproven, name)
    print(f"wrote {final}\nnext, for an NPU, with CANN's environment:")
    size = weights.image_size
    print(
        f"  cd {final.parent.resolve()} && atc --framework=5 --model={name}.onnx --output=OM_FOLDER/{name} "
        f'--soc_version=Ascend910B3 --input_shape="input:1,3,{size},{size}"'
    )
    return 0


def export_and_compare(args: argparse.Namespace, weights: Weights, image: Any, path: Path) -> Any:
    """Steps 1 to 4: `path` is written, run, and its onnx_export.Difference from PyTorch returned."""
    import torch
    from minigpt4.models import onnx_export

    with _step(1, f"load {weights.vit}"):
        model = load(weights, torch.float32)
    with _step(2, "run PyTorch in fp32"), torch.no_grad():
        expected = model(image).numpy()
    with _step(3, f"export to ONNX, opset {args.opset}, {args.dtype}"):
        if args.dtype != "fp32":
            del model
            gc.collect()
            model = load(weights, onnx_export.DTYPES[args.dtype])
        onnx_export.export_onnx(model, image, path, args.opset, args.dynamic_batch)
        onnx_export.write_ln_vision(path, weights.ln_vision)
        del model
        gc.collect()
    with _step(4, "run onnxruntime"):
        actual = onnx_export.run_onnx(path, image)
    return onnx_export.compare(actual, expected)


def load(weights: Weights, dtype: Any) -> Any:
    """The image encoder in one dtype."""
    from minigpt4.models.eva_vit_model import load_eva_vit

    try:
        return load_eva_vit(weights.vit, weights.ln_vision, weights.image_size, dtype)
    except (OSError, ValueError) as error:  # damaged, or another model's
        raise Refused(str(error), 5) from error


def find_picture(path: str) -> Path:
    """The file, taken from the current folder or else from the workspace, as run_predict.py does."""
    for candidate in (Path(path), WORKSPACE / path):
        if candidate.is_file():
            return candidate
        if candidate.is_dir():
            raise Refused(f"--image-path: {path} is a folder; name one picture in it.", 2)
    raise Refused(
        f"--image-path: the picture {path} does not exist, neither in {Path.cwd()} nor in {WORKSPACE}; any picture "
        "will do, such as examples_v2/office.jpg.",
        2,
    )


def find_weights(args: argparse.Namespace) -> Weights:
    """From the flags, and what they leave open from the YAML; paths are as written, from the current folder."""
    model = {} if args.vit_weights and args.ln_vision else read_model_config(Path(args.cfg_path))
    vit = args.vit_weights or model.get("vit_weights")
    ln_vision = args.ln_vision or (model.get("q_former_model") if model.get("has_qformer", True) else "none")
    for key, flag, value in (("vit_weights", "--vit-weights", vit), ("q_former_model", "--ln-vision", ln_vision)):
        if not value:
            raise Refused(f"the model configuration of {args.cfg_path} has no {key}: add it, or pass {flag}.", 2)
        if value != "none" and not Path(value).is_file():
            raise Refused(
                f"the weight file {value} does not exist. Set {key} with apply.py --set, in the YAML, or pass {flag}.",
                5,
            )
    size = args.image_size if args.image_size is not None else model.get("image_size", 224)
    if not isinstance(size, int) or size < 1:
        raise Refused(f"an image size of {size} pixels is none.", 2)
    return Weights(Path(vit), None if ln_vision == "none" else Path(ln_vision), size)


def read_model_config(cfg_path: Path) -> dict:
    """The `model` section as upstream's Config builds it: the model type's own YAML, the evaluation YAML over it.

    The type's file is named as in MiniGPT4.PRETRAINED_MODEL_CONFIG_DICT (minigpt4.py:19-22): pretrain_vicuna0 is
    minigpt4/configs/models/minigpt4_vicuna0.yaml. Reading it by name spares the import of the whole model.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    found = cfg_path if cfg_path.is_file() else WORKSPACE / cfg_path
    if not found.is_file():
        raise Refused(f"the configuration {cfg_path} does not exist, neither here nor in {WORKSPACE}.", 2)
    try:
        evaluation = OmegaConf.select(OmegaConf.load(found), "model") or OmegaConf.create()
        kind = str(evaluation.get("model_type", "")).replace("pretrain_", "", 1)
        base = WORKSPACE / "minigpt4" / "configs" / "models" / f"{evaluation.get('arch')}_{kind}.yaml"
        if not base.is_file():
            raise Refused(f"{found} names a model whose {base} does not exist; pass --vit-weights and --ln-vision.", 2)
        return OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(base).model, evaluation), resolve=True)
    except (YAMLError, OmegaConfBaseException, OSError, ValueError, AttributeError) as error:
        raise Refused(f"the configuration {found} cannot be read: {error}", 2) from error


def publish(unproven: Path, name: str) -> Path:
    """Move the proven files one folder up, in place of an earlier export of that name and its weight files."""
    folder = unproven.parent
    graph = folder / f"{name}.onnx"
    for old in [graph, *folder.glob(f"{name}.weights.*")]:
        old.unlink(missing_ok=True)
    for file in sorted(unproven.iterdir(), key=lambda file: file.name == graph.name):  # the graph last: it is complete
        file.replace(folder / file.name)
    unproven.rmdir()
    return graph


@contextlib.contextmanager
def _unproven_folder(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder for a file that nobody may use yet; removed when the export breaks off."""
    path = folder / f"{name}.unproven"
    try:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    except OSError as error:
        raise Refused(f"--onnx-model-dir: the folder {path} cannot be made ({error.strerror}).", 2) from error
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


@contextlib.contextmanager
def _step(number: int, text: str) -> Iterator[None]:
    print(f"[{number}/5] {text} ...", end="", flush=True)
    start = time.perf_counter()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
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
        choices=["fp16", "fp32"],
        default="fp32",
        help="of the matrices; norms stay fp32 (default: %(default)s)",
    )
    add("--dynamic-batch", action="store_true", help="any batch, for onnxruntime; ATC fixes one by --input_shape")
    add("--name", help="file name without .onnx (default: eva_vit_g, or eva_vit_g_llama2 without ln_vision)")
    add("--max-error", type=float, help="bound on the worst token's relative error (default: fp32 1e-4, fp16 1e-2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
