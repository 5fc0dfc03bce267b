"""Ask MiniGPT-4 about a picture: `python run_predict.py --cfg-path eval_configs/minigpt4_eval.yaml --image-path P`.

The answer streams to standard output, everything else goes to standard error. The model, the conversation and the
stop words are upstream's (demo.py); this file picks the device, checks the files first and prints as tokens come.

Exit codes: 0 answered; 2 the command line asks for what is not there; 5 weights, device or software are missing;
70 unexpected, with a traceback; 130 interrupted; 141 who read the answer has gone (`| head`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

WORKSPACE = Path(__file__).resolve().parent
LONGEST = 2000  # tokens of prompt and answer: beyond, upstream's answer_prepare cuts the picture off
# Where torch_npu is installed and CANN is not sourced, `import torch` itself would fail; device.py imports torch_npu.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


class Refused(Exception):
    """A message for the user, and the exit code that goes with it."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII only
    try:
        answer(args)
    except Refused as refusal:
        print(f"run_predict: {refusal}", file=sys.stderr)
        return refusal.code
    except KeyboardInterrupt:
        print("\nrun_predict: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # what is still buffered would fail once more at the exit
        return 141
    except Exception:
        traceback.print_exc()
        return 70
    return 0


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask MiniGPT-4 about a picture.")
    parser.add_argument("--cfg-path", required=True, help="eval_configs/minigpt4_eval.yaml, or the Llama-2 one")
    parser.add_argument("--image-path", required=True, help="the picture")
    parser.add_argument("--prompt", default="Describe this image in detail.", help="the question (%(default)s)")
    parser.add_argument("--device", help="auto (the default), cpu, cuda:N or npu:N")
    parser.add_argument(
        "--npu-id",
        type=int,
        help="the NPU's number, the same as --device npu:N; with ASCEND_RT_VISIBLE_DEVICES set, a position in its "
        "list, counted from 0",
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="of the language model and of an encoder that is a .pth; auto: float16, or on a CPU bfloat16 where the "
        "processor computes in it, else float32",
    )
    parser.add_argument(
        "--npu-graph",
        default="auto",
        choices=("auto", "on", "off"),
        help="replay a recorded decode step (%(default)s: where the device can and its check passed)",
    )
    parser.add_argument("--greedy", action="store_true", help="always take the best token; default: sample")
    parser.add_argument("--seed", type=int, default=42, help="of the sampling (%(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=300, help="length of the answer (%(default)s)")
    parser.add_argument("--options", nargs="+", metavar="KEY=VALUE", help="override settings of the YAML")
    return parser.parse_args(argv)


def answer(args: argparse.Namespace) -> None:
    """Check everything that is cheap to check, load the model, ask, print."""
    check_request(args)
    spec = device_spec(args.device, args.npu_id)
    args.cfg_path = str(existing(args.cfg_path, "--cfg-path"))
    with load_errors():  # Pillow may be missing
        picture = open_picture(existing(args.image_path, "--image-path"))
    with load_errors(), contextlib.redirect_stdout(sys.stderr):  # upstream prints its progress
        device = pick_device(spec, args.dtype, args.npu_graph)
        config = read_config(args)
        check_files(config.model_cfg)
        note(operations(device, args.npu_graph))  # before minutes of loading: an NPU is checked here
        started = time.perf_counter()
        chat, conversation = build_chat(config, device)
        chat.model.llama_model.graph = args.npu_graph
        width = ", int8 weights," if chat.model.llama_model.int8 else ""
        note(f"model on {device}{width} after {time.perf_counter() - started:.1f} s")
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        ask(chat, conversation, picture, args, out)


def check_request(args: argparse.Namespace) -> None:
    """Refuse what no model could answer. Exactly how long an answer may be is known when the prompt is split."""
    if not 1 <= args.max_new_tokens < LONGEST:
        raise Refused(f"--max-new-tokens {args.max_new_tokens}: give a number from 1 to {LONGEST - 1}.", 2)
    if not 0 <= args.seed < 2**32:
        raise Refused(f"--seed {args.seed}: give a number from 0 to {2**32 - 1}.", 2)
    if "<ImageHere>" in args.prompt:
        raise Refused("--prompt: leave <ImageHere> out; the picture is put before the question by itself.", 2)


def device_spec(device: str | None, npu_id: int | None) -> str:
    """Join --device and --npu-id into one spec for resolve_device."""
    if npu_id is None:
        return device or "auto"
    if npu_id < 0:
        raise Refused(f"--npu-id {npu_id} is not the number of an NPU.", 2)
    if device not in (None, "auto", "npu", f"npu:{npu_id}"):
        raise Refused(f"--device {device} and --npu-id {npu_id} name two devices; give one of them.", 2)
    return f"npu:{npu_id}"


def existing(path: str, option: str) -> Path:
    """The file, taken from the current folder or else from the workspace."""
    for candidate in (Path(path), WORKSPACE / path):
        if candidate.is_file():
            return candidate.resolve()
    raise Refused(f"{option}: there is no file {path}, neither in {Path.cwd()} nor in {WORKSPACE}.", 2)


def open_picture(path: Path) -> Any:
    from PIL import Image  # here and below: --help must not wait for torch

    try:
        return Image.open(path).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(f"--image-path: {path} cannot be read as a picture ({error}).", 2) from error


def pick_device(spec: str, dtype: str | None = None, graph: str = "auto") -> Any:
    """The torch.device of `spec`, made the current one so that nothing is allocated on another card.

    dtype: --dtype; None leaves compute_dtype's own, which is float32 on every CPU (verify.py compares in it).
    """
    if not (WORKSPACE / "minigpt4" / "common" / "config.py").is_file():
        raise Refused(f"{WORKSPACE} is no workspace: run the copy in the folder that apply.py --workspace made.", 2)
    from minigpt4.models.device import choose_dtype, hide_torch_npu, resolve_device, select_device

    try:
        device = resolve_device(spec)
    except ValueError as error:
        raise Refused(f"--device: {error}", 2) from error
    if device.type != "npu":
        hide_torch_npu()
    select_device(device)
    if dtype is not None:
        try:
            choose_dtype(device, dtype)
        except ValueError as error:
            raise Refused(f"--dtype: {error}", 2) from error
    if graph == "on":
        from minigpt4.models.llama_graph import trouble

        if reason := trouble(device):
            raise Refused(f"--npu-graph on: {reason}.", 2)
    return device


def read_config(args: argparse.Namespace) -> Any:
    """Upstream's Config: the eval YAML over the model's YAML, --options over both."""
    from minigpt4.common import eval_config

    return eval_config.read_config(args)


def check_files(model: Any) -> None:
    """What can be said about the weights before minutes of loading. `model`: the config's model section."""
    from minigpt4.common.eval_config import check_weights
    from minigpt4.models.llama_tokens import count_tokens

    check_weights(model)
    count_tokens(model.llama_model)  # says what is wrong with the tokenizer's files


def build_chat(config: Any, device: Any) -> tuple[Any, Any]:
    """Upstream's Chat around the loaded model, and the conversation template of its model type (demo.py:50-76)."""
    import torch
    from minigpt4.common.registry import registry
    from minigpt4.conversation import conversation
    from minigpt4.models.answer_stream import stop_ids
    from transformers import StoppingCriteriaList

    config.model_cfg.device_8bit = str(device)
    model = registry.get_model_class(config.model_cfg.arch).from_config(config.model_cfg).to(device).eval()
    processor = next(iter(config.datasets_cfg.values())).vis_processor.train
    processor = registry.get_processor_class(processor.name).from_config(processor)
    stops = [torch.tensor(ids, device=device) for ids in stop_ids(model.llama_tokenizer)]
    criteria = StoppingCriteriaList([conversation.StoppingCriteriaSub(stops=stops)])
    templates = {
        "pretrain_vicuna0": conversation.CONV_VISION_Vicuna0,
        "pretrain_llama2": conversation.CONV_VISION_LLama2,
    }
    chat = conversation.Chat(model, processor, device=device, stopping_criteria=criteria)
    return chat, templates[config.model_cfg.model_type].copy()


def operations(device: Any, graph: str) -> str:
    """Which operations of the device are fused, and which its check has replaced. graph: --npu-graph."""
    from minigpt4.models.llama_graph import trouble
    from minigpt4.models.ops_check import describe

    if device.type == "npu" and graph != "off":
        trouble(device)
    return describe(device)


def ask(chat: Any, conversation: Any, picture: Any, args: argparse.Namespace, out: TextIO) -> None:
    """Put the picture and the question, and write the answer to `out` as it comes."""
    import numpy as np
    import torch
    from minigpt4.models.answer_stream import AnswerPrinter

    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    images: list[Any] = []
    with torch.no_grad():
        chat.upload_img(picture, conversation, images)
        chat.encode_img(images)
        chat.ask(args.prompt, conversation)
        # No max_length: upstream would cut the prompt, picture first.
        options = chat.answer_prepare(conversation, images, max_new_tokens=args.max_new_tokens, max_length=sys.maxsize)
        check_length(options["inputs_embeds"].shape[1], args.max_new_tokens)
        if args.greedy:  # answer_prepare always asks for sampling
            options["do_sample"] = False
        started = time.perf_counter()
        printer = AnswerPrinter(chat.model.llama_tokenizer, lambda text: print(text, end="", file=out, flush=True))
        try:
            tokens = chat.model_generate(**options, streamer=printer).shape[1]
        except FloatingPointError as error:  # NaN; the message says what to do
            raise Refused(str(error), 5) from error
        print(file=out, flush=True)
    seconds = time.perf_counter() - started
    note(f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} per second")


def check_length(prompt: int, answer: int) -> None:
    """Both in tokens; the prompt's include the picture's."""
    if prompt + answer <= LONGEST:
        return
    if prompt >= LONGEST:
        raise Refused(f"--prompt: with the picture it has {prompt} tokens, {LONGEST - 1} at most fit.", 2)
    raise Refused(
        f"--max-new-tokens {answer}: prompt and picture have {prompt} tokens, and {LONGEST} is the most for both and "
        f"the answer. The largest that fits is {LONGEST - prompt}.",
        2,
    )


@contextlib.contextmanager
def load_errors() -> Iterator[None]:
    """Say in one message what stopped the model from being loaded; what nobody foresaw passes through."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Refused(
            f"{error}: install what inference needs: pip install '.[cpu]' or '.[npu]' in this project's folder.", 5
        ) from error
    except (OSError, ValueError) as error:
        raise Refused(str(error), getattr(error, "exit_code", 5)) from error
    except RuntimeError as error:
        # DeviceUnavailable, WeightsError, IncompleteCheckpoint, SwitchedOff: classes that carry a sentence for the user
        if type(error).__module__.startswith("minigpt4."):
            raise Refused(str(error), getattr(error, "exit_code", 5)) from error
        raise


def note(text: str) -> None:
    print(f"run_predict: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
