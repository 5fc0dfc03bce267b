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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from overlaykit.errors import FixTheCommand
from verification import present, weights
from verification.answers import ask_all
from verification.gate.golden import GOLDEN, Recording, prepare
from verification.gate.golden import load as load_golden
from verification.gate.pictures import in_order
from verification.prompts import Prompts, check_pictures, find_pictures, load_prompts
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
    sampling: bool = True  # also ask for sampled answers, which take longest
    against: Path | None = None  # a golden; without one the reference computes here
    bundle: Path | None = None  # where to keep what the port computed
    int8: bool = False  # judge the port as `low_resource` loads it
    roofline: bool = False  # measure the device, to set beside the times


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
        return PatchedUpstream(workspace, request.cfg_path, files, request.device, others, request.int8)

    checks = check_tree(request.project, workspace)
    return _verify(f"patched MiniGPT-4 in {workspace}", request, workspace, files, checks, load)


def verify_overlay(request: Request) -> Report:
    """Verify the overlay without upstream; weights must be "tiny" or a folder."""
    files = weights.from_folder(weights_folder(request.weights or TINY))

    def load() -> Any:
        from verification.overlay_alone import OverlayAlone

        return OverlayAlone(request.project / "overlay", files, request.device, request.int8)

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
    prompts = load_prompts(request.project / "configs" / "prompts.yaml")
    pictures = find_pictures(request.images, workspace, prompts)
    golden = _golden(request)
    if golden:
        pictures = in_order(golden, pictures)
    checks += check_pictures(pictures, prompts)
    there = present.check_present(files, request.project / "configs" / "weights.yaml")
    checks += there
    device, hint, operations = request.device, "", ""
    timings: Mapping[str, Any] = {}
    if any(check.outcome is Outcome.NOT_RUN for check in there):
        hint = NEXT_STEP.format(workspace=request.workspace)
    else:
        with contextlib.redirect_stdout(sys.stderr):  # upstream prints its progress
            port, failed = _load(load)
            if port is None:
                checks += (failed,)
            else:
                device, operations = str(port.device), port.operations()
                found, timings = _measure(port, files, pictures, prompts, golden, request)
                checks += found
    synthetic = bool(files.marker)
    return Report(subject, _describe(files), synthetic, device, versions(), checks, hint, operations, pictures, timings)


def _golden(request: Request) -> Recording | None:
    """What --against names. A bundle is prepared for, so that what cannot be written is said before the long work."""
    golden = load_golden(request.against, GOLDEN) if request.against else None
    if request.bundle:
        if not golden:
            raise FixTheCommand(
                "--bundle needs --against.",
                "A bundle is judged by the golden that it was taken for, and of one that is no file nobody has it.",
                "Record one with `python verify.py record --out GOLDEN.npz`.",
            )
        prepare(request.bundle)
    return golden


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
    port: Any, files: weights.WeightFiles, pictures: tuple[Path, ...], prompts: Prompts, golden: Any, request: Request
) -> tuple[tuple[Check, ...], Mapping[str, Any]]:
    """The lines, and Report.timings."""
    import torch

    from verification.gate.run import run_gate
    from verification.roofline import report_timings

    if files.marker:  # so small that a second thread only waits for the first, and burns a core while it does
        torch.set_num_threads(1)
    checks = weights.check_loaded(files, port.parameters())
    limits = request.project / "configs" / "gate.yaml"
    gated = run_gate(port, files, pictures, prompts.questions, limits, golden, versions())
    if request.bundle:
        from verification.gate.bundle import redacted

        redacted(gated.taking).save(request.bundle)
    answers = ask_all(port, gated.embeddings, prompts, bool(files.marker), request.sampling)
    wanted = request.roofline and not files.marker  # the small model lives in a cache: a roofline says nothing of it
    timings = report_timings(gated.taking.about["timings"], port if wanted else None)
    return checks + gated.checks + answers, timings


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
