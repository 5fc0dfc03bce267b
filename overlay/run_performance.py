"""Measure how fast the decoder answers: `python run_performance.py --model_path WEIGHTS --device_id 0 --batch 1`.

One row for each batch and each pair of prompt and answer length: written to multi_batch_performance.csv as soon as it
is measured (the first one replaces an earlier file) and shown on standard output; all else goes to standard error. A
row is the median of at least five generations after a warm-up, each a whole call of generate (greedy, no end token) on
a prompt without padding. The device's copy bandwidth and matmul peak are measured beside every row, and a row that
beats them by more than 15 % is marked and is no result. RETURN_PERF_DETAIL=1 adds one generation in which every single
token is timed, to --json.

`--image-encoder FILE --image-path PICTURE`, in a workspace, measures the image half instead, with no language model:
the picture decoded and resized, the encoder alone, and picture to embeddings (encoder, Q-Former, projection), beside
the original guide's figures. Q-Former and projection are those of --cfg-path, or --random-weights of their shape.

Nothing in transformers is replaced. `--install-auto-map WEIGHTS` makes AutoModelForCausalLM load this decoder from
the folder of the weights, `--remove-auto-map WEIGHTS` undoes that.

Exit codes: 0 measured; 1 a row is impossible; 2 the command line asks for what is not there; 5 weights, device,
memory or software are missing; 70 unexpected, with a traceback; 130 interrupted, finished rows are kept;
141 who read the output has gone (`| head`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from overlay_command import Refused, device_spec, ended, load_errors, pick_device

WORKSPACE = Path(__file__).resolve().parent
MODELS = WORKSPACE / "minigpt4" / "models"
LENGTHS = ((256, 64), (512, 128), (1024, 256), (3584, 512))
FEWEST = 5  # repetitions
DTYPES = ("auto", "float16", "bfloat16", "float32")
YAML = WORKSPACE / "eval_configs" / "minigpt4_eval.yaml"


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    command = auto_map if args.install_auto_map or args.remove_auto_map else performance
    return ended("run_performance", lambda: (image_half if args.image_encoder else command)(args))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    about = __doc__.split("\n", 1)[1]
    parser = argparse.ArgumentParser(
        description="Measure how fast the decoder answers.",
        epilog=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model_path", "--model-path", metavar="WEIGHTS", help="folder of Vicuna's weights; see --random-weights")
    add("--device_id", "--device-id", type=int, metavar="N", help="the NPU's number, the same as --device npu:N")
    add("--device", help="auto (the default), cpu, cuda:N or npu:N")
    add("--batch", type=batches, default=(1,), metavar="B[,B…]", help="prompts at a time, one or several numbers (1)")
    add("--lengths", type=lengths, default=LENGTHS, metavar="P:A[,P:A…]", help="tokens of prompt and answer "
        "(256:64,512:128,1024:256,3584:512)")  # fmt: skip
    add("--dtype", choices=DTYPES, default="auto", help="auto: float16 on an accelerator, bfloat16 on a "
        "CPU that computes in it, else float32")  # fmt: skip
    add("--int8", action="store_true", help="weights in 8 bits, as low_resource: True loads them")
    add("--random-weights", action="store_true", help="no weights needed: Vicuna-7B's shape, or --shape; as fast")
    add("--shape", metavar="CONFIG", help="a config.json (or its folder) for --random-weights")
    add("--layers", type=int, metavar="N", help="cut the model of --random-weights to N layers")
    add("--repeat", type=int, default=FEWEST, metavar="N", help="generations per row, 5 at least (%(default)s)")
    add("--npu-graph", choices=("auto", "on", "off"), default="auto", help="replay a recorded decode step (NPU, CUDA)")
    add("--compile", action="store_true", help="let torch.compile fuse the recorded step, or the .pth encoder (CUDA); "
        "takes a minute")  # fmt: skip
    add("--output", metavar="CSV", default="multi_batch_performance.csv", help="(%(default)s)")
    add("--json", metavar="FILE", help="the rows once more, with every repetition")
    image = parser.add_argument_group("the image half").add_argument
    image("--image-encoder", metavar="FILE", help="measure this .om, .onnx or .pth, and what lies behind it")
    image("--image-path", metavar="PICTURE", help="the picture; with --batch several of the same")
    image("--cfg-path", metavar="YAML", default=str(YAML), help="(eval_configs/minigpt4_eval.yaml)")
    image("--options", nargs="+", metavar="KEY=VALUE", help="override settings of the YAML")
    image("--ln-vision", metavar="FILE", help="BLIP-2's Q-Former file, instead of the YAML's q_former_model")
    add("--install-auto-map", metavar="WEIGHTS", help="let AutoModelForCausalLM load this decoder; no measurement")
    add("--remove-auto-map", metavar="WEIGHTS", help="undo --install-auto-map")
    add("--force", action="store_true", help="with --install-auto-map: replace another auto_map, keeping a backup")
    return parser.parse_args(argv)


def batches(text: str) -> tuple[int, ...]:
    return tuple(whole(part, "a batch") for part in text.split(","))


def lengths(text: str) -> tuple[tuple[int, int], ...]:
    pairs = []
    for pair in text.split(","):
        prompt, colon, answer = pair.partition(":")
        if not colon:
            raise argparse.ArgumentTypeError(f"{pair!r}: write PROMPT:ANSWER, as in 256:64")
        pairs.append((whole(prompt, "a prompt"), whole(answer, "an answer", least=2)))
    return tuple(pairs)


def whole(text: str, what: str, least: int = 1) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text.strip() or 'nothing'!r}: {what} is a whole number from {least} on")
    return int(text)


def auto_map(args: argparse.Namespace) -> int:
    if args.install_auto_map and args.remove_auto_map:
        raise Refused("Give either --install-auto-map or --remove-auto-map.", 2)
    with load_errors():
        from minigpt4.perf import auto_map as edit
    try:
        if args.remove_auto_map:
            print(edit.remove(Path(args.remove_auto_map)))
            return 0
        print(edit.install(Path(args.install_auto_map), MODELS, args.force))
    except edit.Refusal as refusal:
        raise Refused(str(refusal), 2) from refusal
    except OSError as error:
        raise Refused(f"{error}: the folder of the weights must be writable.", 5) from error
    print("Load it with AutoModelForCausalLM.from_pretrained(WEIGHTS, trust_remote_code=True).")
    return 0


def performance(args: argparse.Namespace) -> int:
    """Check, load, measure row by row. Returns 0, or 1 when a row is impossible."""
    check(args)
    with load_errors(), enough_memory():
        device, dtype = device_and_dtype(args)
        from minigpt4.perf import run  # only now: it imports transformers, which imports torch_npu where it can
        from minigpt4.perf.sheet import Sheet, line

        longest = max(map(sum, args.lengths))
        config, warning = run.read_shape(args.shape or args.model_path, args.layers, longest)
        if warning:
            note(warning)
        run.check_memory(config, device, dtype, args.int8, max(args.batch), longest)
        note("making random weights" if args.random_weights else "loading the weights")
        model = run.load(args.model_path, config, device, dtype, args.int8)
        model.graph = args.npu_graph
        model.compile_step = args.compile
        about = run.facts(model, args.int8, args.random_weights)
        note(", ".join(f"{key} {value}" for key, value in about.items()))
        bad = 0
        with Sheet(Path(args.output), args.json) as sheet:
            try:
                for row, detail in run.measure(model, args.batch, args.lengths, args.repeat, about, progress):
                    try:
                        sheet.add(row, detail)
                    finally:  # a full disk does not lose the row
                        print(line(row), flush=True)
                    bad += bool(row.impossible())
            finally:
                note(f"{len(sheet.rows)} of {len(args.batch) * len(args.lengths)} rows measured, in {args.output}")
    if bad:
        note(f"{bad} of them cannot be true (see the column impossible): no results")
    return 1 if bad else 0


def image_half(args: argparse.Namespace) -> int:
    """The image half, row by row. Returns 0, or 1 when a row is impossible."""
    check_run(args)
    out = sys.stdout
    with load_errors(), enough_memory("a smaller --batch"), contextlib.redirect_stdout(sys.stderr):
        from minigpt4.perf import image_run  # what upstream prints while it loads goes to standard error

        image_run.check(args, parse([]), WORKSPACE)
        device, _ = device_and_dtype(args)
        return image_run.run(args, device, out, note)


def check(args: argparse.Namespace) -> None:
    """Refuse what is plainly wrong before anything is loaded."""
    if bool(args.model_path) == args.random_weights:
        raise Refused("Give either --model_path, the folder of the weights, or --random-weights.", 2)
    if args.image_path or args.ln_vision or args.options or args.cfg_path != str(YAML):
        raise Refused("--image-path, --cfg-path, --options and --ln-vision go with --image-encoder.", 2)
    if args.model_path and not Path(args.model_path).is_dir():
        raise Refused(f"--model_path: there is no folder {args.model_path}.", 2)
    if args.shape and not Path(args.shape).exists():
        raise Refused(f"--shape: there is no file {args.shape}.", 2)
    if (args.shape or args.layers is not None) and not args.random_weights:
        raise Refused("--shape and --layers go with --random-weights: weights from a file have one shape.", 2)
    if args.layers is not None and args.layers < 1:
        raise Refused(f"--layers {args.layers}: give a number from 1 on.", 2)
    check_run(args)


def check_run(args: argparse.Namespace) -> None:
    """What both halves have in common."""
    if args.repeat < FEWEST:
        raise Refused(f"--repeat {args.repeat}: a median and a spread need {FEWEST} repetitions at least.", 2)
    if args.force:
        raise Refused("--force goes with --install-auto-map.", 2)
    for option, path in (("--output", args.output), ("--json", args.json)):
        place = Path(path or ".")
        if path is not None and (
            place.is_dir() or not os.access(place if place.exists() else place.resolve().parent, os.W_OK)
        ):
            raise Refused(f"{option}: {path or 'an empty name'} cannot be written.", 2)
    if args.json and Path(args.json).resolve() == Path(args.output).resolve():
        raise Refused(f"--output and --json are both {args.json}: give two files.", 2)


def device_and_dtype(args: argparse.Namespace) -> tuple[Any, Any]:
    """The torch.device, made the current one, and the torch.dtype of the model."""
    spec = device_spec(args.device, args.device_id, "--device_id")
    device = pick_device(spec, args.dtype, args.npu_graph)
    if args.compile and (device.type != "cuda" or args.npu_graph == "off"):
        raise Refused("--compile: what is compiled is what a CUDA device records and replays.", 2)
    from minigpt4.models.device import compute_dtype

    return device, compute_dtype(device)


def progress(steps: Iterable[int], title: str) -> Iterable[int]:
    """A bar where a person watches and tqdm is there, one line elsewhere."""
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            return tqdm(steps, title, leave=False)
    note(title)
    return steps


@contextlib.contextmanager
def enough_memory(hint: str = "shorter --lengths, a smaller --batch, or --int8") -> Iterator[None]:
    """Say what to do where the device's memory is full, or the model's numbers are none."""
    try:
        yield
    except FloatingPointError as error:
        raise Refused(str(error), 5) from error
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise Refused(f"The device's memory is full: {hint}. {error}", 5) from error


def note(text: str) -> None:
    print(f"run_performance: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
