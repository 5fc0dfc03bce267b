"""`run_performance.py --image-encoder`: what it refuses, what it loads, and the rows that it writes. In a workspace.

Nothing here imports torch or upstream before the command line is known to make sense.
"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable, TextIO

from .image_rows import published_line, published_rows
from .sheet import write_whole

# options of run_performance.py that have a meaning for both halves, and the image half's own
TAKEN = {"image_encoder", "image_path", "cfg_path", "options", "ln_vision", "random_weights"}
TAKEN |= {"batch", "device", "device_id", "dtype", "repeat", "json", "compile"}
MODEL_KEYS = ("encoder", "ckpt")  # files that the image half needs; check_weights adds the Q-Former's


class UsageError(ValueError):
    """The command line asks for what is not there or does not fit together."""

    exit_code = 2


def check(args: Namespace, defaults: Namespace, workspace: Path) -> None:
    """Raise UsageError before anything is loaded; paths in `args` become absolute. defaults: of no arguments."""
    if not (workspace / "minigpt4" / "common" / "config.py").is_file():
        raise UsageError(f"{workspace} is no workspace: run the copy in the folder that apply.py --workspace made.")
    for name, value in vars(args).items():
        if name not in TAKEN and value != getattr(defaults, name):
            raise UsageError(f"--{name.replace('_', '-')} is about the decoder: leave it out with --image-encoder.")
    if args.compile and Path(args.image_encoder).suffix != ".pth":
        raise UsageError(f"--compile: {args.image_encoder} is no .pth, and PyTorch can compile nothing else.")
    if not args.image_path:
        raise UsageError("--image-path: name the picture to measure with.")
    for name in ("image_path", "cfg_path", "ln_vision"):
        if getattr(args, name):
            setattr(args, name, _existing(getattr(args, name), f"--{name.replace('_', '-')}", workspace))


def _existing(path: str, option: str, workspace: Path) -> str:
    """The file, taken from the current folder or else from the workspace, as run_predict.py does."""
    for candidate in (Path(path), workspace / path):
        if candidate.is_file():
            return str(candidate.resolve())
    raise UsageError(f"{option}: there is no file {path}, neither in {Path.cwd()} nor in {workspace}.")


def run(args: Namespace, device: Any, out: TextIO, note: Callable[[str], Any]) -> int:
    """Load, measure, print a line per row to `out`. Returns 0, or 1 when a row is impossible."""
    from . import image

    config = _config(args)
    processor = _processor(config)
    read = _reader(args.image_path, processor)
    read()  # a file that is no picture is refused before the weights are loaded
    with tempfile.TemporaryDirectory() as folder:
        half = _load(args, config.model_cfg, device, Path(folder))
    encoder = half.visual_encoder
    if args.compile:
        encoder.compile()
    about = image.facts(encoder, device)
    note(", ".join(f"{key} {value}" for key, value in about.items()))
    weights = "random" if args.random_weights else "from files"
    rows: list[dict[str, Any]] = []
    bad = 0
    for row in image.measure(half, read, args.batch, args.repeat, note):
        print(row.line(), file=out, flush=True)
        compiled = row.what != image.DECODING and encoder.compiled  # what cannot be compiled goes on as it is
        rows.append({**row.cells(), "compiled": compiled, "weights_behind_the_encoder": weights})
        bad += bool(row.impossible())
        if args.json:
            text = json.dumps([*rows, *published_rows()], indent=2, ensure_ascii=False)
            write_whole(Path(args.json), text + "\n")
    print(published_line(), file=out, flush=True)
    if bad:
        note(f"{bad} rows cannot be true: no results")
    return 1 if bad else 0


def _config(args: Namespace) -> Any:
    """Upstream's Config with the encoder and the ln_vision of the command line."""
    from ..common.eval_config import check_weights, read_config

    config = read_config(args)
    model = config.model_cfg
    model.encoder = args.image_encoder
    if args.ln_vision and not model.get("has_qformer", True):
        raise UsageError("--ln-vision: the model of this YAML has no Q-Former, and its ln_vision is untrained.")
    if args.random_weights:
        check_weights(model, ("encoder",), q_former=False)
    else:
        if args.ln_vision:
            model.q_former_model = args.ln_vision
        check_weights(model, MODEL_KEYS)
    return config


def _processor(config: Any) -> Any:
    from ..common.registry import registry

    section = next(iter(config.datasets_cfg.values())).vis_processor.train
    return registry.get_processor_class(section.name).from_config(section)


def _reader(path: str, processor: Any) -> Callable[[], Any]:
    """What run_predict.py and upstream's Chat do with a picture file: (3, S, S) float32."""
    from PIL import Image

    def read() -> Any:
        try:
            with Image.open(path) as picture:
                return processor(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UsageError(f"--image-path: {path} cannot be read as a picture ({error}).") from error

    return read


def _load(args: Namespace, model_cfg: Any, device: Any, folder: Path) -> Any:
    """folder: for random weights, which are needed until this returns."""
    from . import image_half

    if args.random_weights:
        for key, path in image_half.write_random(folder, model_cfg, args.ln_vision).items():
            model_cfg[key] = path
    return image_half.load(model_cfg, device)
