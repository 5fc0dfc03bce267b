"""The whole proof, in order: tree, weights, stages, answers. Returns one Report; prints nothing.

Later parts run on what earlier parts found: without weights there is nothing to load, and a model that cannot be
loaded has no stages.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from overlaykit.errors import FixTheCommand
from verification import answers, present, weights
from verification.report import Check, Outcome, Report
from verification.synthetic import cached_tiny
from verification.tree import check_tree
from verification.weights import DEFAULT_CFG

# Nothing here may look for files on a model hub, and warnings about one version's defaults help nobody.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

TINY = "tiny"
DEVICE = re.compile(r"auto|cpu|(cuda|npu)(:\d+)?|\d+")  # the forms that the overlay's device.py takes
NEXT_STEP = (
    "Weights are missing. To fetch them to where the lines above say:\n"
    "    python verify.py weights --workspace {workspace} --download\n"
    "To name the place where you have them:\n"
    "    python apply.py --workspace {workspace} --set model_path=FOLDER\n"
    "To try everything else without the real weights: verify.py --weights tiny (random ones, made on the spot)."
)


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    project: Path
    workspace: Path
    images: str = "examples_v2/"
    weights: str | None = None  # None: what the workspace's YAML says; "tiny"; or a folder in the seed's layout
    cfg_path: str = DEFAULT_CFG
    device: str = "auto"


def verify_workspace(request: Request) -> Report:
    """Verify the workspace that apply.py made."""
    workspace = request.workspace.absolute()
    if not (workspace / "run_predict.py").is_file():
        raise FixTheCommand(
            f"{workspace} is no patched workspace.",
            "It has no run_predict.py.",
            f"Make it with `python apply.py --workspace {request.workspace}`, or name another with --workspace.",
        )
    files = weights.from_workspace(workspace, request.cfg_path)
    if request.weights:
        configured = files
        files = weights.from_folder(weights_folder(request.weights), configured.model_type)
        if not files.marker and configured.encoder_file.is_file():  # the .om or .onnx that is to be used
            files = replace(files, encoder=configured.encoder)

    def load() -> Any:
        from verification.port import PatchedUpstream

        others = files.items if request.weights else {}
        return PatchedUpstream(workspace, request.cfg_path, files, request.device, others)

    checks = check_tree(request.project, workspace)
    return _verify(f"patched MiniGPT-4 in {workspace}", request, workspace, files, checks, load)


def verify_overlay(request: Request) -> Report:
    """Verify the overlay without upstream; weights must be "tiny" or a folder."""
    files = weights.from_folder(weights_folder(request.weights or TINY))

    def load() -> Any:
        from verification.port import OverlayAlone

        return OverlayAlone(request.project / "overlay", files, request.device)

    not_run = Check(
        "tree",
        "upstream",
        Outcome.NOTE,
        "not there",
        shows="nothing about the patches: no workspace, the overlay runs alone",
    )
    subject = "the overlay alone (no upstream): our encoder, Hugging Face's Q-Former, our decoder"
    return _verify(subject, request, request.workspace, files, (not_run,), load)


def weights_folder(name: str) -> Path:
    if name == TINY:
        return cached_tiny()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise FixTheCommand(
            f"--weights {name} is not a folder.",
            f'It takes "{TINY}" (synthetic weights) or a folder with weights/, pretrain/ and othfiles/.',
        )
    return folder


def _verify(
    subject: str,
    request: Request,
    workspace: Path,
    files: weights.WeightFiles,
    checks: tuple[Check, ...],
    load: Callable[[], Any],
) -> Report:
    if not DEVICE.fullmatch(request.device.strip().lower()):
        raise FixTheCommand(f"--device {request.device} is not a device.", "It takes auto, cpu, cuda:N or npu:N.")
    prompts = answers.load_prompts(request.project / "configs" / "prompts.yaml")
    pictures = answers.find_pictures(request.images, workspace, prompts)
    checks += answers.check_pictures(pictures, prompts)
    there = present.check_present(files, request.project / "configs" / "weights.yaml")
    checks += there
    device, hint, operations = request.device, "", ""
    if any(check.outcome is Outcome.NOT_RUN for check in there):
        hint = NEXT_STEP.format(workspace=request.workspace)
    else:
        with contextlib.redirect_stdout(sys.stderr):  # upstream prints its progress
            port, failed = _load(load)
            if port is None:
                checks += (failed,)
            else:
                device, operations = str(port.device), port.operations()
                checks += _measure(port, files, pictures, prompts)
    return Report(subject, _describe(files), bool(files.marker), device, versions(), checks, hint, operations)


def _load(load: Callable[[], Any]) -> tuple[Any, Check]:
    """The port, or the line that says why it cannot be loaded."""
    name, shows = "model", "the loaders accept the files"
    try:
        return load(), Check("weights", name, Outcome.PASSED, "loaded", shows=shows)
    except ModuleNotFoundError as error:
        detail = f"{error}. Install what inference needs: pip install '.[cpu]'"
        return None, Check("weights", name, Outcome.NOT_RUN, "not loaded", shows=shows, detail=detail)
    except Exception as error:  # the loaders' own classes live in the workspace
        if getattr(error, "code", None) == 2:  # run_predict's Refused
            raise FixTheCommand(str(error)) from error
        known = getattr(error, "code", None) == 5 or type(error).__name__ == "DeviceUnavailable"
        outcome = Outcome.NOT_RUN if known else Outcome.FAILED
        detail = str(error) if known else f"{type(error).__name__}: {error}"
        return None, Check("weights", name, outcome, "not loaded", shows=shows, detail=detail)


def _measure(
    port: Any, files: weights.WeightFiles, pictures: tuple[Path, ...], prompts: answers.Prompts
) -> tuple[Check, ...]:
    from verification.stages import run_stages

    checks = weights.check_loaded(files, port.parameters())
    parity, embeddings = run_stages(port, files, pictures, prompts.questions[0])
    return checks + parity + answers.ask_all(port, embeddings, prompts, bool(files.marker))


def _describe(files: weights.WeightFiles) -> str:
    if files.marker:
        return (
            f"SYNTHETIC (seed {files.marker['seed']}), random numbers in the real formats: {files.llama_model.parent}"
        )
    return f"{files.model_type}, language model {files.llama_model}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that compute, as far as they are installed."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in ("torch", "torch_npu", "transformers", "onnxruntime"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
