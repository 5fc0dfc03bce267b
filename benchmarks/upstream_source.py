"""Upstream MiniGPT-4 for the benchmarks: a clone, its unpatched ViT, a patched workspace, and its example pictures.

Where upstream cannot be reached, Hugging Face's Blip2VisionModel stands in for the ViT, which is the same computation.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import port_package  # noqa: F401  the overlay's model files become `port.models`
import torch
import torch.nn.functional as F
from port.models.eva_vit_weights import HEAD_DIM, read_weights
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from overlaykit.project import read_upstream
from verification import oracle

PROJECT = Path(__file__).resolve().parents[1]
PIN = read_upstream(PROJECT / "configs" / "upstream.yaml")
EXAMPLES = "examples_v2"
LN_VISION_EPS = 1e-5  # base_model.py:237


class Upstream:
    """A bare clone that holds the pin; where none can be made, `repo` is None and `why` says so."""

    def __init__(self, folder: Path, source: str | None = None) -> None:
        """folder: an empty one for what is made here. source: a URL, folder or bundle to clone from."""
        self.folder, self.repo, self.why = folder, folder / "upstream.git", ""
        source = source or os.environ.get("MINIGPT4_UPSTREAM") or PIN.url
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        pin = f"{PIN.commit}^{{commit}}"
        for command in (
            ["clone", "-q", "--bare", source, str(self.repo)],
            ["-C", str(self.repo), "cat-file", "-e", pin],
        ):
            try:
                done = subprocess.run(["git", *command], env=environment, capture_output=True, text=True, timeout=300)
            except subprocess.TimeoutExpired:
                self.why = "no answer within five minutes"
            else:
                self.why = done.stderr.strip().splitlines()[-1] if done.returncode else ""
            if self.why:
                self.repo = None
                return

    def read(self, path: str) -> bytes:
        """A file at the pin."""
        assert self.repo is not None
        command = ["git", "-C", str(self.repo), "show", f"{PIN.commit}:{path}"]
        return subprocess.run(command, capture_output=True, check=True).stdout

    def pictures(self) -> list[Path]:
        """The pictures of examples_v2, as files."""
        command = ["git", "-C", str(self.repo), "ls-tree", "--name-only", f"{PIN.commit}:{EXAMPLES}"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        target = self.folder / EXAMPLES
        target.mkdir(exist_ok=True)
        found = [target / name for name in names if name.endswith((".jpg", ".png"))]
        for path in found:
            path.write_bytes(self.read(f"{EXAMPLES}/{path.name}"))
        return found

    def workspace(self) -> Path:
        """Upstream with patches/ and overlay/ as they are now."""
        project, target = self.folder / "project", self.folder / "MiniGPT-4"
        for part in ("patches", "overlay", "configs"):
            shutil.copytree(PROJECT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
        for verb in ("lock", "apply"):
            command = [sys.executable, str(PROJECT / "apply.py"), "--project", str(project), verb]
            command += ["--workspace", str(target), "--upstream", str(self.repo)]
            subprocess.run(command, check=True, capture_output=True)
        return target


def source_of(upstream: Upstream) -> str:
    """Which ViT stands beside ours, for a result."""
    return (
        "upstream's own module" if upstream.repo else f"Hugging Face's Blip2VisionModel (no upstream: {upstream.why})"
    )


class TheirEncoder:
    """Upstream's ViT and ln_vision, or Hugging Face's: (B, 3, S, S) -> (B, tokens, width) float32.

    dtype: float32 as it is; float16 and bfloat16 under autocast, as upstream's encode_img runs it. On a CPU float16 is
    computed by HalfProducts.
    """

    def __init__(self, upstream: Upstream, vit: Path, blip2: Path, device: torch.device) -> None:
        self.device = device
        if upstream.repo is None:
            self.model, self.ln_vision = oracle.Encoder(vit, blip2).model.to(device), None
        else:
            self.model, self.ln_vision = _their_vit(upstream, vit, blip2, device)

    def halve(self) -> TheirEncoder:
        """Weights of products in float16, as upstream has them with vit_precision fp16. For an accelerator."""
        for module in self.model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.half()
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        with autocast(self.device, dtype):
            if self.ln_vision is None:
                features = self.model(pixel_values=images).last_hidden_state
            else:
                x = self.model(images).float()  # upstream's LayerNorm computes in float32 whatever it is given
                features = F.layer_norm(x, x.shape[-1:], *self.ln_vision, LN_VISION_EPS)
        return features.float()


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    if dtype == torch.float32:
        return nullcontext()
    if dtype == torch.float16 and device.type == "cpu":
        return HalfProducts(cast=True)
    return torch.autocast(device.type, dtype=dtype)


class HalfProducts(TorchFunctionMode):
    """Products of float16 numbers on a CPU: summed in float32 and rounded once, as an accelerator's matrix unit does.

    A CPU without float16 arithmetic takes ten times as long for torch's own, and sums in no better way. With `cast`,
    products of float32 become such products too: autocast's rule.
    """

    PRODUCTS = (F.linear, torch.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, F.scaled_dot_product_attention)

    def __init__(self, cast: bool = False) -> None:
        super().__init__()
        self.cast = cast

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self.PRODUCTS or not (self.cast or args[0].dtype == torch.float16):
            return func(*args, **kwargs)

        def exact(value: Any) -> Any:
            floating = isinstance(value, Tensor) and value.is_floating_point()
            return value.half().float() if floating else value

        result = func(*map(exact, args), **{name: exact(value) for name, value in kwargs.items()})
        return result.half()


def _their_vit(upstream: Upstream, vit: Path, blip2: Path, device: torch.device) -> tuple[nn.Module, list[Tensor]]:
    geometry, state = read_weights(vit, blip2)
    # Without numbers of its own, except that it asks linspace for plain ones; the file's are put in their place.
    plain = partial(torch.linspace, device="cpu")
    with _eva_vit(upstream) as module, torch.device("meta"), mock.patch.object(torch, "linspace", plain):
        model = module.VisionTransformer(
            img_size=geometry.image_size,
            patch_size=geometry.patch,
            use_mean_pooling=False,
            embed_dim=geometry.width,
            depth=geometry.depth,
            num_heads=geometry.width // HEAD_DIM,
            mlp_ratio=(geometry.hidden + 0.5) / geometry.width,  # upstream rounds it down
            qkv_bias=True,
            norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        )
    missing = model.load_state_dict(state, strict=False, assign=True).missing_keys
    if missing:
        raise RuntimeError(f"upstream's ViT lacks {missing[:3]}")
    model = model.float().eval().requires_grad_(False).to(device)
    return model, [state[f"ln_vision.{end}"].float().to(device) for end in ("weight", "bias")]


@contextmanager
def _eva_vit(upstream: Upstream) -> Iterator[ModuleType]:
    """Upstream's eva_vit.py. Of timm it needs what only training calls, and one two-line helper."""
    layers, registry, downloads = ModuleType("layers"), ModuleType("registry"), ModuleType("dist_utils")
    layers.drop_path = layers.trunc_normal_ = lambda tensor, *_, **__: tensor
    layers.to_2tuple = lambda size: (size, size)
    registry.register_model = lambda function: function
    downloads.download_cached_file = None
    stubs = {"timm.models.layers": layers, "timm.models.registry": registry, "minigpt4.common.dist_utils": downloads}
    for name in ("timm", "timm.models", "minigpt4", "minigpt4.common"):
        stubs[name] = ModuleType(name)
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        module = ModuleType("upstream_eva_vit")
        exec(compile(upstream.read("minigpt4/models/eva_vit.py"), "eva_vit.py", "exec"), module.__dict__)
        yield module
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
