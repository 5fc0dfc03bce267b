"""Record what upstream's eval transform makes of the sample pictures, with the real torchvision.

    python tests/upstream/record_pixels.py MiniGPT-4/examples_v2 > tests/upstream/pixels.json

Needs torchvision beside torch, in an environment of its own: torchvision has no CPU build, so its operators are
absent on a CPU build of torch. The transforms do not use them; two definitions let the package import.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import PIL
import torch
from PIL import Image

# minigpt4/processors/blip_processors.py:21-24 at the pin
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def digest(tensor: torch.Tensor) -> str:
    """sha256 of the bytes of a float32 tensor (3, 224, 224)."""
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, 224, 224)
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def main(folder: str) -> None:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
    from torchvision import transforms
    from torchvision.transforms.functional import InterpolationMode

    transform = transforms.Compose(
        [
            transforms.Resize((224, 224), interpolation=InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    pictures = sorted(p for p in Path(folder).iterdir() if p.suffix in (".jpg", ".png"))
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__}
    hashes = {p.name: digest(transform(Image.open(p).convert("RGB"))) for p in pictures}
    json.dump({"recorded_with": versions, "sha256": hashes}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main(sys.argv[1])
