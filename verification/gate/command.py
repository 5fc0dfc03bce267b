"""`verify.py record`: write down what the float32 reference computes, for ports on any device to be compared with.

The reference is upstream's model made of Hugging Face's parts (verification/oracle.py), on the CPU. What it computes
for the pictures and the questions of configs/prompts.yaml goes into one file of a few MB, a golden: no picture, no
path, no name. Whoever has the same weights compares a port with it, and needs neither the memory nor the hours that the
reference takes:

    python verify.py --against GOLDEN.npz --device npu:0

Where the language model does not fit into memory in float32 (27 GB for 7B) it is read layer by layer, once for every
token: hours become many where the files do not stay in the page cache. --halves also measures what half precision
costs the reference itself, which makes the comparison of a port in that precision sharper.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from overlaykit.errors import FixTheCommand, TryAgain
from verification import present, weights
from verification.gate import golden
from verification.gate.checked import check_recording
from verification.gate.progress import Progress
from verification.gate.rules import Unusable
from verification.memory import available_memory, lacking_memory
from verification.options import add_project, add_sources
from verification.prompts import check_pictures, find_pictures, load_prompts
from verification.report import NOTHING_RAN, Check, Outcome
from verification.run import NEXT_STEP, versions, weights_folder
from verification.weights import DEFAULT_CFG, WeightFiles

HALVES = ("float16", "bfloat16")
GIB = 1024**3
IMAGE_SHARE = 5  # of eva_vit_g.pth: its float16, a renamed float32 copy, and the float32 model
WORTH_SAYING = 60.0  # seconds


def main(argv: list[str]) -> int:
    options = parse(argv)
    try:
        return _record(options)
    except ModuleNotFoundError as error:
        print(f"verify: {error}. Install what inference needs: pip install '.[cpu]'", file=sys.stderr)
        return NOTHING_RAN


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="verify.py record",
        description=__doc__,
        epilog="Exit codes: 0 recorded; 1 a weight file or picture is not the right one; 2 usage; 5 weights or memory "
        "are missing; 130 interrupted, and then nothing is left under the name.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="GOLDEN.npz", help="the file to be written")
    parser.add_argument("--force", action="store_true", help="replace that file")
    add_sources(parser)
    parser.add_argument("--new-tokens", type=int, default=64, help="the longest text of the reference (%(default)s)")
    parser.add_argument(
        "--halves",
        type=_halves,
        default=HALVES,
        metavar="float16,bfloat16|none",
        help="also measure what these cost the reference itself (both)",
    )
    add_project(parser)
    options = parser.parse_args(argv)
    if not 1 <= options.new_tokens <= 1024:
        parser.error(f"--new-tokens {options.new_tokens}: it takes 1 to 1024")
    return options


def _halves(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(text.split(","))
    unknown = [name for name in names if name not in HALVES]
    if unknown or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"{text}: it takes none, float16, bfloat16, or both with a comma between")
    return names


def _record(options: argparse.Namespace) -> int:
    project, out = Path(options.project), options.out
    if out.exists() and not options.force:
        raise FixTheCommand(f"{out} exists.", "A golden is not overwritten.", "Name another file, or use --force.")
    prompts = load_prompts(project / "configs" / "prompts.yaml")
    workspace = Path(options.workspace).absolute()
    files = find_weights(options, workspace)
    pictures = find_pictures(options.images, workspace, prompts)
    needed = replace(files, encoder=files.vit_weights)  # the reference runs no .onnx or .om
    checks = check_pictures(pictures, prompts) + present.check_present(needed, project / "configs" / "weights.yaml")
    code = _say_wrong(checks, options.workspace)
    if code:
        return code
    golden.prepare(out)
    print(plan(files, len(pictures), len(prompts.questions), options.new_tokens, options.halves), file=sys.stderr)
    start = time.monotonic()
    recorded = _compute(files, pictures, prompts.questions, options, project)
    try:
        check_recording(recorded.about, recorded.arrays)
    except Unusable as error:
        why = f"{error} Are these the right weights? `python verify.py weights` tells."
        raise FixTheCommand("The reference computed nothing that a port could be compared with.", why) from error
    recorded.save(out)
    print(summary(out, recorded, time.monotonic() - start))
    return 0


def find_weights(options: argparse.Namespace, workspace: Path) -> WeightFiles:
    """As `verify.py` finds them; with --weights a workspace is needed only to say that they are not Vicuna's."""
    if not options.weights:
        return weights.from_workspace(workspace, options.cfg_path)
    folder = weights_folder(options.weights)
    if (workspace / options.cfg_path).is_file() or options.cfg_path != DEFAULT_CFG:
        return weights.from_folder(folder, weights.from_workspace(workspace, options.cfg_path).model_type)
    return weights.from_folder(folder)


def _say_wrong(checks: Sequence[Check], workspace: str) -> int:
    """Print what is missing or another file than it should be; the exit code, 0 when all is well."""
    missing = [check for check in checks if check.outcome is Outcome.NOT_RUN]
    wrong = [check for check in checks if check.outcome is Outcome.FAILED]
    for check in [*missing, *wrong]:
        print(f"verify: {check.name}: {check.detail}", file=sys.stderr)
    if missing:
        print(NEXT_STEP.format(workspace=workspace), file=sys.stderr)
    return 1 if wrong else NOTHING_RAN if missing else 0


def plan(files: WeightFiles, pictures: int, questions: int, new_tokens: int, halves: Sequence[str]) -> str:
    """What the recording needs, said before it starts. Raises TryAgain where the memory is not there."""
    image, free = IMAGE_SHARE * files.vit_weights.stat().st_size, available_memory()
    if free is not None and free < image:
        raise TryAgain(
            f"The image half needs about {image / GIB:.1f} GiB of memory, and {free / GIB:.1f} GiB are free.",
            "It runs in float32; the language model is read layer by layer where it does not fit.",
            "Free some, or record on a larger machine: the golden is the same.",
        )
    dtypes = ", ".join(("float32", *halves))
    what = f"{counted(pictures, 'picture')}, {counted(questions, 'question')}, texts of up to {new_tokens} tokens"
    lines = [f"verify: {what}; in {dtypes}."]
    if lacking_memory(files.llama_model):
        passes = questions * (new_tokens + 1 + len(halves))
        lines += [
            "verify: the language model does not fit into memory in float32: it is read layer by layer, once for every "
            f"token, {passes} times in all.",
            "verify: fast where the files stay in the page cache; how long it takes is said with the first tokens.",
        ]
    return "\n".join(lines)


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


class Estimating(Progress):
    """Says how long the recording takes, once the first tokens are there."""

    def __init__(self, questions: int, tokens: int, halves: int) -> None:
        super().__init__()
        self.questions, self.tokens, self.halves = questions, tokens, halves
        self.times = [time.monotonic()]  # before the first text, behind its first token, behind its second

    def __call__(self, what: str, done: int, total: int) -> None:
        super().__call__(what, done, total)
        if not what.startswith("text 1 of"):
            if len(self.times) == 1:
                self.times[0] = time.monotonic()
        elif done == len(self.times) and done <= 2:
            self.times.append(time.monotonic())
            if done == 2:
                self._say()

    def _say(self) -> None:
        prompt, token = (later - earlier for earlier, later in zip(self.times, self.times[1:]))
        whole_texts = (1 + self.halves) * (
            prompt + token * self.tokens / 8
        )  # eight tokens at once cost about one alone
        seconds = self.questions * (prompt + self.tokens * token + whole_texts)
        if seconds > WORTH_SAYING:
            self.close()
            print(
                f"verify: {token:.1f} s a token; about {seconds / 60:.0f} minutes in all", file=sys.stderr, flush=True
            )


def _compute(
    files: WeightFiles, pictures: Sequence[Path], questions: Sequence[str], options: argparse.Namespace, project: Path
) -> golden.Recording:
    from verification.gate.digests import code_digests, weight_digests
    from verification.gate.record import record

    step = Estimating(len(questions), options.new_tokens, len(options.halves))
    try:
        facts: dict[str, Any] = {
            "weights": weight_digests(files, step),
            "code": code_digests(project),
            "versions": versions(),
            "date": datetime.date.today().isoformat(),
        }
        return record(files, pictures, questions, options.new_tokens, options.halves, facts, step)
    finally:
        step.close()


def summary(out: Path, recorded: golden.Recording, seconds: float) -> str:
    about, name = recorded.about, shlex.quote(str(out))
    tokens = sum(array.size for key, array in recorded.arrays.items() if key.startswith("ids."))
    of = [counted(len(about[f"{name}s"]), thing) for name, thing in (("picture", "picture"), ("prompt", "question"))]
    kind = f"SYNTHETIC (seed {about['synthetic'].get('seed')})" if about["synthetic"] else about["model_type"]
    return "\n".join(
        (
            f"golden   {out}: {', '.join(of)}, {tokens} tokens",
            f"weights  {kind}; in half precision too: {', '.join(about['half']) or 'no'}",
            f"size     {out.stat().st_size:,} bytes, sha256 {recorded.digest}",
            f"took     {seconds:.0f} s",
            "",
            "Where the same weights and pictures are, on any device:",
            f"    python verify.py --against {name}",
            "To have what that device computed judged elsewhere, without weights or device:",
            f"    python verify.py --against {name} --bundle TAKING.npz",
            f"    python verify.py replay TAKING.npz --against {name}",
        )
    )
