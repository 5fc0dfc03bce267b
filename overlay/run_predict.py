"""Ask MiniGPT-4 about a picture: `python run_predict.py --cfg-path eval_configs/minigpt4_eval.yaml --image-path P`.

The answer streams to standard output, everything else goes to standard error. The model, the conversation and the
stop words are upstream's (demo.py); this file picks the device, checks the files first and prints as tokens come.

Exit codes: 0 answered; 2 the command line asks for what is not there; 5 weights, device or software are missing;
70 unexpected, with a traceback; 130 interrupted; 141 who read the answer has gone (`| head`).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import overlay_command
from overlay_command import Refused, device_spec, ended, load_errors

WORKSPACE = Path(__file__).resolve().parent
LONGEST = 2000  # tokens of prompt and answer: beyond, upstream's answer_prepare cuts the picture off


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return ended("run_predict", lambda: answer(args))


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


def answer(args: argparse.Namespace) -> int:
    """Check everything that is cheap to check, load the model, ask, print."""
    check_request(args)
    spec = device_spec(args.device, args.npu_id, "--npu-id")
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
    return 0


def check_request(args: argparse.Namespace) -> None:
    """Refuse what no model could answer. Exactly how long an answer may be is known when the prompt is split."""
    if not 1 <= args.max_new_tokens < LONGEST:
        raise Refused(f"--max-new-tokens {args.max_new_tokens}: give a number from 1 to {LONGEST - 1}.", 2)
    if not 0 <= args.seed < 2**32:
        raise Refused(f"--seed {args.seed}: give a number from 0 to {2**32 - 1}.", 2)
    if "<ImageHere>" in args.prompt:
        raise Refused("--prompt: leave <ImageHere> out; the picture is put before the question by itself.", 2)


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
    """overlay_command.pick_device, in a workspace only."""
    if not (WORKSPACE / "minigpt4" / "common" / "config.py").is_file():
        raise Refused(f"{WORKSPACE} is no workspace: run the copy in the folder that apply.py --workspace made.", 2)
    return overlay_command.pick_device(spec, dtype, graph)


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
        with load_errors():  # an encoder's file may not fit, and its device may fail
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


def note(text: str) -> None:
    print(f"run_predict: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
