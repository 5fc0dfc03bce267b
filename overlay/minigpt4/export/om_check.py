"""A finished OM beside the ONNX model that it was made of: compared, and the result written into its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..models.encoder_record import read_record, write_record
from .atc import check_batches
from .atc_machine import Machine
from .atc_staging import CannotConvert, read_model
from .om_file import describe, failed_name, sha256, take_name
from .om_gate import Gate, gate
from .parity import load_image, random_images


def check(
    om: Path, onnx_model: Path | None, number: int, image: Path | None, batch_sizes: tuple[int, ...] = ()
) -> Gate:
    """Run both, on NPU `number` and on the CPU. -> the result, which has passed.

    onnx_model None: the one beside the OM. image: a picture beside noise. batch_sizes: of a dynamic OM that was made by
    hand. Raises CannotConvert: 1 for a wrong OM, which loses its name; 5 where it could not be compared; 2 for files
    that do not belong together.
    """
    om = om.resolve()
    if om.suffix != ".om" or not om.is_file():
        raise CannotConvert(f"--check {om}: there is no such OM.")
    record = read_record(om)
    onnx_model = onnx_model or om.with_name(record.get("onnx", {}).get("file", om.stem + ".onnx"))
    record = _record(om, onnx_model, record, batch_sizes)
    machine, soc = Machine.find(None), record.get("soc_version")
    if soc and machine.npus and (reason := machine.cannot_compare(soc)):
        raise CannotConvert(f"{om} was not compared: {reason}", 5)
    size = record["image_size"]
    images = {**({image.name: load_image(image, size)} if image else {}), **random_images(size)}
    mode, ln_vision = record["precision_mode"], record.get("ln_vision")
    result = gate(om, onnx_model, number, images, record["batches"], mode, ln_vision)
    record["gate"] = result.asdict()
    if result.status == "failed":
        take_name(om, record)
        said = result.reason or f"rel-L2 {result.rel_l2:.2e} with a bound of {result.bound:.0e}"
        what = f"{om.name} does not compute what {onnx_model.name} does: {said}"
        raise CannotConvert(f"{what}. It is {failed_name(om).name} now.", 1)
    write_record(om, record)
    if result.status == "not run":
        raise CannotConvert(f"{om} was not compared: {result.reason}", 5)
    return result


def _record(om: Path, onnx_model: Path, record: dict[str, Any], batch_sizes: tuple[int, ...]) -> dict[str, Any]:
    """`record`, or a new one, written beside an OM that was made by hand."""
    model = read_model(onnx_model)
    if record:
        if record.get("onnx", {}).get("sha256") not in (None, sha256(onnx_model)):
            raise CannotConvert(f"{om} was not made of {onnx_model}: its record names another file.")
        return {key: value for key, value in record.items() if key not in ("file", "bytes")}
    made = read_record(onnx_model)
    batches = check_batches(model, batch_sizes or (() if model.shape[0] else made.get("batches", ())))
    record = describe(om, model, made, batches, "unknown")
    write_record(om, record)  # a dynamic OM cannot be loaded without one
    return record
