"""The four torchvision transforms that upstream's image processors use, from Pillow, NumPy and torch alone.

torchvision has no build beside every torch that an NPU needs. Each class takes the arguments that
minigpt4/processors/blip_processors.py:76-85 passes and gives the same bits as its torchvision namesake.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, Callable

import numpy as np
import torch
from PIL import Image


class InterpolationMode(Enum):
    """Resampling filters by torchvision's names."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


_FILTERS = {InterpolationMode.BILINEAR: Image.BILINEAR, InterpolationMode.BICUBIC: Image.BICUBIC}


class Compose:
    """Apply the transforms in order."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, item: Any) -> Any:
        for transform in self.transforms:
            item = transform(item)
        return item


class Resize:
    """Resize a PIL picture to `size` = (height, width) pixels; the picture's shape is not kept."""

    def __init__(self, size: tuple[int, int], interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> None:
        self.size = size
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        return image.resize((width, height), _FILTERS[self.interpolation])


class ToTensor:
    """A PIL picture of 8-bit channels becomes a float32 tensor (channels, height, width) in [0, 1]."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        pixels = np.array(image, dtype=np.uint8, copy=True)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class Normalize:
    """(x - mean) / std for each channel of a float tensor (channels, height, width)."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = mean
        self.std = std

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        mean = torch.as_tensor(self.mean, dtype=tensor.dtype).view(-1, 1, 1)
        std = torch.as_tensor(self.std, dtype=tensor.dtype).view(-1, 1, 1)
        return tensor.clone().sub_(mean).div_(std)
