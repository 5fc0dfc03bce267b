"""The whole way on one machine without an NPU: clone, patch, export, ask about a picture, verify.

    python -m verification.demo [--folder build/demo] [--upstream URL_OR_PATH_OR_BUNDLE]

Every step is a command that a user types, printed before it runs; the first one that fails ends the demo with its
exit code. Where upstream cannot be reached the demo says so and verifies the overlay alone, on a picture that it draws.
The weights are synthetic: the answer is noise, and the last table says what was shown, as does the report that the
last line names.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from overlaykit.errors import ReachTheUpstream

PROJECT = Path(__file__).resolve().parents[1]
PICTURE = "examples_v2/office.jpg"
QUESTION = "Describe this image in detail."


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m verification.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", default="build/demo", help="where everything goes (%(default)s)")
    parser.add_argument("--upstream", help="as apply.py takes it: a mirror, a folder or a git bundle")
    options = parser.parse_args(argv)
    folder = Path(options.folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    source = ["--upstream", options.upstream] if options.upstream else []

    # The weights' place is written into the YAML now; the weights themselves come next.
    status = run("apply.py", "--workspace", folder / "MiniGPT-4", *source, "--set", f"model_path={folder / 'tiny'}")
    if status == ReachTheUpstream.code:
        print("\nUpstream was not reached, so nothing about the patches is shown. The overlay runs alone.")
        return without_upstream(folder)
    return status or with_upstream(folder, source)


def with_upstream(folder: Path, source: list[str]) -> int:
    """The seed's own steps: export the image half, point the YAML at everything, ask, verify."""
    workspace, tiny, onnx = folder / "MiniGPT-4", folder / "tiny", folder / "onnx"
    picture = workspace / PICTURE
    encoder = f"encoder={onnx / 'eva_vit_g.onnx'}"
    print("\nThe weights of this demo are random, so the answer below is noise; the last table says what was shown.")
    return first_failure(
        ["-m", "verification.synthetic", tiny],
        [workspace / "onnx_model_export.py", "--onnx-model-dir", onnx, "--image-path", picture],
        ["apply.py", "--workspace", workspace, *source, "--set", encoder],
        [
            *(workspace / "run_predict.py", "--cfg-path", "eval_configs/minigpt4_eval.yaml"),
            *("--image-path", picture, "--prompt", QUESTION, "--device", "cpu", "--greedy", "--max-new-tokens", "40"),
        ],
        [
            *("verify.py", "--workspace", workspace, "--images", "examples_v2/", "--device", "cpu"),
            *("--report", folder / "report"),
        ],
    )


def without_upstream(folder: Path) -> int:
    """Picture -> our encoder -> Hugging Face's Q-Former -> our decoder -> text."""
    picture = folder / "drawn.png"
    draw(picture)
    print(f"\nA picture to ask about: {picture}")
    alone = ("verify.py", "--overlay-alone", "--weights", "tiny", "--images", picture, "--device", "cpu")
    return run(*alone, "--report", folder / "report")


def first_failure(*commands: list[str | Path]) -> int:
    for command in commands:
        status = run(*command)
        if status:
            print(f"\nThe demo stops: the last command ended with exit code {status}.", file=sys.stderr)
            return status
    return 0


def run(*command: str | Path) -> int:
    """Print the command, run it with this Python in the project's folder, return its exit code."""
    words = [str(word) for word in command]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return subprocess.run([sys.executable, *words], cwd=PROJECT, env=env, check=False).returncode


def draw(path: Path) -> None:
    """A house on a meadow under the sun, 640 x 480."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (640, 480), (120, 180, 240))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 330, 640, 480), fill=(70, 150, 60))
    pen.ellipse((480, 40, 580, 140), fill=(250, 220, 60))
    pen.rectangle((180, 220, 380, 390), fill=(200, 120, 80))
    pen.polygon([(160, 220), (280, 120), (400, 220)], fill=(150, 40, 40))
    pen.rectangle((255, 300, 305, 390), fill=(90, 50, 30))
    picture.save(path)


if __name__ == "__main__":
    sys.exit(main())
