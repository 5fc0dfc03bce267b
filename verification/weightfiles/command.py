"""`verify.py weights`: are the weight files there, whole, and the right ones? Fetches what is missing, when asked to.

Without --model-path the files are those that the workspace's YAML names. What has a published size and sum is compared
with them; Vicuna's shards have none, so they are known by index, shapes and vocabulary, and their sums are kept from
the first run on. Nothing inside a file is executed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from overlaykit.errors import FixTheCommand
from verification.download.fetch import Patience
from verification.download.progress import Quiet, shower
from verification.options import add_project
from verification.report import Outcome
from verification.synthetic import MARKER
from verification.weightfiles.facts import ENCODER, Entry, read_facts
from verification.weightfiles.files import Finding, Sums, check_file, how_to_get
from verification.weightfiles.folder import check_folder
from verification.weightfiles.getting import Getter, bytes_to_get
from verification.weightfiles.pins import Pins
from verification.weightfiles.report import WeightsReport, to_json, to_table
from verification.weightfiles.space import check_disk, describe_memory
from verification.weights import WeightFiles, from_workspace

LLAMA2_CFG = "eval_configs/minigpt4_llama2_eval.yaml"
LLAMA2 = {"llama_model": "llama2_model", "ckpt": "llama2_ckpt"}  # key of the model's YAML -> key of weights.yaml
DEFAULT_KEYS = ("llama_model", "vit_weights", "q_former_model", "bert", "ckpt")


def main(argv: list[str]) -> int:
    options = parse(argv)
    show = shower()
    try:
        report = examine(options, show)
    except KeyboardInterrupt:
        if options.download:
            show.stop()
            show.say("what has arrived is kept: the same command goes on from there")
        raise
    for stream in (sys.stdout, sys.stderr):  # a path may hold characters that the terminal cannot show
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    print(to_json(report) if options.json else to_table(report, shutil.get_terminal_size((120, 24)).columns))
    return report.exit_code


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="verify.py weights",
        description=__doc__,
        epilog="Exit codes: 0 all there and right; 1 a file is wrong; 2 usage; 5 a file is missing, could not "
        "be\nfetched, or could not be looked into; 130 interrupted; 141 nobody reads the output.\n"
        "HF_ENDPOINT (a mirror of huggingface.co) and HF_TOKEN are honoured.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model-path", metavar="FOLDER", help="a folder with weights/, pretrain/ and othfiles/")
    parser.add_argument("--workspace", default="./MiniGPT-4", help="whose YAML names the files (%(default)s)")
    parser.add_argument("--download", action="store_true", help="fetch what is missing or wrong; goes on where it was")
    parser.add_argument(
        "--only", nargs="+", metavar="KEY", help="keys of configs/weights.yaml; default: those of the Vicuna model"
    )
    parser.add_argument("--json", action="store_true", help="print the same facts as JSON")
    add_project(parser)
    return parser.parse_args(argv)


def examine(options: argparse.Namespace, show: Quiet, patience: Patience | None = None) -> WeightsReport:
    """Check every file, fetch what is asked for, and check again. Raises FixTheCommand, TryAgain."""
    entries = read_facts(Path(options.project) / "configs" / "weights.yaml")
    chosen = tuple(dict.fromkeys(options.only)) if options.only else None
    unknown = [key for key in chosen or () if key not in entries]
    if unknown:
        raise FixTheCommand(f"--only {unknown[0]} is no key.", f"There are {', '.join(entries)}.")
    if options.model_path:
        folder = Path(options.model_path).expanduser()
        paths = {key: folder / (entries[key].path or "") for key in chosen or DEFAULT_KEYS if entries[key].path}
        place = f"{folder}, in the layout that configs/paths.yaml describes"
    else:
        workspace = Path(options.workspace)
        paths = of_workspace(workspace, chosen)
        place = f"those that the YAML of {workspace} names"
    left_out = [key for key in chosen or () if key not in paths]
    if left_out:
        raise FixTheCommand(
            f"--only {left_out[0]}: nothing names a place for it.",
            f"There are {', '.join(paths) or 'none of the files'} here; the encoder is made, not fetched.",
        )
    findings = check(entries, paths, Sums(show))
    disk = ""
    troubles: tuple[str, ...] = ()
    if options.download:
        disk = check_disk(bytes_to_get(entries, paths, findings))
        getter = Getter(show, patience)
        for key, path in paths.items():
            getter.get(entries[key], path, [found for found in findings if found.key == key])
        known = {found.path: found.sha256 for found in findings if found.sha256} | getter.sums
        findings, troubles = check(entries, paths, Sums(show, known)), tuple(getter.troubles)
    pins = [Pins(path) for key, path in paths.items() if entries[key].folder]
    memory = describe(entries, paths)
    kept = tuple(found.path for found in pins if found.pins)
    return WeightsReport(place, tuple(findings), memory, disk, kept, troubles, hint(options, findings))


def hint(options: argparse.Namespace, findings: Sequence[Finding]) -> str:
    """The command that fetches what is wrong or missing, when this one did not try."""
    if options.download or not any(found.outcome in (Outcome.FAILED, Outcome.NOT_RUN) for found in findings):
        return ""
    where = ["--model-path", options.model_path] if options.model_path else ["--workspace", options.workspace]
    only = ["--only", *options.only] if options.only else []
    return "To fetch what can be fetched: " + shlex.join(
        ["python", "verify.py", "weights", *where, *only, "--download"]
    )


def of_workspace(workspace: Path, chosen: Sequence[str] | None) -> dict[str, Path]:
    """The paths in the workspace's YAML, by the keys of weights.yaml."""
    if not (workspace / "run_predict.py").is_file():
        raise FixTheCommand(
            f"{workspace} is no patched workspace.",
            "Its YAML would say where the weights are.",
            "Name the weights' folder with --model-path, or the workspace with --workspace.",
        )

    def path(files: WeightFiles, key: str) -> Path:
        return files.encoder_file if key == ENCODER else files.items[key]

    vicuna = from_workspace(workspace)
    paths = {key: path(vicuna, key) for key in (*DEFAULT_KEYS, ENCODER) if key in vicuna.items}
    if chosen is None:
        return paths
    if set(chosen) & set(LLAMA2.values()):
        llama2 = from_workspace(workspace, LLAMA2_CFG)
        paths |= {theirs: path(llama2, ours) for ours, theirs in LLAMA2.items()}
    return {key: paths[key] for key in chosen if key in paths}


def check(entries: Mapping[str, Entry], paths: Mapping[str, Path], sums: Sums) -> list[Finding]:
    synthetic = any(map(_synthetic, paths.values()))
    found: list[Finding] = []
    for key, path in paths.items():
        try:
            if key == ENCODER:
                found.append(_encoder(entries[key], path))
            elif entries[key].folder:
                found += check_folder(entries[key], path, sums, synthetic)
            else:
                found.append(check_file(entries[key], path, entries.values(), sums, synthetic))
        except OSError as error:
            what = f"not readable: {error.strerror} ({error.filename or path})"
            fix = "Give yourself the right to read it, or check the disk"
            found.append(Finding(key, path, Outcome.NOT_RUN, "unreadable", what, fix))
    return found


def _synthetic(path: Path) -> bool:
    """Is it of a set that synthetic.py wrote? Its language models' config.json say so."""
    return any(MARKER in _config(folder) for folder in (path, path.parent.parent / "weights"))


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _encoder(entry: Entry, path: Path) -> Finding:
    """The compiled image half is made from eva_vit_g.pth on the machine that runs it."""
    size = path.stat().st_size if path.is_file() else None
    what = "made here: nothing published to compare it with" if size else f"not there; {how_to_get(entry, path)}"
    return Finding(entry.key, path, Outcome.NOTE, "made", what, bytes=size)


def describe(entries: Mapping[str, Entry], paths: Mapping[str, Path]) -> str:
    """The memory of the language model that is asked for, or of Vicuna."""
    key = next((key for key in paths if entries[key].vocabulary_tensors), "llama_model")
    config = _config(paths[key]) if key in paths else {}
    return describe_memory({**entries[key].config, **config})
