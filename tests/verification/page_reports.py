"""Reports as verify makes them, from whole to hostile, for the tests of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from verification.report import Check, Outcome, Report

LONG_WORD = "antidis" * 40
HTML_ANSWER = '</blockquote><script>document.title = "taken"</script><img src="https://example.org/x.png"> & "quotes"'
CONTROLS = "bell\x07 null\x00 escape\x1b[31m half\udc80 turned\u202etxt.exe"
LIMITED = {"exponents": list(range(-9, 2)), "counts": [0, 12, 340, 1800, 95, 1, 0, 0, 0, 0]}
IDENTICAL = {"exponents": list(range(-9, 2)), "counts": [720, 0, 0, 0, 0, 0, 0, 0, 0, 0]}
CURVE = {
    "mean": [1e-9 * (1 + place % 5) for place in range(64)],
    "max": [4e-8 * (1 + place % 7) for place in range(64)],
}
STAGES = (
    ("processor", "L1", "max <= 1e-06"),
    ("encoder", "L2", "error <= 1e-05"),
    ("Q-Former", "L2", "error <= 1e-05"),
    ("projection", "L2", "error <= 1e-05"),
    ("prompt", "L3", "error <= 1e-05"),
    ("LLM logits", "L3", "KL 1e-07, p99 0.01, flip 0.2"),
    ("decode", "L3", "error <= 5e-05"),
    ("greedy ids", "L4", "identical"),
)
TIMINGS: dict[str, Any] = {
    "stages": [
        {"name": "picture to embeddings", "seconds": [1.5, 1.52, 1.6], "units": [7] * 3, "flop": 5.3e11, "bytes": 4e9},
        {"name": "prefill", "seconds": [1.2, 1.1, 1.15], "units": [109] * 3, "flop": 6e11, "bytes": 13e9},
        {"name": "decode", "seconds": [9.0, 9.1, 9.5], "units": [64] * 3, "flop": 8e11, "bytes": 60e9},
        {"name": "nothing known", "seconds": [0.02], "units": [1], "flop": None, "bytes": None},
    ],
    "peaks": {"flops": 6e11, "bandwidth": 18e9, "measured": "copies and products on this CPU"},
}


def draw_pictures(folder: Path, count: int) -> tuple[Path, ...]:
    """Pictures with a camera's notes, one of them standing on its end."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        size = (300, 700) if number == 1 else (800, 500)
        picture = Image.new("RGB", size, (40 + 37 * number % 200, 120, 200 - 31 * number % 190))
        exif = Image.Exif()
        exif[0x010E] = "at home, by Ann"
        paths.append(folder / f"picture{number:02}.jpg")
        picture.save(paths[-1], exif=exif)
    return tuple(paths)


def stage(name: str, level: str, allowed: str, outcome: Outcome = Outcome.PASSED, detail: str = "") -> Check:
    numbers: dict[str, Any] = {"values": {"picture00.jpg": 4.2e-7, "picture01.jpg": None}}
    if name not in ("processor", "greedy ids"):
        numbers["histogram"] = IDENTICAL if name == "prompt" else LIMITED
    if name in ("LLM logits", "decode"):
        numbers["kl_positions"] = CURVE
    measured = "error 4.2e-07" if outcome is Outcome.PASSED else "error 3.1e-02"
    return Check("stages", name, outcome, measured, allowed, f"what {name} shows", detail, 1, numbers, level)


def answer(picture: str, text: str, outcome: Outcome = Outcome.PASSED, problem: str = "") -> Check:
    question = "Describe this image in detail."
    numbers = {"picture": picture, "question": question, "answer": text, "tokens": 32, "stopped": True}
    detail = f"{problem} {question} -> {text}".strip()
    return Check(
        "answers", picture[:9], outcome, "32 tokens", "word groups", "word rules only", detail, numbers=numbers
    )


def report(checks: tuple[Check, ...], pictures: tuple[Path, ...] = (), **more: Any) -> Report:
    facts: dict[str, Any] = {
        "subject": "patched MiniGPT-4 in /data/MiniGPT-4",
        "weights": "pretrain_vicuna0, language model /data/vicuna",
        "synthetic": False,
        "device": "npu:0",
        "versions": {"python": "3.11.7", "torch": "2.13.0", "torch_npu": "2.13.0"},
        "operations": "npu:0 (Ascend910B3): fused ops: linear, attention",
        "timings": TIMINGS,
    }
    return Report(checks=checks, pictures=pictures, **{**facts, **more})


def whole(folder: Path) -> Report:
    """Everything passed on real weights."""
    pictures = draw_pictures(folder, 3)
    files = Check("weights", "file ckpt", Outcome.PASSED, "37,907,201 bytes", numbers={"sha256": "ab" * 32}, level="L0")
    text = "A man in a dark suit sits at a desk in an office and works on his laptop, with a cup beside him."
    said = (answer("picture00.jpg", text), answer("picture01.jpg", text))
    return report((files, *(stage(*line) for line in STAGES), *said), pictures)


def failed(folder: Path) -> Report:
    """A stage and an answer are wrong, what comes after the stage did not run, and a picture is gone."""
    pictures = (*draw_pictures(folder, 2), folder / "gone.jpg")
    broken = stage(*STAGES[1], Outcome.FAILED, f"Worst on picture01.jpg; {'a long tale ' * 30}")
    rest = tuple(stage(*line, Outcome.NOT_RUN, "It is fed by the encoder, which is not right.") for line in STAGES[2:4])
    said = answer("gone.jpg", "A trophy.", Outcome.FAILED, "The answer has 2 words, at least 20 expected.")
    return report((stage(*STAGES[0]), broken, *rest, said), pictures, hint="Fetch them:\n    python verify.py weights")


def hostile(folder: Path) -> Report:
    """Words without a space, 300 letters of answer, markup, control characters, and long names everywhere."""
    pictures = draw_pictures(folder, 2)
    name = "a_check_whose_name_" + "never_ends_" * 8
    texts = (LONG_WORD, HTML_ANSWER, CONTROLS, "word " * 60, "שלום עולם " * 20, "``` @somebody #12 | <b>")
    said = tuple(answer(pictures[0].name, text, Outcome.NOT_JUDGED) for text in texts)
    odd = Check("tree", name, Outcome.NOTE, "x" * 90, "y" * 90, LONG_WORD, LONG_WORD, numbers={"sha256": "cd" * 32})
    wrong = Check("weights", name, Outcome.FAILED, "z" * 90, "all equal", "", LONG_WORD, level="L0")
    bad = {**TIMINGS, "peaks": {}}
    return report((odd, wrong, *said), pictures, subject=LONG_WORD, weights="w" * 200, device="cpu", timings=bad)


def many(folder: Path) -> Report:
    """Forty pictures, all asked about, with synthetic weights."""
    pictures = draw_pictures(folder, 40)
    said = tuple(answer(path.name, "noise � " * 12, Outcome.NOT_JUDGED) for path in pictures)
    return report((*(stage(*line) for line in STAGES), *said), pictures, synthetic=True, device="cpu")


def empty(folder: Path) -> Report:
    """Nothing was checked at all."""
    return report((), (), timings={}, operations="")


REPORTS = {"whole": whole, "failed": failed, "hostile": hostile, "many": many, "empty": empty}
