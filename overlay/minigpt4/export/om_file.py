"""Where an OM comes into being: a folder beside its place, in which everything stays until the OM is good."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..models.encoder_record import record_path, write_record
from .atc_staging import CannotConvert, Model, bytes_to_copy

MODE = 0o640  # newer ais_bench refuses a model that its group or others may write to
SPARE = 1 << 28  # bytes for what ATC writes beside the OM


def check_place(om_dir: Path, name: str) -> Path:
    """The path of NAME.om in `om_dir`, symbolic links followed. Raises CannotConvert for one that cannot be used."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise CannotConvert(
            f"the OM would be called {name}.om after its ONNX model, and ais_bench takes only letters without accents, "
            "digits, - and _ in a name: export with another --name."
        )
    folder = om_dir.expanduser().resolve()
    odd = sorted(set(re.sub(r"[A-Za-z0-9_/.-]", "", str(folder))))
    if odd:
        raise CannotConvert(
            f"--om-dir: {folder} has {', '.join(map(repr, odd))} in its path; ATC and ais_bench take only letters "
            "without accents, digits and _ - . / there. Give another folder."
        )
    return folder / f"{name}.om"


@contextlib.contextmanager
def converting(om: Path) -> Iterator[Path]:
    """An empty folder NAME.converting beside `om`, this process's alone; removed in the end, however it ends.

    What an earlier run left, that could not clean up, goes first. Raises CannotConvert where another run is at work.
    """
    folder = om.with_suffix(".converting")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise CannotConvert(f"--om-dir: nothing can be written into {om.parent} ({error.strerror}).") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock.fileno()).st_ino != (folder / "lock").stat().st_ino:
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as error:
            raise CannotConvert(f"{om} is being made by another run just now; wait for it.", 5) from error
        try:
            work = folder / "work"
            shutil.rmtree(work, ignore_errors=True)
            (work / "out").mkdir(parents=True)
            yield work
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def check_space(model: Model, folder: Path) -> None:
    """Room for the copied weights and an OM as large as the model. Raises CannotConvert, with the numbers."""
    needed = bytes_to_copy(model, folder) + model.weights_bytes + SPARE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CannotConvert(
            f"--om-dir: the conversion needs about {needed / 1e9:.1f} GB on the disk of {folder.parents[1]}, and "
            f"{free / 1e9:.1f} GB are free. Make room, or give a folder on another disk.", 5
        )  # fmt: skip


def produced(out: Path, name: str) -> Path | None:
    """The OM that ATC wrote into `out`, sealed and called NAME.om; None where there is no usable one.

    Some releases append the host to the name of a dynamic model: NAME_linux_aarch64.om.
    """
    found = [file for file in out.glob("*.om") if file.stat().st_size]
    if len(found) != 1:
        return None
    om = out / f"{name}.om"
    os.replace(found[0], om)
    os.chmod(om, MODE)
    return om


def publish(om: Path, final: Path) -> None:
    """Move a finished OM and its record to where they belong, in place of earlier ones of that name."""
    record_path(final).unlink(missing_ok=True)  # killed below, there is an OM without a record, never with a wrong one
    os.replace(om, final)
    os.replace(record_path(om), record_path(final))


def describe(om: Path, model: Model, made: dict[str, Any], batches: tuple[int, ...], mode: str) -> dict[str, Any]:
    """The record of `om`, which was converted from `model` and not compared yet. made: the model's own record."""
    return {
        "sha256": sha256(om), "kind": "om", "batches": list(batches), "image_size": model.image_size,
        "ln_vision": made.get("ln_vision") or model.ln_vision, "precision_mode": mode,
        "onnx": made or {"file": model.path.name, "sha256": sha256(model.path), "precision": model.precision},
        "gate": {"status": "not run"},
    }  # fmt: skip


def failed_name(om: Path) -> Path:
    """Where an OM goes that does not compute what the ONNX model computes: nothing loads it from there by default."""
    return om.with_name(f"{om.stem.removesuffix('.failed')}.failed.om")


def take_name(om: Path, record: dict[str, Any]) -> None:
    """Call a wrong OM so. record: of it."""
    record_path(om).unlink(missing_ok=True)
    os.replace(om, failed_name(om))
    write_record(failed_name(om), record)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def advice(record: dict[str, Any]) -> str:
    """What to try when ATC's file does not compute what the model says."""
    mode, made = record["precision_mode"], record["onnx"].get("precision")
    if mode != "origin" and made == "mixed":
        return "Convert it with --precision-mode origin, which keeps the types that the export chose."
    if mode != "origin":
        return "Export with onnx_model_export.py --dtype mixed, which needs no guess by ATC, and convert that."
    return (
        "Nothing was rounded by choice, so this is a fault of the conversion: try another --opset, or another release "
        "of CANN, and look whether --soc-version names this processor."
    )
