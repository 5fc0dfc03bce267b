"""Export the image half of MiniGPT-4 (ViT-g and ln_vision) to ONNX, made for ATC, and prove the file on pictures.

    python onnx_model_export.py --onnx-model-dir /data/model/MiniGPT-4/onnx_model --image-path examples_v2/office.jpg

Runs in a patched MiniGPT-4 folder. The weight files come from the configuration, as upstream merges it. What is
written: eva_vit_g.onnx, one file of weights beside it, and eva_vit_g.onnx.json, which says what they were made of and
what was measured. They appear under these names only when onnxruntime gives on the picture, and on two of noise, what
PyTorch gives in float32; an earlier export stays whole until then. A mixed file is also compared with its arithmetic in
float32. A second run finds the work done; two at the same time under one name are refused.

With --om-dir the OM for an NPU is made next, by om_model_convert.py, on a machine with CANN.

Memory: 1.2 times the exported weights in fp32 (4.3 GiB), 1.5 times mixed (2.7 GiB).

Exit codes: 0 exported and proven; 1 the file disagrees with PyTorch, or ATC would not take it; 2 the command line or
the YAML asks for what cannot be done; 5 weights, space or software are missing or damaged, or no OM could be made; 70
unexpected, with a traceback; 130 interrupted; 141 who read the output has gone (`| head`).
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlay_command import Refused, bar, ended, find_picture, read_model_config, step

PATCH = 14  # pixels of ViT-g's patches


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
    """Check all that is cheap to check, then the five steps, then the OM where one is asked for."""
    if args.name and not re.fullmatch(r"[A-Za-z0-9_-]+", args.name):
        raise Refused(f"--name {args.name!r} may only have letters, digits, - and _: ais_bench takes no others.", 2)
    picture = find_picture(args.image_path)
    weights = find_weights(args)
    name = args.name or ("eva_vit_g" if weights.ln_vision else "eva_vit_g_llama2")
    from minigpt4.export import onnx_file, parity  # with torch, onnx and onnxruntime: missing software shows here

    try:
        images = {picture.name: parity.load_image(picture, weights.image_size)}
    except ValueError as error:
        raise Refused(f"--image-path: {error}", 2) from error
    images.update(parity.random_images(weights.image_size))
    precision = args.dtype or ("mixed" if args.om_dir else "fp32")
    kind = "blip2" if weights.ln_vision else "default"
    options = onnx_file.Options(args.opset, precision, args.batch, weights.image_size, kind)
    record = {"kind": "onnx", **options.asdict(), "weights": fingerprints(weights)}
    final = Path(args.onnx_model_dir) / f"{name}.onnx"
    bound = parity.BOUNDS[precision] if args.max_error is None else args.max_error
    if not args.force and onnx_file.is_current(final, record, bound):
        print(f"{final} is this export already, proven when it was made; --force repeats it.")
    else:
        final = export_and_prove(final, weights, images, options, record, bound)
    return convert(args, final, picture)


def export_and_prove(final: Path, weights: Weights, images: Any, options: Any, record: Any, bound: float) -> Path:
    """The steps after the first; `final`, published."""
    from minigpt4.export import onnx_file, parity

    try:
        with onnx_file.unproven_folder(final.parent, final.stem) as unproven:
            geometry, state, model = load(weights)
            written = write(unproven, final.stem, geometry, state, options)
            record["remarks"] = lint(written.path)
            errors = parity.measure(written.path, model, state, images, options.precision == "mixed", step)
            judge(errors, bound)
            record["errors"] = {"bound": bound, **{key: error.asdict() for key, error in errors.items()}}
            record.update(nodes=onnx_file.node_counts(written.path), versions=onnx_file.versions())
            with step("5/5", "wait for the disk"):
                written.on_disk()
            onnx_file.publish(unproven, final, record)
    except OSError as error:
        raise Refused(f"--onnx-model-dir {final.parent}: {error}. Nothing was changed there.", 5) from error
    print(f"wrote {final}, its weights and {final.name}.json")
    return final


def load(weights: Weights) -> tuple[Any, Any, Any]:
    """Geometry, tensors by name, and the model without numbers."""
    import torch
    from minigpt4.models.eva_vit_model import empty_eva_vit
    from minigpt4.models.eva_vit_weights import read_weights

    try:
        geometry, state = read_weights(weights.vit, weights.ln_vision, weights.image_size)
        model = empty_eva_vit(geometry, state, weights.vit, weights.ln_vision)
    except (OSError, ValueError) as error:  # damaged, or another model's
        raise Refused(str(error), 5) from error
    except MemoryError as error:
        raise Refused(f"{weights.vit} does not fit into memory ({error}).", 5) from error
    ones = torch.ones(geometry.width)
    if weights.ln_vision and torch.equal(state["ln_vision.weight"].float(), ones):
        raise Refused(f"{weights.ln_vision} has an untrained ln_vision: every answer would be wrong.", 5)
    return geometry, state, model


def write(unproven: Path, name: str, geometry: Any, state: Any, options: Any) -> Any:
    from minigpt4.export import onnx_file

    needed = onnx_file.size_of(state, options.precision)
    if shutil.disk_usage(unproven).free < 1.02 * needed:
        raise Refused(f"--onnx-model-dir: {unproven.parents[1]} has no room for {needed / 1e9:.1f} GB of weights.", 5)
    with (
        step("2/5", f"write the graph, opset {options.opset}, {options.precision}"),
        bar(needed, "weights") as progress,
    ):
        try:
            return onnx_file.write(unproven, name, geometry, state, options, progress)
        except ValueError as error:  # a weight that is no number, or that float16 cannot hold
            raise Refused(str(error), 5) from error


def fingerprints(weights: Weights) -> dict[str, Any]:
    """Name, size and sha256 of both weight files."""
    from minigpt4.export.onnx_file import sha256

    files = {"vit": weights.vit, "ln_vision": weights.ln_vision}
    total = sum(file.stat().st_size for file in files.values() if file)
    try:
        with step("1/5", "read the weight files"), bar(total, "sha256") as progress:
            return {
                key: file and {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256(file, progress)}
                for key, file in files.items()
            }
    except OSError as error:  # no permission, a bad disk
        raise Refused(f"the weights cannot be read: {error}.", 5) from error


def lint(path: Path) -> list[str]:
    """What ATC would not take is said now, not after minutes of ATC. -> what its documentation leaves open."""
    import onnx
    from minigpt4.export.graph_lint import lint_file, remarks

    findings = lint_file(path)
    if findings:
        raise Refused("ATC would not take this graph:\n  " + "\n  ".join(map(str, findings)), 1)
    return [str(remark) for remark in remarks(onnx.load(str(path), load_external_data=False))]


def judge(errors: dict[str, Any], bound: float) -> None:
    from minigpt4.export.parity import BOUNDS, WIDENED

    print("onnxruntime against PyTorch in float32:")
    wrong = []
    for key, error in errors.items():
        allowed = BOUNDS["fp32"] if key.endswith(WIDENED) else bound
        print(f"  {key}: {error} (bound {allowed:.0e})")
        if not error.worst_token <= allowed:  # also true for NaN
            wrong.append(key)
    if wrong:
        raise Refused(f"the export does not compute what PyTorch computes, on {', '.join(wrong)}: not kept.", 1)


def find_weights(args: argparse.Namespace) -> Weights:
    """From the flags, and what they leave open from the YAML; paths are as written, from the current folder.

    The YAML is also read for its image_size where it is named, or where there is nothing else to read it for.
    """
    all_given = args.vit_weights and args.ln_vision and not args.cfg_path
    yaml = args.cfg_path or "eval_configs/minigpt4_eval.yaml"
    model = {} if all_given else read_model_config(Path(yaml))
    vit = args.vit_weights or model.get("vit_weights")
    ln_vision = args.ln_vision or (model.get("q_former_model") if model.get("has_qformer", True) else "none")
    for key, flag, value in (("vit_weights", "--vit-weights", vit), ("q_former_model", "--ln-vision", ln_vision)):
        if not value:
            raise Refused(f"the model configuration of {yaml} has no {key}: add it, or pass {flag}.", 2)
        if not (value == "none" and key == "q_former_model") and not Path(str(value)).is_file():
            raise Refused(
                f"the weight file {value} does not exist. Set {key} with apply.py --set, in the YAML, or pass {flag}.",
                5,
            )
    size = args.image_size if args.image_size is not None else model.get("image_size", 224)
    if not isinstance(size, int) or size < 1 or size % PATCH:
        raise Refused(f"an image size of {size!r}: ViT-g takes multiples of {PATCH} pixels, as 224 and 448.", 2)
    return Weights(Path(vit), None if ln_vision == "none" else Path(ln_vision), size)


def convert(args: argparse.Namespace, onnx_model: Path, picture: Path) -> int:
    """The OM, or how to make it."""
    if not args.om_dir:
        print(f"next, on a machine with CANN: python om_model_convert.py --onnx-model {onnx_model} --om-dir OM_FOLDER")
        return 0
    import om_model_convert

    return om_model_convert.convert(
        onnx_model=onnx_model,
        om_dir=Path(args.om_dir),
        soc_version=args.soc_version,
        precision_mode=args.precision_mode,
        device=args.device,
        image_path=picture,
    )


def _batches(text: str) -> tuple[int, ...]:
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if numbers != sorted(set(numbers)) or not numbers[0] >= 1 or numbers[-1] > 2048 or len(numbers) > 100:
        raise argparse.ArgumentTypeError(f"{text!r}: write 1, or up to 100 rising numbers up to 2048, as in 1,2,4,8")
    return tuple(numbers)


def _parser() -> argparse.ArgumentParser:
    summary, about = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=summary, epilog=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--onnx-model-dir", required=True, metavar="DIR", help="folder for the ONNX files; made when missing")
    add("--image-path", required=True, metavar="FILE", help="picture on which the file is compared with PyTorch")
    add("--cfg-path", metavar="YAML", help="(default: eval_configs/minigpt4_eval.yaml)")
    add("--vit-weights", metavar="FILE", help="eva_vit_g.pth instead of the YAML's vit_weights")
    add("--ln-vision", metavar="FILE", help="BLIP-2's Q-Former file instead of the YAML's q_former_model; `none` for "
        "the Llama-2 stage")  # fmt: skip
    add("--image-size", type=int, metavar="N", help="pixels, instead of the YAML's image_size; 224 or 448, say")
    add("--opset", type=int, choices=range(11, 18), default=13, help="ATC reads 11 to 17 (default: %(default)s)")
    add("--dtype", choices=["fp32", "mixed"], help="mixed: float16 matrices, norms and softmax in float32 (default: "
        "mixed with --om-dir, else fp32)")  # fmt: skip
    add("--batch", type=_batches, default=(1,), metavar="N[,N...]", help="pictures per call: one number, or the batch "
        "sizes that the OM shall have (default: 1)")  # fmt: skip
    add("--name", help="file name without .onnx (default: eva_vit_g, or eva_vit_g_llama2 without ln_vision)")
    add("--max-error", type=float, metavar="X", help="bound on a token's relative error (fp32 2e-5, mixed 1e-2)")
    add("--force", action="store_true", help="export again what is there and proven")
    om = parser.add_argument_group("the OM, on a machine with CANN (see om_model_convert.py --help)")
    om.add_argument("--om-dir", metavar="DIR", help="make NAME.om there")
    om.add_argument("--soc-version", metavar="NAME", help="as Ascend910B3; else npu-smi is asked")
    om.add_argument("--precision-mode", metavar="MODE", help="ATC's --precision_mode_v2")
    om.add_argument("--device", type=int, default=0, metavar="N", help="NPU on which the OM is compared (0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
