"""Prove that the patched MiniGPT-4 is the model that it claims to be.

    python verify.py --images examples_v2/
    python verify.py ops --device npu:0
    python verify.py env
    python verify.py weights --model-path /data/model/MiniGPT-4 --download
    python verify.py record --out golden.npz
    python verify.py replay bundle.npz --against golden.npz

The first checks, in order: the tree against the lock; the weights, present and loaded key by key; every stage against
an independent MiniGPT-4 made of Hugging Face parts; the prompts of configs/prompts.yaml. The second compares a
device's operations with plain PyTorch (verify.py ops --help); the third says what this machine can run, and what is
wrong with its driver, CANN, packages or variables (verify.py env --help); the fourth tells which weight files are
missing or not the right ones, and fetches them (verify.py weights --help). The fifth writes down what the reference
computes, for `--against` on any device; the sixth judges what a device computed, without that device (verify.py replay
--help). With --report the first and the last also write a page for people.

Exit codes: 0 verified; 1 a check failed; 2 usage; 4 the tree is not the one of the lock; 5 weights or device are
missing, so not everything ran; 70 unexpected, with a traceback; 130 interrupted; 141 nobody reads the
output (| head).
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from overlaykit.errors import OverlayError
from verification import env, ops
from verification.gate import command as record
from verification.gate import replay
from verification.options import add_output, add_sources
from verification.page import files
from verification.run import Request, verify_overlay, verify_workspace
from verification.show import show
from verification.weightfiles import command as weights

INHERITED = dict(os.environ)  # what the user's shell set, which `env` looks at
# Where torch_npu is installed and CANN is not sourced, `import torch` itself would fail; the port imports torch_npu.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "ops": ops.main,
    "env": lambda argv: env.main(argv, INHERITED),
    "weights": weights.main,
    "record": record.main,
    "replay": replay.main,
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    command = COMMANDS.get(argv[0]) if argv else None
    return _guarded(command, argv[1:]) if command else _guarded(verify, argv)


def _guarded(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run it; what it raises becomes an exit code."""
    try:
        code = command(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head`; what is still buffered would fail once more at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OverlayError as error:
        print(f"verify: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("\nverify: interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 70


def verify(argv: list[str]) -> int:
    options = parse(argv)
    if options.report:
        files.prepare(options.report)
    request = Request(
        project=Path(options.project),
        workspace=Path(options.workspace),
        images=options.images,
        weights=options.weights,
        cfg_path=options.cfg_path,
        device=options.device,
        sampling=options.sampling,
        against=options.against,
        bundle=options.bundle,
        int8=options.int8,
        roofline=options.report is not None,
    )
    report = verify_overlay(request) if options.overlay_alone else verify_workspace(request)
    show(report, options.json, options.report, argv)
    return report.exit_code


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:N or npu:N (%(default)s)")
    parser.add_argument(
        "--no-sampling",
        dest="sampling",
        action="store_false",
        help="ask for greedy answers alone; sampled ones, five to a picture, take long on a CPU",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="GOLDEN",
        help="a file of `verify.py record`, made on any machine; without one the reference computes here",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="keep what this device computed, without paths and names, for `verify.py replay`",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="judge the language model as low_resource loads it, by the limits of real weights",
    )
    parser.add_argument(
        "--overlay-alone", action="store_true", help="verify the overlay without a workspace (no upstream needed)"
    )
    add_output(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
