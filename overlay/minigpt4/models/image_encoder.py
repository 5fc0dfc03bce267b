"""The image half of MiniGPT-4 behind one call: pictures in, features out, whatever runs it.

    encoder = IMAGE_ENCODER_OM("om/eva_vit_g.om", "npu:0")
    features = encoder(images)  # (B, 3, 224, 224) -> (B, 257, 1408)

The file's suffix picks what runs it: `.om` ais_bench on an NPU (om_runner.py), `.onnx` onnxruntime, `.pth` PyTorch on
any device. The three runners have one shape: `image_shape`, `batches` (the batch sizes that they take, ascending, None
for any), `run(images) -> features`, and `close()`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .device import DeviceSpec, DeviceUnavailable, compute_dtype, resolve_device
from .encoder_files import (
    LN_VISION_KEY,
    PathLike,
    check_ln_vision,
    find_file,
    signature,
    to_numpy,
)
from .eva_vit_graph import FastEvaViT
from .eva_vit_model import load_eva_vit
from .om_runner import OmRunner
from .om_session import EncoderFailed

KEPT_PICTURES = 8  # most that `__call__` keeps: a conversation's, not those of a benchmark's batches


class IMAGE_ENCODER_OM:  # the name that the seed's edits of upstream import
    """ViT-g and `ln_vision`, callable. Not an nn.Module: the weights are in the file, not in MiniGPT-4's state.

    Of use in a `with`, or with `close()`, where device memory is needed again before the process ends.
    """

    num_features = 1408  # channels; upstream sizes the Q-Former's cross-attention by it

    def __init__(
        self,
        path: PathLike,
        device: DeviceSpec = "auto",
        ln_vision: PathLike | None = None,
        image_size: int | None = None,
    ) -> None:
        """path: a .om, .onnx or .pth file, or a folder that holds exactly one eva_vit_g.om or eva_vit_g.onnx.
        device: see device.resolve_device. An .om always runs on an NPU: the one of this number, else number 0.
        ln_vision: BLIP-2's Q-Former file, or None for a model without Q-Former (Llama-2), whose ln_vision is untrained.
        Read with a .pth, see eva_vit_model.load_eva_vit. An .onnx has the layer inside and says which one, and the
        record beside an .om says it: the other one is refused, since the model would answer nonsense. Without a
        record, or from another exporter, files are taken as they are: keep eva_vit_g and eva_vit_g_llama2 apart.
        image_size: pixels. A .pth takes on any multiple of 14, 224 where None; the others were exported for one size.

        Raises FileNotFoundError for a missing file, ValueError for one that is no such encoder, that its runtime
        refuses, or that takes pictures of another size, and device.DeviceUnavailable when what should run it is
        missing.
        """
        self.path = find_file(path, ln_vision)
        self.device = resolve_device(device)
        torch_runner = functools.partial(_TorchRunner, image_size=image_size or 224)
        runner = {".om": OmRunner, ".onnx": _OnnxRunner, ".pth": torch_runner}[self.path.suffix]
        self._runner: Any = runner(self.path, self.device, ln_vision)
        taken = tuple(self._runner.image_shape)
        if image_size and taken != (3, image_size, image_size):
            self._runner.close()
            raise ValueError(
                f"{self.path} takes pictures of shape {taken}, and image_size is {image_size} in the model's YAML. "
                f"Export it for that size (onnx_model_export.py --image-size {image_size}), or change the YAML."
            )
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None  # the last pictures, and their features

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """As `encode`, but pictures that are, value by value, those of the last call are not computed again: a
        conversation asks about the same picture more than once.
        """
        kept = self._kept  # read once: another thread may replace it
        if kept is not None and _same(images, kept[0]):
            return kept[1].clone()
        features = self.encode(images)
        if len(images) <= KEPT_PICTURES:
            self._kept = images.detach().clone(), features.clone()
            if self._runner is None:  # closed meanwhile by another thread, which found nothing to forget yet
                self._kept = None
        return features

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """images: (B, 3, S, S), normalised, floating point, on any device.

        Returns (B, tokens, 1408), float32, on the device of `images`. Raises ValueError when the pictures do not fit
        the file, and EncoderFailed when it gives back something else than features, fails, or has been closed.
        """
        runner = self._runner  # read once, as above
        if runner is None:
            raise EncoderFailed(f"the image encoder {self.path} has been closed.")
        self._check_images(images, runner.image_shape)
        images, features = images.detach(), []
        for count, batch in plan(len(images), runner.batches):
            features.append(self._run(runner, images[:count], batch))
            images = images[count:]
        return torch.cat(features).to(device=images.device, dtype=torch.float32)

    def compile(self) -> None:
        """Let torch.compile fuse what lies between the products, of a .pth on CUDA: eva_vit_graph.py.

        Takes effect when a number of pictures comes the second time, which then takes tens of seconds. Raises
        ValueError where nothing is compiled.
        """
        if self.path.suffix != ".pth" or self.device.type != "cuda":
            raise ValueError(f"{self.path} on {self.device}: only a .pth on CUDA can be compiled.")
        self._runner.fast.compile_blocks = True

    @property
    def compiled(self) -> bool:
        """Whether `compile` was asked for and has not failed."""
        return bool(self._runner and getattr(self._runner, "fast", None) and self._runner.fast.compile_blocks)

    def close(self) -> None:
        """Give the memory back, an NPU's too. May be called again; `encode` may not."""
        runner, self._runner, self._kept = self._runner, None, None
        if runner is not None:
            runner.close()

    def __enter__(self) -> IMAGE_ENCODER_OM:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, runner: Any, chunk: torch.Tensor, batch: int) -> torch.Tensor:
        """Up to `batch` pictures; fewer are filled up with zeros, since the file takes just this many."""
        short = batch - len(chunk)
        if short:
            chunk = torch.cat((chunk, chunk.new_zeros((short, *chunk.shape[1:]))))
        features = runner.run(chunk)
        if features.ndim != 3 or features.shape[0] != batch or features.shape[2] != self.num_features:
            raise EncoderFailed(
                f"{self.path} answered with shape {tuple(features.shape)}, expected ({batch}, tokens, "
                f"{self.num_features}). It is not MiniGPT-4's image encoder; export it again."
            )
        return features[: batch - short]

    def _check_images(self, images: torch.Tensor, wanted: tuple[int, ...]) -> None:
        if not images.is_floating_point():
            raise ValueError(f"the image encoder takes normalised float pictures, got {images.dtype}.")
        if images.ndim != 4 or tuple(images.shape[1:]) != wanted or not len(images):
            raise ValueError(
                f"{self.path} takes pictures of shape (B, {', '.join(map(str, wanted))}) with B >= 1, "
                f"got {tuple(images.shape)}. The image size in the model's YAML and in the file must agree."
            )


def plan(count: int, batches: tuple[int, ...] | None) -> list[tuple[int, int]]:
    """How `count` pictures are run: (pictures, batch) of each call. batches: as a runner has it.

    The largest batch as long as there are more pictures than it holds, then the smallest that holds the rest.
    """
    if batches is None:
        return [(count, count)]
    largest, calls = max(batches), []
    while count > largest:
        calls.append((largest, largest))
        count -= largest
    return [*calls, (count, min(batch for batch in batches if batch >= count))]


def _same(images: torch.Tensor, kept: torch.Tensor) -> bool:
    """Compared where they are; NaN is like nothing else."""
    alike = (images.shape, images.dtype, images.device) == (kept.shape, kept.dtype, kept.device)
    return alike and torch.equal(images, kept)


class _TorchRunner:
    """`.pth`: EvaViT in PyTorch on the device itself."""

    batches = None

    def __init__(self, path: Path, device: torch.device, ln_vision: PathLike | None, image_size: int) -> None:
        self.model = load_eva_vit(path, ln_vision, image_size, compute_dtype(device), device)
        self.fast = FastEvaViT(self.model, device)
        self.image_shape = (3, image_size, image_size)

    def run(self, images: torch.Tensor) -> torch.Tensor:
        return self.fast(images)

    def close(self) -> None:
        """Its memory goes with the last reference, which may be a call's in another thread."""


class _OnnxRunner:
    """`.onnx`: onnxruntime, on the CPU or, where its CUDA build is installed and the device is CUDA, there."""

    def __init__(self, path: Path, device: torch.device, ln_vision: PathLike | None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise DeviceUnavailable(f"{path} needs onnxruntime: pip install onnxruntime. ({error})") from error
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=providers)
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise ValueError(
                f"onnxruntime cannot load {path}. A large model's weights lie in files beside it: copy the whole "
                f"folder, or export it again. ({error})"
            ) from error
        check_ln_vision(path, self.session.get_modelmeta().custom_metadata_map.get(LN_VISION_KEY), ln_vision)
        taken, given = self.session.get_inputs(), self.session.get_outputs()
        self.dtype = _ONNX_DTYPES.get(taken[0].type) if taken else None
        batch, self.image_shape = signature(path, taken, given, self.dtype)
        self.batches = (batch,) if batch else None
        self.input_name = taken[0].name

    def run(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.session.run(None, {self.input_name: to_numpy(images, self.dtype)})[0])

    def close(self) -> None:
        """As _TorchRunner's."""


_ONNX_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
