"""An ONNX model laid out so that every release of ATC reads the right weights: one file per tensor, no offsets.

Why: the ONNX parser of GE, which ATC runs, multiplied `offset` by 4096 in older releases and does not in newer ones
(public sources, onnx_file_constant_parser.cc); so of several tensors in one file only the first is safe everywhere. It
also takes any key but `location` and `offset` for the length. A tensor in a file of its own, with `location` and
`length` and nothing else, means the same to all of them. Older ones look for the file in the current folder, and all
take only plain characters in paths, so the model is laid out in a folder of its own, in which ATC then runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

BLOCK = 1 << 24  # bytes copied at once


class CannotConvert(ValueError):
    """A sentence for the user; `exit_code` is the command's."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class External:
    """One tensor's bytes in a weight file. `whole`: the file holds nothing else."""

    tensor: TensorProto
    file: Path
    offset: int
    length: int
    whole: bool


@dataclass(frozen=True)
class Model:
    """An ONNX file as ATC will see it. shape: of the only input, None for an open dimension."""

    path: Path
    proto: ModelProto  # without the data of external tensors
    externals: tuple[External, ...]
    input_name: str
    shape: tuple[int | None, ...]

    @property
    def weights_bytes(self) -> int:
        return sum(external.length for external in self.externals) or self.path.stat().st_size

    @property
    def precision(self) -> str:
        """mixed | fp32, by the types of the weights."""
        halves = any(tensor.data_type == TensorProto.FLOAT16 for tensor in self.proto.graph.initializer)
        return "mixed" if halves else "fp32"

    @property
    def ln_vision(self) -> str | None:
        """blip2 | default, as the model's own metadata say it; None where they do not."""
        return {entry.key: entry.value for entry in self.proto.metadata_props}.get("ln_vision")

    @property
    def image_size(self) -> int:
        """Pixels. Raises CannotConvert where the input is no batch of square RGB pictures."""
        if len(self.shape) != 4 or self.shape[1] != 3 or not self.shape[2] or self.shape[2] != self.shape[3]:
            raise CannotConvert(
                f"{self.path} takes {self.input_name!r} of shape {list(self.shape)}, and MiniGPT-4's image encoder "
                "takes (B, 3, S, S) with S fixed. Export it with onnx_model_export.py."
            )
        return self.shape[2]


def read_model(path: Path) -> Model:
    """Read the graph, and find every weight file that it names, without reading weights.

    Raises CannotConvert for a file that is no ONNX model, and for weights that are missing, cut off or elsewhere.
    """
    if not path.is_file():
        raise CannotConvert(f"the ONNX model {path} does not exist. Make it with onnx_model_export.py.", 5)
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, whose module differs between releases
        raise CannotConvert(f"{path} cannot be read as an ONNX model: {error}", 5) from error
    inside = {tensor.name for tensor in proto.graph.initializer}
    inputs = [it for it in proto.graph.input if it.name not in inside]
    if len(inputs) != 1 or len(proto.graph.output) != 1:
        raise CannotConvert(
            f"{path} has {len(inputs)} inputs and {len(proto.graph.output)} outputs; the image encoder has one of each."
        )
    sizes = inputs[0].type.tensor_type.shape.dim
    shape = tuple(size.dim_value if size.dim_value > 0 else None for size in sizes)
    externals = tuple(_external(path, tensor) for tensor in _tensors(proto) if _is_external(tensor))
    return Model(path, proto, externals, inputs[0].name, shape)


def bytes_to_copy(model: Model, folder: Path) -> int:
    """What stage() will write into `folder`: tensors that already have a file on that disk are only linked."""
    disk = folder.stat().st_dev
    return sum(it.length for it in model.externals if not (it.whole and it.file.stat().st_dev == disk))


def stage(model: Model, folder: Path, name: str, progress: Callable[[int], Any] = lambda count: None) -> Path:
    """Lay `model` out in the empty `folder` as NAME.onnx and 0000.weight, 0001.weight, … -> NAME.onnx.

    progress: called with the number of bytes done since the last call. Raises OSError where the disk is full.
    """
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    for index, (tensor, external) in enumerate(zip(filter(_is_external, _tensors(proto)), model.externals)):
        target = folder / f"{index:04d}.weight"
        _provide(external, target, progress)
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=target.name)
        tensor.external_data.add(key="length", value=str(external.length))
    path = folder / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def _tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that can have its data outside: weights, and the values of Constant nodes."""
    yield from proto.graph.initializer
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def _external(model: Path, tensor: TensorProto) -> External:
    said = {entry.key: entry.value for entry in tensor.external_data}
    location = PurePosixPath(said.get("location", ""))
    if not location.name or location.is_absolute() or ".." in location.parts:
        raise CannotConvert(f"{model}: tensor {tensor.name} names {str(location)!r}, not a file in the model's folder.")
    file = model.parent / location
    wanted = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    for size in tensor.dims:
        wanted *= size
    try:
        offset, there = int(said.get("offset", 0)), file.stat().st_size
        length = int(said.get("length", wanted))
    except FileNotFoundError as error:
        raise CannotConvert(
            f"the weight file {file} of {model.name} is missing. An ONNX model above 2 GiB is several files: copy the "
            "whole folder, or export it again.", 5
        ) from error  # fmt: skip
    except ValueError as error:
        raise CannotConvert(f"{model}: tensor {tensor.name} says of its data {said}, which are no numbers.") from error
    if length != wanted or offset < 0 or offset + length > there:
        raise CannotConvert(
            f"the weight file {file} has {there} bytes, and tensor {tensor.name} wants {wanted} from byte {offset} on "
            f"(the model says {length}): it is cut off, or of another export. Copy the whole folder again.", 5
        )  # fmt: skip
    return External(tensor, file, offset, length, offset == 0 and length == there)


def _provide(external: External, target: Path, progress: Callable[[int], Any]) -> None:
    """Link the tensor's own file, or copy its part of a shared one."""
    if external.whole:
        try:
            os.link(external.file.resolve(), target)
            progress(external.length)
            return
        except OSError:
            pass  # another disk, or one without hard links, or somebody else's file
    with external.file.open("rb") as source, target.open("wb") as copy:
        source.seek(external.offset)
        left = external.length
        while left:
            block = source.read(min(BLOCK, left))
            if not block:
                raise OSError(f"{external.file} became shorter while it was read")
            copy.write(block)
            left -= len(block)
            progress(len(block))
