"""The image half against upstream's own source at the pin, read from a clone and run in fp32."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from port.models import eva_vit_weights
from port.models.eva_vit_model import load_eva_vit
from vit_files import vit_state, write_files

WIDTH, HIDDEN, BLOCKS = 176, 96, 3
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "upstream.yaml"
pytestmark = pytest.mark.upstream


@pytest.fixture(scope="module")
def read(upstream_repo: Path):
    """read(path) -> upstream's file as text."""

    pin = yaml.safe_load(CONFIG.read_text())["commit"]

    def show(path: str) -> str:
        command = ["git", "-C", str(upstream_repo), "show", f"{pin}:{path}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return show


@pytest.fixture
def eva_vit(read, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Upstream's eva_vit.py. Of timm it needs what only training calls, and one two-line helper."""
    layers, registry, downloads = ModuleType("layers"), ModuleType("registry"), ModuleType("dist_utils")
    layers.drop_path = layers.trunc_normal_ = lambda tensor, *_, **__: tensor
    layers.to_2tuple = lambda size: (size, size)
    registry.register_model = lambda function: function
    downloads.download_cached_file = None
    for name, module in (
        ("timm", ModuleType("timm")),
        ("timm.models", ModuleType("models")),
        ("timm.models.layers", layers),
        ("timm.models.registry", registry),
        ("minigpt4", ModuleType("minigpt4")),
        ("minigpt4.common", ModuleType("common")),
        ("minigpt4.common.dist_utils", downloads),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    module = ModuleType("upstream_eva_vit")
    exec(compile(read("minigpt4/models/eva_vit.py"), "eva_vit.py", "exec"), module.__dict__)
    return module


@pytest.fixture
def upstreams(eva_vit: ModuleType):
    """upstreams(size) -> upstream's module for pictures of `size` pixels, with the weights of vit_state."""

    def build(size: int) -> torch.nn.Module:
        model = eva_vit.VisionTransformer(
            img_size=size,
            patch_size=14,
            use_mean_pooling=False,
            embed_dim=WIDTH,
            depth=BLOCKS - 1,
            num_heads=WIDTH // 88,
            mlp_ratio=HIDDEN / WIDTH,
            qkv_bias=True,
            norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
        ).eval()
        state = vit_state(WIDTH, HIDDEN, BLOCKS, 56)
        eva_vit.interpolate_pos_embed(model, state)
        assert model.load_state_dict(state, strict=False).missing_keys == []
        return model

    return build


@pytest.mark.parametrize("size", [56, 84])
def test_equals_upstreams_own_module(size: int, upstreams, tmp_path: Path) -> None:
    """At the file's own size, and at one for which both interpolate the position embeddings."""
    theirs = upstreams(size)
    ours = load_eva_vit(*write_files(tmp_path, WIDTH, HIDDEN, BLOCKS, 56), image_size=size)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        difference = (ours(images) - ours.ln_vision(theirs(images))).abs().max()
    assert difference <= 1e-5
    theirs.blocks[0].norm1.eps = 1e-5
    with torch.no_grad():
        assert (ours(images) - ours.ln_vision(theirs(images))).abs().max() > 1e-4


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2e-2), (torch.float16, 1e-2)])
@pytest.mark.parametrize("device", [None, torch.device("cpu")], ids=["plain", "packed"])
def test_half_precision_is_as_near_as_upstreams(device, dtype, bound: float, upstreams, tmp_path: Path) -> None:
    """Both against upstream in float32; upstream's half is autocast, as in encode_img on CUDA."""
    theirs, files = upstreams(56), write_files(tmp_path, WIDTH, HIDDEN, BLOCKS, 56)
    ours = load_eva_vit(*files, image_size=56, dtype=dtype, device=device)
    images = torch.randn(8, 3, 56, 56, generator=torch.Generator().manual_seed(3))

    def error(found: torch.Tensor) -> float:
        return float((found.float() - exact).norm() / exact.norm())

    with torch.no_grad():
        exact = ours.ln_vision(theirs(images))
        with torch.autocast("cpu", dtype=dtype):
            upstream_error = error(ours.ln_vision(theirs(images)))
        assert error(ours(images)) <= min(bound, 1.5 * upstream_error)


def test_the_real_geometry_is_upstreams(read) -> None:
    """create_eva_vit_g's numbers, which the loader must find again in the real file."""
    tree = ast.parse(read("minigpt4/models/eva_vit.py"))
    create = next(node for node in tree.body if getattr(node, "name", "") == "create_eva_vit_g")
    call = next(
        node
        for node in ast.walk(create)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "VisionTransformer"
    )
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert int(given["embed_dim"]) == eva_vit_weights.REAL_WIDTH
    assert int(given["depth"]) == eva_vit_weights.REAL_DEPTH
    assert int(eva_vit_weights.REAL_WIDTH * float(given["mlp_ratio"])) == eva_vit_weights.REAL_HIDDEN
    assert given["num_heads"] == f"{eva_vit_weights.REAL_WIDTH} // {eva_vit_weights.HEAD_DIM}"
    assert given["norm_layer"] == "partial(nn.LayerNorm, eps=1e-06)"


def test_model_types_name_their_yaml(read) -> None:
    """onnx_model_export.py finds a model type's YAML by its name; upstream has a table."""
    tree = ast.parse(read("minigpt4/models/minigpt4.py"))
    table = next(
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PRETRAINED_MODEL_CONFIG_DICT"
    )
    assert table
    for kind, path in table.items():
        assert path == f"configs/models/minigpt4_{kind.replace('pretrain_', '', 1)}.yaml"
