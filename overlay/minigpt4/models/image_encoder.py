"""The image half of MiniGPT-4 behind one call: pictures in, features out, whatever runs it.

    encoder = IMAGE_ENCODER_OM("om/eva_vit_g.om", "npu:0")
    features = encoder(images)  # (B, 3, 224, 224) -> (B, 257, 1408)

The file's suffix picks what runs it: `.om` ais_bench on an NPU, `.onnx` onnxruntime, `.pth` PyTorch on any device. The
three runners below have one shape: `image_shape`, `batch` (pictures per call, None for any number), and
`run(images) -> features`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch

from .device import DeviceSpec, DeviceUnavailable, compute_dtype, resolve_device
from .eva_vit_model import load_eva_vit

PathLike = Union[str, Path]


LN_VISION_KEY = "ln_vision"  # of an .onnx file's metadata; the values are those of ln_vision_kind


class IMAGE_ENCODER_OM:  # the name that the seed's edits of upstream import
    """ViT-g and `ln_vision`, callable. Not an nn.Module: the weights are in the file, not in MiniGPT-4's state."""

    num_features = 1408  # channels; upstream sizes the Q-Former's cross-attention by it

    def __init__(self, path: PathLike, device: DeviceSpec = "auto", ln_vision: PathLike | None = None) -> None:
        """path: a .om, .onnx or .pth file, or a folder that holds exactly one eva_vit_g.om or eva_vit_g.onnx.
        device: see device.resolve_device. An .om always runs on an NPU: the one of this number, else number 0.
        ln_vision: BLIP-2's Q-Former file, or None for a model without Q-Former (Llama-2), whose ln_vision is untrained.
        Read with a .pth, see eva_vit_model.load_eva_vit. An .onnx has the layer inside and says which one: the other
        one is refused, since the model would answer nonsense. An .om cannot say it, nor does an .onnx of another
        exporter: these are taken as they are, so keep eva_vit_g and eva_vit_g_llama2 apart.

        Raises FileNotFoundError for a missing file, ValueError for one that is no such encoder, and
        device.DeviceUnavailable when what should run it is missing.
        """
        self.path = _find(path, ln_vision)
        self.device = resolve_device(device)
        runner = {".om": _OmRunner, ".onnx": _OnnxRunner, ".pth": _TorchRunner}[self.path.suffix]
        self._runner = runner(self.path, self.device, ln_vision)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """images: (B, 3, S, S), normalised, floating point, on any device.

        Returns (B, tokens, 1408), float32, on the device of `images`. Raises ValueError when the pictures do not fit
        the file, and RuntimeError when the file gives back something else than features.
        """
        self._check_images(images)
        batch = self._runner.batch or len(images)
        features = [self._run(chunk, batch) for chunk in images.detach().split(batch)]
        return torch.cat(features).to(device=images.device, dtype=torch.float32)

    def _run(self, chunk: torch.Tensor, batch: int) -> torch.Tensor:
        """Up to `batch` pictures; a shorter last chunk is filled up with zeros, since the file's batch is fixed."""
        short = batch - len(chunk)
        if short:
            chunk = torch.cat((chunk, chunk.new_zeros((short, *chunk.shape[1:]))))
        features = self._runner.run(chunk)
        if features.ndim != 3 or features.shape[0] != batch or features.shape[2] != self.num_features:
            raise RuntimeError(
                f"{self.path} answered with shape {tuple(features.shape)}, expected ({batch}, tokens, "
                f"{self.num_features}). It is not MiniGPT-4's image encoder; export it again."
            )
        return features[: batch - short]

    def _check_images(self, images: torch.Tensor) -> None:
        wanted = self._runner.image_shape
        if not images.is_floating_point():
            raise ValueError(f"the image encoder takes normalised float pictures, got {images.dtype}.")
        if images.ndim != 4 or tuple(images.shape[1:]) != wanted or not len(images):
            raise ValueError(
                f"{self.path} takes pictures of shape (B, {', '.join(map(str, wanted))}) with B >= 1, "
                f"got {tuple(images.shape)}. The image size in the model's YAML and in the file must agree."
            )


class _TorchRunner:
    """`.pth`: EvaViT in eager PyTorch on the device itself."""

    batch = None

    def __init__(self, path: Path, device: torch.device, ln_vision: PathLike | None) -> None:
        self.device = device
        self.model = load_eva_vit(path, ln_vision, dtype=compute_dtype(device)).to(device)
        size = self.model.geometry.image_size
        self.image_shape = (3, size, size)

    @torch.no_grad()
    def run(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.to(self.device))


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
        _check_ln_vision(path, self.session.get_modelmeta().custom_metadata_map.get(LN_VISION_KEY), ln_vision)
        taken, given = self.session.get_inputs(), self.session.get_outputs()
        self.dtype = _ONNX_DTYPES.get(taken[0].type) if taken else None
        self.batch, self.image_shape = _signature(path, taken, given, self.dtype)
        self.input_name = taken[0].name

    def run(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.session.run(None, {self.input_name: _to_numpy(images, self.dtype)})[0])


class _OmRunner:
    """`.om`: ais_bench's InferSession on an NPU.

    ais_bench compares byte counts and nothing else: it reads an array of another dtype, rank or memory order as if it
    were the right one, crashes the process on one input too many, and iterates over a bare array. So everything is
    checked here, and it is handed a list with one C-contiguous array.
    """

    def __init__(self, path: Path, device: torch.device, ln_vision: PathLike | None) -> None:
        try:
            interface = importlib.import_module("ais_bench.infer.interface")
        except (ImportError, OSError) as error:
            raise DeviceUnavailable(
                f"{path} needs ais_bench, aclruntime and CANN: install both wheels from Ascend's tools and run "
                "`source /usr/local/Ascend/ascend-toolkit/set_env.sh`. Without an NPU, export an .onnx and set "
                f"`encoder` to it. ({error})"
            ) from error
        number = device.index or 0 if device.type == "npu" else 0
        try:
            with _acl_context_kept():
                # Newer ais_bench refuses symbolic links, so it gets the file itself.
                self.session = interface.InferSession(number, str(path.resolve()))
        except RuntimeError as error:
            raise ValueError(
                f"ais_bench cannot load {path} on NPU {number}: {error}. Check that `npu-smi info` lists the card and "
                "that ATC made the file for its --soc_version."
            ) from error
        taken, given = self.session.get_inputs(), self.session.get_outputs()
        self.dtype = _OM_DTYPES.get(taken[0].datatype.name) if taken else None
        self.batch, self.image_shape = _signature(path, taken, given, self.dtype)
        if self.batch is None:
            raise ValueError(
                f"{path} has a dynamic batch, which needs one of its own batch sizes at every call. Convert it with "
                '--input_shape="input:1,3,224,224"; larger batches are split here.'
            )

    def run(self, images: torch.Tensor) -> torch.Tensor:
        with _acl_context_kept():
            outputs = self.session.infer([_to_numpy(images, self.dtype)])
        return torch.from_numpy(outputs[0])


_ONNX_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_OM_DTYPES = {"float32": np.float32, "float16": np.float16}


def ln_vision_kind(ln_vision: PathLike | None) -> str:
    """Which ln_vision an encoder has inside: "blip2" (trained, from the Q-Former's file) or "default" (untrained)."""
    return "default" if ln_vision is None else "blip2"


def _check_ln_vision(path: Path, inside: str | None, ln_vision: PathLike | None) -> None:
    """inside: what the file says of itself, None when it says nothing."""
    wanted = ln_vision_kind(ln_vision)
    if inside not in (None, wanted):
        right = "eva_vit_g_llama2" if wanted == "default" else "eva_vit_g"
        raise ValueError(
            f"{path} was exported with ln_vision={inside}, and this model needs ln_vision={wanted}: it would answer "
            f"nonsense. Set `encoder` in the model's YAML to {right}.onnx, or export it with the model's own YAML: "
            "python onnx_model_export.py --cfg-path YAML."
        )


def _find(path: PathLike, ln_vision: PathLike | None) -> Path:
    """The encoder's file. The seed names its folder (`${om_model_path}/`), so that is taken too."""
    found = Path(path).expanduser()
    if found.is_dir():
        if ln_vision is None:
            raise ValueError(
                f"the folder {found} stands for its eva_vit_g, which is not the encoder of a model without Q-Former. "
                "Set `encoder` in the model's YAML to the file itself, such as eva_vit_g_llama2.om."
            )
        inside = [file for file in (found / "eva_vit_g.om", found / "eva_vit_g.onnx") if file.is_file()]
        if len(inside) != 1:
            raise FileNotFoundError(
                f"the folder {found} holds {len(inside)} of eva_vit_g.om and eva_vit_g.onnx, and there must be exactly "
                "one. Set `encoder` in the model's YAML to the file itself."
            )
        found = inside[0]
    if found.suffix not in (".om", ".onnx", ".pth"):
        raise ValueError(
            f"the image encoder {str(path)!r} is neither .om, .onnx nor .pth: the suffix picks what runs it."
        )
    if not found.is_file():
        raise FileNotFoundError(
            f"the image encoder {found} does not exist. Set `encoder` in the model's YAML to an .om (NPU), an .onnx "
            "from onnx_model_export.py, or eva_vit_g.pth."
        )
    return found


def _signature(path: Path, taken: list[Any], given: list[Any], dtype: Any) -> tuple[int | None, tuple[int, ...]]:
    """(batch, or None when it is dynamic, and (3, S, S)) of a file that takes pictures and gives one output."""
    shape = list(taken[0].shape) if len(taken) == 1 else []
    fixed = len(shape) == 4 and all(isinstance(n, int) and n > 0 for n in shape[1:])
    if dtype is None or not fixed or shape[1] != 3 or len(given) != 1:
        raise ValueError(
            f"{path} has inputs {[(t.name, list(t.shape)) for t in taken]} and {len(given)} outputs; MiniGPT-4's image "
            "encoder has one float input (B, 3, S, S) and one output. Make it with onnx_model_export.py."
        )
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    return batch, tuple(shape[1:])


def _to_numpy(images: torch.Tensor, dtype: Any) -> np.ndarray:
    """A plain C-contiguous array of the file's own dtype, on the host."""
    return np.ascontiguousarray(images.to("cpu", torch.float32).numpy(), dtype=dtype)


@contextlib.contextmanager
def _acl_context_kept() -> Iterator[None]:
    """torch_npu and aclruntime share one ACL: give torch_npu its current context back after aclruntime set its own."""
    try:
        acl = importlib.import_module("acl")
    except (ImportError, OSError):
        yield
        return
    context, failed = acl.rt.get_context()
    try:
        yield
    finally:
        if not failed:
            acl.rt.set_context(context)
